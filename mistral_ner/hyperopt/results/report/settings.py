"""The figures of how settings relate to the metric: parallel coordinates, importance, slices."""

from __future__ import annotations

import html
import math
import random
import warnings
from typing import Any

import optuna

from mistral_ner.hyperopt.results.report.figure import (
    STATE_COLOURS,
    Figure,
    build_axes,
    describe_trial,
    escape,
    group_by_state,
)
from mistral_ner.hyperopt.results.report.rows import StudyRows, TrialRow
from mistral_ner.hyperopt.study.event_log import format_value
from mistral_ner.training.checkpoint import find_best

_ENOUGH_FOR_IMPORTANCE = 4  # trials
_FEW_FOR_IMPORTANCE = 30  # trials: with fewer the shares may be chance, and the page says so
_MOST_TO_RESAMPLE = 100  # trials: of more, drawing them again takes long and moves little
_RESAMPLES = 10
_MOST_FOR_IMPORTANCE = 400  # fANOVA's time grows with their square: 3 s for 400, 13 s for 800


def build_parallel(rows: StudyRows) -> Figure:
    """Build the figure that draws the settings and value of each trial as a line."""
    about = "Each line is a trial; drag along an axis to select some. Axes with a log scale say so."
    name, title = "parallel", "Parallel coordinates"
    trials = [trial for trial in rows.trials if trial.best is not None]
    if len(trials) < 2:
        return Figure(name, title, about, missing="it needs two trials with a report")
    values = [trial.best for trial in trials]
    dimensions = [_dimension(parameter, axis, trials) for parameter, axis in rows.kinds.items()]
    dimensions.append({"label": escape(rows.metric), "values": values})
    line = {
        "color": values,
        "colorscale": [[0, "@mute"], [0.5, "@line2"], [1, "@accent"]],
        "reversescale": rows.sign < 0,
        "showscale": False,
    }
    data = [{"type": "parcoords", "line": line, "dimensions": dimensions}]
    return Figure(name, title, about, data, {"margin": {"t": 60, "l": 60, "r": 60}, "minwidth": 110 * len(dimensions)})


def _dimension(parameter: str, axis: str, trials: list[TrialRow]) -> dict[str, Any]:
    raw = [trial.params.get(parameter) for trial in trials]
    known = [value for value in raw if value is not None]
    if axis == "category" or len(known) < len(raw) or not all(isinstance(value, int | float) for value in known):
        numbers = all(isinstance(value, int | float) for value in known)
        # as numbers, not as text: 4 comes before 16
        names = list(dict.fromkeys(map(_name, sorted(known, key=None if numbers else str))))
        names += [_name(None)] * (len(known) < len(raw))
        ticks = list(range(len(names)))
        values = [names.index(_name(value)) for value in raw]
        # a setting that is rarely in play may have too many values for ticks
        few = names if len(names) <= 12 else []
        return {
            "label": escape(parameter),
            "values": values,
            "tickvals": ticks[: len(few)],
            "ticktext": [html.escape(name) for name in few],
        }
    if axis == "log" and min(known) > 0:
        logs = [math.log10(value) for value in known]
        low, high = min(logs), max(logs)
        places = [low, (low + high) / 2, high] if high > low else [low]
        ticks_text = [f"{10**place:.2g}" for place in places]
        return {"label": f"{escape(parameter)} (log)", "values": logs, "tickvals": places, "ticktext": ticks_text}
    return {"label": escape(parameter), "values": known}


def _name(value: object) -> str:
    return "(not in play)" if value is None else format_value(value)


def build_importance(rows: StudyRows) -> Figure:
    """Build the figure of the share of the metric's variance that each parameter explains."""
    name, title = "importance", "Parameter importance"
    study, reports, ended = _build_scored_study(rows)
    budget = "their whole budget" if reports == rows.reports_per_trial else f"report {reports}, which all had reached"
    about = (
        "Optuna's fANOVA: the share of the metric's variance that a parameter explains. Stopped trials count too, "
        f"because the others are only those that did well. All are compared at {budget}, so that no trial "
        "looks worse because it was stopped. Parameters that are not in play in every trial are left out."
    )
    if ended > _MOST_FOR_IMPORTANCE:
        about += f" It uses {_MOST_FOR_IMPORTANCE} of {ended} trials, drawn at random."
    if ended < _FEW_FOR_IMPORTANCE:
        about += f" From {ended} trials this is a rough guess: even the order of the parameters may be chance."
    if len(rows.kinds) < 2:
        return Figure(name, title, about, missing="only one parameter is searched, so it explains everything")
    if len(study.trials) < _ENOUGH_FOR_IMPORTANCE or len({trial.value for trial in study.trials}) < 2:
        return Figure(name, title, about, missing=f"it needs {_ENOUGH_FOR_IMPORTANCE} trials with different values")
    found = _weigh(study, trees=64)
    if not found:
        return Figure(name, title, about, missing="no parameter was in play in every trial with different values")
    names = list(reversed(found))
    bars = {
        "type": "bar",
        "orientation": "h",
        "marker": {"color": "@accent"},
        "hoverinfo": "none",
        "x": [found[parameter] for parameter in names],
        "y": [escape(parameter) for parameter in names],
    }
    if moved := _resample(study):
        about += f" The thin lines show how far a share moves when the trials are drawn again, {_RESAMPLES} times."
        bars["error_x"] = _build_error_bars([(found[one], [share[one] for share in moved]) for one in names])
    layout = build_axes("share of variance", "")
    texts = [f"{escape(parameter)} {found[parameter]:.0%}" for parameter in names]
    layout["yaxis"].update(type="category", automargin=True, tickvals=list(range(len(names))), ticktext=texts)
    return Figure(name, title, about, [bars], {**layout, "height": 120 + 34 * len(names)})


