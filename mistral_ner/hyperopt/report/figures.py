"""The report's figures, as data for plotly.js. Colours are names of the page's palette, so that dark mode is one file.

Texts that come from a study are escaped here: plotly.js reads a small HTML in every text.
"""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna

from mistral_ner.hyperopt.report.rows import StudyRows, TrialRow
from mistral_ner.hyperopt.watch import shown

STATE_COLOURS = {"completed": "@good", "stopped early": "@mute", "failed": "@bad", "unfinished": "@warn"}
_LIGHT = {
    "@accent": "#2f6fde",
    "@good": "#1f9d63",
    "@mute": "#97a1af",
    "@bad": "#d64545",
    "@warn": "#d99a1c",
    "@card": "#ffffff",
    "@line2": "#1f9d63",
}
_ENOUGH_FOR_IMPORTANCE = 4  # trials


@dataclass(frozen=True)
class Figure:
    """A figure with its title and what it says; ``missing`` says why there is none."""

    name: str
    title: str
    about: str
    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    missing: str = ""


def study_figures(rows: StudyRows) -> list[Figure]:
    """Return every figure of one study, in the order of the page."""
    makers: list[Callable[[StudyRows], Figure]] = [history, curves, parallel, importance, slices, timeline, per_type]
    return [make(rows) for make in makers]


def for_plotly(figure: Figure) -> dict[str, Any]:
    """Return a figure as any plotly reads it, ``plotly.io.from_json`` for one, in the colours of light mode."""

    def coloured(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: coloured(item, name) for name, item in value.items() if name != "minwidth"}
        if key == "colorscale":
            return [[place, _LIGHT[colour]] for place, colour in value]
        return _LIGHT.get(value, value) if key == "color" and isinstance(value, str) else value

    return {"data": [coloured(trace) for trace in figure.data], "layout": coloured(figure.layout)}


def text(value: object) -> str:
    """Return a value as text that plotly.js and HTML show as it is."""
    return html.escape(shown(value), quote=True)


def _hover(trial: TrialRow, *more: str) -> str:
    settings = [f"{text(name)} = {text(value)}" for name, value in trial.params.items()]
    return "<br>".join([f"<b>trial {trial.number}</b>, {trial.state}", *more, *settings])


def _by_state(trials: list[TrialRow]) -> list[tuple[str, list[TrialRow]]]:
    groups = [(state, [trial for trial in trials if trial.state == state]) for state in STATE_COLOURS]
    return [(state, group) for state, group in groups if group]


def history(rows: StudyRows) -> Figure:
    """Every trial's best report, and the best so far."""
    about = "Each point is a trial's best report; the line is the best so far."
    scored = [trial for trial in rows.trials if trial.best is not None]
    if not scored:
        return Figure("history", "Optimisation history", about, missing="no trial has reported yet")
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": state,
            "x": [trial.number for trial in group],
            "y": [trial.best for trial in group],
            "marker": {"color": STATE_COLOURS[state], "size": 9},
            "text": [_hover(trial, f"{text(rows.metric)} {shown(trial.best)}") for trial in group],
            "hoverinfo": "text",
        }
        for state, group in _by_state(scored)
    ]
    best, line = scored[0].best or 0.0, []
    for trial in scored:
        best = rows.better(best, trial.best if trial.best is not None else best)
        line.append(best)
    data.append(
        {
            **_line("best so far", [trial.number for trial in scored], line),
            "line": {"color": "@accent", "shape": "hv", "width": 2},
        }
    )
    return Figure("history", "Optimisation history", about, data, _axes("trial", rows.metric))


def curves(rows: StudyRows) -> Figure:
    """Metric by report, with a cross where a trial was stopped."""
    rungs = f" ASHA compares at reports {_and(rows.rungs)} (dotted)." if rows.rungs else ""
    about = f"The metric at each report; a cross is where a trial was stopped early.{rungs}"
    shown_trials = [trial for trial in rows.trials if trial.values]
    if not shown_trials:
        return Figure("curves", "Learning curves", about, missing="no trial has reported yet")
    best = rows.best.number if rows.best else None
    data, named = [], set()
    for trial in sorted(shown_trials, key=lambda trial: trial.number == best):
        label = "winner" if trial.number == best else trial.state
        colour = "@accent" if trial.number == best else STATE_COLOURS[trial.state]
        reports = sorted(trial.values)
        stopped = trial.state == "stopped early"
        data.append(
            {
                **_line(label, reports, [trial.values[report] for report in reports]),
                "mode": "lines+markers",
                "legendgroup": label,
                "showlegend": label not in named,
                "line": {"color": colour, "width": 3 if trial.number == best else 1.3},
                "marker": {
                    "size": [9 if stopped and report == reports[-1] else 4 for report in reports],
                    "symbol": ["x" if stopped and report == reports[-1] else "circle" for report in reports],
                },
                "text": [_hover(trial, f"report {report}: {shown(trial.values[report])}") for report in reports],
                "hoverinfo": "text",
            }
        )
        named.add(label)
    layout = _axes("report", rows.metric)
    layout["xaxis"]["range"] = [0.7, rows.reports_per_trial + 0.3]
    layout["shapes"] = [
        {
            "type": "line",
            "x0": rung,
            "x1": rung,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "layer": "below",
            "line": {"color": "@mute", "dash": "dot", "width": 1},
        }
        for rung in rows.rungs
    ]
    return Figure("curves", "Learning curves", about, data, layout)


