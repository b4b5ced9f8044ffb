"""The figures that set a trial's settings against its metric: parallel coordinates, importance, slices."""

from __future__ import annotations

import html
import math
import random
import warnings
from typing import Any

import optuna

from mistral_ner.hyperopt.report.figure import STATE_COLOURS, Figure, axes, by_state, hover, text
from mistral_ner.hyperopt.report.rows import StudyRows, TrialRow
from mistral_ner.hyperopt.watch import shown

_ENOUGH_FOR_IMPORTANCE = 4  # trials
_MOST_FOR_IMPORTANCE = 400  # fANOVA's time grows with their square: 3 s for 400, 13 s for 800


def parallel(rows: StudyRows) -> Figure:
    """Settings and value of each trial as a line."""
    about = "A line is a trial; drag along an axis to keep some of them. Ranges on a log scale are labelled so."
    name, title = "parallel", "Parallel coordinates"
    trials = [trial for trial in rows.trials if trial.best is not None]
    if len(trials) < 2:
        return Figure(name, title, about, missing="takes two trials with a report")
    values = [trial.best for trial in trials]
    dimensions = [_dimension(parameter, axis, trials) for parameter, axis in rows.kinds.items()]
    dimensions.append({"label": text(rows.metric), "values": values})
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
        # a setting that is seldom in play may have too many values for ticks
        few = names if len(names) <= 12 else []
        return {
            "label": text(parameter),
            "values": values,
            "tickvals": ticks[: len(few)],
            "ticktext": [html.escape(name) for name in few],
        }
    if axis == "log" and min(known) > 0:
        logs = [math.log10(value) for value in known]
        low, high = min(logs), max(logs)
        places = [low, (low + high) / 2, high] if high > low else [low]
        ticks_text = [f"{10**place:.2g}" for place in places]
        return {"label": f"{text(parameter)} (log)", "values": logs, "tickvals": places, "ticktext": ticks_text}
    return {"label": text(parameter), "values": known}


def _name(value: object) -> str:
    return "(not in play)" if value is None else shown(value)


def importance(rows: StudyRows) -> Figure:
    """How much of the metric's variance each parameter explains."""
    name, title = "importance", "Parameter importance"
    study, reports, ended = _scored_study(rows)
    budget = "their whole budget" if reports == rows.reports_per_trial else f"report {reports}, which all had reached"
    about = (
        "Optuna's fANOVA: the share of the metric's variance that a parameter explains. Stopped trials count too: "
        f"without them only the settings that did well would be asked. All are compared at {budget}, so that none "
        "looks worse for having been stopped. Parameters that are only sometimes in play are left out."
    )
    if ended > _MOST_FOR_IMPORTANCE:
        about += f" Asked are {_MOST_FOR_IMPORTANCE} of {ended} trials, drawn at random."
    if len(rows.kinds) < 2:
        return Figure(name, title, about, missing="one parameter is searched, and explains all there is")
    if len(study.trials) < _ENOUGH_FOR_IMPORTANCE or len({trial.value for trial in study.trials}) < 2:
        return Figure(name, title, about, missing=f"takes {_ENOUGH_FOR_IMPORTANCE} trials of different values")
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if not found:
        return Figure(name, title, about, missing="no parameter was in play in every trial with more than one value")
    names = list(reversed(found))
    bars = {
        "type": "bar",
        "orientation": "h",
        "marker": {"color": "@accent"},
        "hoverinfo": "none",
        "x": [found[parameter] for parameter in names],
        "y": [text(parameter) for parameter in names],
        "text": [f"{found[parameter]:.0%}" for parameter in names],
        "textposition": "auto",
    }
    layout = axes("share of variance", "")
    layout["yaxis"].update(type="category", automargin=True)
    return Figure(name, title, about, [bars], {**layout, "height": 120 + 34 * len(names)})


def _scored_study(rows: StudyRows) -> tuple[optuna.Study, int, int]:
    """Return an in-memory study of trials that ended, each with its best value until one report.

    Returns:
        The study, that report, which is the last one that all of them made, and how many have ended: of very many the
        study holds some, drawn at random.
    """
    study = optuna.create_study(direction="maximize" if rows.sign > 0 else "minimize")
    values = {t.number: t.values for t in rows.trials if t.values and t.state in ("completed", "stopped early")}
    common = min((max(made) for made in values.values()), default=rows.reports_per_trial)
    drawn = set(random.Random(0).sample(sorted(values), min(len(values), _MOST_FOR_IMPORTANCE)))
    for trial in rows.frozen:
        if trial.number not in drawn:
            continue
        made = [value for report, value in values.get(trial.number, {}).items() if report <= common]
        if made:
            best = max(made, key=lambda value: rows.sign * value)
            study.add_trial(
                optuna.trial.create_trial(value=best, params=trial.params, distributions=trial.distributions)
            )
    return study, common, len(values)


def slices(rows: StudyRows) -> Figure:
    """The metric against each parameter."""
    about = "Each trial's best report against one setting at a time."
    scored = [trial for trial in rows.trials if trial.best is not None]
    if not scored:
        return Figure("slices", "Slices", about, missing="no trial has reported yet")
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"grid": {"columns": 1, "rows": len(rows.kinds), "pattern": "independent", "ygap": 0.45}}
    for place, (parameter, axis) in enumerate(rows.kinds.items(), 1):
        suffix = "" if place == 1 else str(place)
        for state, group in by_state([trial for trial in scored if parameter in trial.params]):
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
                    "x": [text(value) for value in values] if axis == "category" else values,
                    "y": [trial.best for trial in group],
                    "marker": {"color": STATE_COLOURS[state], "size": 8},
                    "text": [hover(trial, f"{text(rows.metric)} {shown(trial.best)}") for trial in group],
                }
            )
        layout[f"xaxis{suffix}"] = {"title": {"text": text(parameter)}, "type": axis, **_ticks(scored, parameter, axis)}
        layout[f"yaxis{suffix}"] = {"title": {"text": text(rows.metric)}}
    return Figure("slices", "Slices", about, data, {**layout, "height": 90 + 230 * len(rows.kinds)})


def _ticks(trials: list[TrialRow], parameter: str, axis: str) -> dict[str, Any]:
    if axis != "category":
        return {"dtick": 1, "exponentformat": "power"} if axis == "log" else {}
    values = [trial.params[parameter] for trial in trials if parameter in trial.params]
    numbers = all(isinstance(value, int | float) for value in values)
    names = dict.fromkeys(text(value) for value in (sorted(values) if numbers else sorted(values, key=str)))
    return {"categoryorder": "array", "categoryarray": list(names)}