def _weigh(study: optuna.Study, trees: int) -> dict[str, float]:
    """Return the share of the metric's variance by parameter, the largest first."""
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0, n_trees=trees)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _resample(study: optuna.Study) -> list[dict[str, float]]:
    """Return the shares for each of several draws of the trials with replacement; none for very many trials."""
    trials, rng = study.get_trials(deepcopy=False), random.Random(0)
    if len(trials) > _MOST_TO_RESAMPLE:
        return []
    draws = [rng.choices(trials, k=len(trials)) for _ in range(_RESAMPLES)]
    shares = []
    for draw in draws:
        if len({trial.value for trial in draw}) > 1:
            again = optuna.create_study(direction=study.direction)
            again.add_trials(draw)
            shares.append(_weigh(again, trees=16))
    return shares


def _build_error_bars(shares: list[tuple[float, list[float]]]) -> dict[str, Any]:
    """Return error bars from each share to the least and the greatest of its draws."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, max(drawn) - share) for share, drawn in shares],
        "arrayminus": [max(0.0, share - min(drawn)) for share, drawn in shares],
        "color": "@mute",
        "thickness": 1.5,
    }


def _build_scored_study(rows: StudyRows) -> tuple[optuna.Study, int, int]:
    """Return an in-memory study of the trials that ended, each with its best value up to the same report.

    Returns:
        The study; that report, which is the last that all of them made; and the number of trials that ended. If there
        are too many, the study holds a random sample of them.
    """
    study = optuna.create_study(direction="maximize" if rows.sign > 0 else "minimize")
    values = {t.number: t.values for t in rows.trials if t.values and t.state in ("completed", "stopped early")}
    common = min((max(made) for made in values.values()), default=rows.reports_per_trial)
    drawn = set(random.Random(0).sample(sorted(values), min(len(values), _MOST_FOR_IMPORTANCE)))
    for trial in rows.frozen:
        if trial.number not in drawn:
            continue
        made = {report: value for report, value in values[trial.number].items() if report <= common}
        if best := find_best(made, rows.sign):
            study.add_trial(
                optuna.trial.create_trial(value=best[1], params=trial.params, distributions=trial.distributions)
            )
    return study, common, len(values)


def build_slices(rows: StudyRows) -> Figure:
    """Build the figure of the metric against each parameter."""
    about = "The best report of each trial, against one setting at a time."
    scored = [trial for trial in rows.trials if trial.best is not None]
    if not scored:
        return Figure("slices", "Slices", about, missing="no trial has reported yet")
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"grid": {"columns": 1, "rows": len(rows.kinds), "pattern": "independent", "ygap": 0.45}}
    for place, (parameter, axis) in enumerate(rows.kinds.items(), 1):
        suffix = "" if place == 1 else str(place)
        for state, group in group_by_state([trial for trial in scored if parameter in trial.params]):
            values = [trial.params[parameter] for trial in group]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": state,
                    "legendgroup": state,
                    "xaxis": f"x{suffix}",
                    "yaxis": f"y{suffix}",
                    "hoverinfo": "text",
                    "showlegend": not any(trace["name"] == state for trace in data),
                    "x": [escape(value) for value in values] if axis == "category" else values,
                    "y": [trial.best for trial in group],
                    "marker": {"color": STATE_COLOURS[state], "size": 8},
                    "text": [
                        describe_trial(trial, f"{escape(rows.metric)} {format_value(trial.best)}") for trial in group
                    ],
                }
            )
        layout[f"xaxis{suffix}"] = {
            "title": {"text": escape(parameter)},
            "type": axis,
            **_ticks(scored, parameter, axis),
        }
        layout[f"yaxis{suffix}"] = {"title": {"text": escape(rows.metric)}}
    return Figure("slices", "Slices", about, data, {**layout, "height": 90 + 230 * len(rows.kinds)})


def _ticks(trials: list[TrialRow], parameter: str, axis: str) -> dict[str, Any]:
    if axis != "category":
        return {"dtick": 1, "exponentformat": "power"} if axis == "log" else {}
    values = [trial.params[parameter] for trial in trials if parameter in trial.params]
    numbers = all(isinstance(value, int | float) for value in values)
    names = dict.fromkeys(escape(value) for value in (sorted(values) if numbers else sorted(values, key=str)))
    return {"categoryorder": "array", "categoryarray": list(names)}