def _and(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))


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
        names = sorted({_name(value) for value in raw})
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
    about = (
        "Optuna's fANOVA: the share of the metric's variance that a parameter explains. Trials that were stopped early "
        "count too, each with its best report until then; without them only the settings that did well would be asked. "
        "Parameters that are only sometimes in play are left out."
    )
    study = _scored_study(rows)
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
    layout = _axes("share of variance", "")
    layout["yaxis"].update(type="category", automargin=True)
    return Figure(name, title, about, [bars], {**layout, "height": 120 + 34 * len(names)})


def _scored_study(rows: StudyRows) -> optuna.Study:
    """An in-memory study of all trials with a report, as if each had ended at its best."""
    study = optuna.create_study(direction="maximize" if rows.sign > 0 else "minimize")
    bests = {trial.number: trial.best for trial in rows.trials}
    for trial in rows.frozen:
        value = bests[trial.number]
        if value is not None and trial.state != optuna.trial.TrialState.FAIL:
            study.add_trial(
                optuna.trial.create_trial(value=value, params=trial.params, distributions=trial.distributions)
            )
    return study


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
        for state, group in _by_state([trial for trial in scored if parameter in trial.params]):
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
                    "text": [_hover(trial, f"{text(rows.metric)} {shown(trial.best)}") for trial in group],
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


def timeline(rows: StudyRows) -> Figure:
    """Which trial ran when, on as many lanes as ran at once."""
    about = "A bar is a trial, a row a place for one. Places are worked out from the times at which trials ran."
    timed = sorted((t for t in rows.trials if t.start is not None), key=lambda t: t.start or 0.0)
    if not timed:
        return Figure("timeline", "Timeline", about, missing="no trial has started yet")
    begin = timed[0].start or 0.0
    lanes: list[float] = []
    placed = []
    for trial in timed:
        start, end = (trial.start or 0.0) - begin, (trial.end or trial.start or 0.0) - begin
        lane = next((i for i, free in enumerate(lanes) if free <= start + 0.05), len(lanes))
        lanes[lane : lane + 1] = [end]
        placed.append((trial, lane, start, end))
    data = []
    for state, group in _by_state(timed):
        mine = [item for item in placed if item[0] in group]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": state,
                "hoverinfo": "text",
                "textposition": "inside",
                "base": [start for _, _, start, _ in mine],
                "x": [end - start for _, _, start, end in mine],
                "y": [lane + 1 for _, lane, _, _ in mine],
                "marker": {"color": STATE_COLOURS[state], "line": {"color": "@card", "width": 1}},
                "text": [str(trial.number) for trial, *_ in mine],
                "hovertext": [_hover(trial, f"{end - start:.0f} s") for trial, _, start, end in mine],
            }
        )
    layout = _axes("seconds since the first trial began", "place")
    layout["yaxis"].update(dtick=1, autorange="reversed")
    return Figure(
        "timeline", "Timeline", about, data, {**layout, "barmode": "overlay", "height": 150 + 42 * len(lanes)}
    )


def per_type(rows: StudyRows) -> Figure:
    """F1, precision and recall of the best trial by entity type."""
    about = "The best trial at its best report, on dev; beside each type how many entities dev has."
    title = "F1 per entity type"
    if not rows.per_type:
        return Figure("per_type", title, about, missing="no finished trial has reported values per entity type")
    types = sorted(rows.per_type, key=lambda t: rows.per_type[t]["f1"])
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "F1" if name == "f1" else name,
            "hoverinfo": "x+name",
            "x": [rows.per_type[t][name] for t in types],
            "y": [f"{text(t)} ({rows.per_type[t]['support']:.0f})" for t in types],
            "marker": {"color": colour},
        }
        for name, colour in (("recall", "@mute"), ("precision", "@warn"), ("f1", "@accent"))
    ]
    layout = _axes("score", "")
    layout["yaxis"].update(type="category", automargin=True)
    layout["xaxis"]["range"] = [0, 1]
    return Figure("per_type", title, about, data, {**layout, "height": 150 + 60 * len(types), "barmode": "group"})


def versus(studies: list[StudyRows]) -> list[Figure]:
    """Return the figures that overlay several studies."""
    about = "Best value so far against reports spent, over all trials of each study."
    data = []
    for place, rows in enumerate(studies):
        points = rows.best_so_far()
        if points:
            line = _line(text(f"{rows.name} ({rows.summary['strategy']})"), *map(list, zip(*points, strict=True)))
            data.append({**line, "line": {"shape": "hv", "width": 2.5, "color": f"@line{place % 6}"}})
    title = "Best so far against compute"
    if not data:
        return [Figure("versus", title, about, missing="none of the studies has a report yet")]
    return [Figure("versus", title, about, data, {**_axes("reports spent", studies[0].metric), "height": 460})]


def _line(name: str, x: list[Any], y: list[Any]) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y}


def _axes(x: str, y: str) -> dict[str, Any]:
    return {"xaxis": {"title": {"text": text(x)}}, "yaxis": {"title": {"text": text(y)}}}
