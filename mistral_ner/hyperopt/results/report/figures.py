"""The figures of the report, apart from those about settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mistral_ner.hyperopt.results.report.figure import (
    STATE_COLOURS,
    Figure,
    build_axes,
    build_line,
    describe_trial,
    escape,
    group_by_state,
)
from mistral_ner.hyperopt.results.report.rows import StudyRows
from mistral_ner.hyperopt.results.report.settings import build_importance, build_parallel, build_slices
from mistral_ner.hyperopt.study.event_log import format_value

_MOST_TICKS = 12  # that fit on an axis of a phone


def build_figures(rows: StudyRows) -> list[Figure]:
    """Return every figure of one study, in the order of the page."""
    builders: list[Callable[[StudyRows], Figure]] = [
        *(build_history, build_curves, build_parallel, build_importance, build_slices, build_timeline),
        build_per_type,
    ]
    return [build(rows) for build in builders]


def build_history(rows: StudyRows) -> Figure:
    """Build the figure of every trial's best report, and the best so far."""
    about = "Each point is the best report of a trial; the line is the best so far."
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
            "text": [describe_trial(trial, f"{escape(rows.metric)} {format_value(trial.best)}") for trial in group],
            "hoverinfo": "text",
        }
        for state, group in group_by_state(scored)
    ]
    best, so_far = scored[0].best or 0.0, []
    for trial in scored:
        best = rows.better(best, trial.best if trial.best is not None else best)
        so_far.append(best)
    data.append(
        {
            **build_line("best so far", [trial.number for trial in scored], so_far),
            "line": {"color": "@accent", "shape": "hv", "width": 2},
        }
    )
    return Figure("history", "Optimisation history", about, data, _count_axes("trial", rows.metric, len(rows.trials)))


def _count_axes(x: str, y: str, count: int) -> dict[str, Any]:
    """Return a layout whose x counts ``count`` things: there is no trial 0.5."""
    layout = build_axes(x, y)
    layout["xaxis"] |= {"dtick": 1} if count <= _MOST_TICKS else {}
    return layout


def build_curves(rows: StudyRows) -> Figure:
    """Build the figure of the metric by report, with a cross where a trial was stopped."""
    rungs = f" ASHA compares at report {_join(rows.rungs)} (dotted)." if rows.rungs else ""
    about = f"The metric at each report; a cross is where a trial was stopped early.{rungs}"
    drawn_trials = [trial for trial in rows.trials if trial.values]
    if not drawn_trials:
        return Figure("curves", "Learning curves", about, missing="no trial has reported yet")
    best = rows.best.number if rows.best else None
    data, named = [], set()
    for trial in sorted(drawn_trials, key=lambda trial: trial.number == best):
        label = "best trial" if trial.number == best else trial.state
        colour = "@accent" if trial.number == best else STATE_COLOURS[trial.state]
        reports = sorted(trial.values)
        stopped = trial.state == "stopped early"
        data.append(
            {
                **build_line(label, reports, [trial.values[report] for report in reports]),
                "mode": "lines+markers",
                "legendgroup": label,
                "showlegend": label not in named,
                "line": {"color": colour, "width": 3 if trial.number == best else 1.3},
                "marker": {
                    "size": [9 if stopped and report == reports[-1] else 4 for report in reports],
                    "symbol": ["x" if stopped and report == reports[-1] else "circle" for report in reports],
                },
                "text": [
                    describe_trial(trial, f"report {report}: {format_value(trial.values[report])}")
                    for report in reports
                ],
                "hoverinfo": "text",
            }
        )
        named.add(label)
    layout = _count_axes("report", rows.metric, rows.reports_per_trial)
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


def _join(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))


def build_timeline(rows: StudyRows) -> Figure:
    """Build the figure of when trials ran, with a row for each that ran at once."""
    about = (
        "Each bar is a trial, each row a place where one can run. The places are derived from the times of the trials; "
        "a trial keeps its place while it waits at a rung."
    )
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
    for state, group in group_by_state(timed):
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
                "hovertext": [describe_trial(trial, f"{end - start:.0f} s") for trial, _, start, end in mine],
            }
        )
    layout = build_axes("seconds since the first trial began", "place")
    layout["yaxis"].update(dtick=1, autorange="reversed")
    return Figure(
        "timeline", "Timeline", about, data, {**layout, "barmode": "overlay", "height": 150 + 42 * len(lanes)}
    )


def build_per_type(rows: StudyRows) -> Figure:
    """Build the figure of F1, precision and recall by entity type, of the best trial."""
    about = "The best report of the best trial, on dev; in brackets the number of entities in dev."
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
            "y": [f"{escape(t)} ({rows.per_type[t]['support']:.0f})" for t in types],
            "marker": {"color": colour},
        }
        for name, colour in (("recall", "@mute"), ("precision", "@warn"), ("f1", "@accent"))
    ]
    layout = build_axes("score", "")
    layout["yaxis"].update(type="category", automargin=True)
    layout["xaxis"]["range"] = [0, 1]
    return Figure("per_type", title, about, data, {**layout, "height": 150 + 44 * len(types), "barmode": "group"})


def build_comparison(studies: list[StudyRows]) -> list[Figure]:
    """Build the figure that overlays several studies."""
    about = "The best value so far against the reports spent by all trials of a study."
    data = []
    for place, rows in enumerate(studies):
        points = rows.best_so_far()
        if points:
            trace = build_line(
                escape(f"{rows.name} ({rows.summary['strategy']})"), *map(list, zip(*points, strict=True))
            )
            data.append({**trace, "line": {"shape": "hv", "width": 2.5, "color": f"@line{place % 6}"}})
    title = "Best so far against compute"
    if not data:
        return [Figure("versus", title, about, missing="none of the studies has a report yet")]
    return [Figure("versus", title, about, data, {**build_axes("reports spent", studies[0].metric), "height": 460})]
