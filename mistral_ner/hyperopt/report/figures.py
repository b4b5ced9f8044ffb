"""Every figure of the report, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable

from mistral_ner.hyperopt.report.figure import STATE_COLOURS, Figure, axes, by_state, hover, line, text
from mistral_ner.hyperopt.report.rows import StudyRows
from mistral_ner.hyperopt.report.settings import importance, parallel, slices
from mistral_ner.hyperopt.watch import shown


def study_figures(rows: StudyRows) -> list[Figure]:
    """Return every figure of one study, in the order of the page."""
    makers: list[Callable[[StudyRows], Figure]] = [history, curves, parallel, importance, slices, timeline, per_type]
    return [make(rows) for make in makers]


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
            "text": [hover(trial, f"{text(rows.metric)} {shown(trial.best)}") for trial in group],
            "hoverinfo": "text",
        }
        for state, group in by_state(scored)
    ]
    best, so_far = scored[0].best or 0.0, []
    for trial in scored:
        best = rows.better(best, trial.best if trial.best is not None else best)
        so_far.append(best)
    data.append(
        {
            **line("best so far", [trial.number for trial in scored], so_far),
            "line": {"color": "@accent", "shape": "hv", "width": 2},
        }
    )
    return Figure("history", "Optimisation history", about, data, axes("trial", rows.metric))


def curves(rows: StudyRows) -> Figure:
    """Metric by report, with a cross where a trial was stopped."""
    rungs = f" ASHA compares at report {_and(rows.rungs)} (dotted)." if rows.rungs else ""
    about = f"The metric at each report; a cross is where a trial was stopped early.{rungs}"
    shown_trials = [trial for trial in rows.trials if trial.values]
    if not shown_trials:
        return Figure("curves", "Learning curves", about, missing="no trial has reported yet")
    best = rows.best.number if rows.best else None
    data, named = [], set()
    for trial in sorted(shown_trials, key=lambda trial: trial.number == best):
        label = "best trial" if trial.number == best else trial.state
        colour = "@accent" if trial.number == best else STATE_COLOURS[trial.state]
        reports = sorted(trial.values)
        stopped = trial.state == "stopped early"
        data.append(
            {
                **line(label, reports, [trial.values[report] for report in reports]),
                "mode": "lines+markers",
                "legendgroup": label,
                "showlegend": label not in named,
                "line": {"color": colour, "width": 3 if trial.number == best else 1.3},
                "marker": {
                    "size": [9 if stopped and report == reports[-1] else 4 for report in reports],
                    "symbol": ["x" if stopped and report == reports[-1] else "circle" for report in reports],
                },
                "text": [hover(trial, f"report {report}: {shown(trial.values[report])}") for report in reports],
                "hoverinfo": "text",
            }
        )
        named.add(label)
    layout = axes("report", rows.metric)
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
    for state, group in by_state(timed):
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
                "hovertext": [hover(trial, f"{end - start:.0f} s") for trial, _, start, end in mine],
            }
        )
    layout = axes("seconds since the first trial began", "place")
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
    layout = axes("score", "")
    layout["yaxis"].update(type="category", automargin=True)
    layout["xaxis"]["range"] = [0, 1]
    return Figure("per_type", title, about, data, {**layout, "height": 150 + 44 * len(types), "barmode": "group"})


def versus(studies: list[StudyRows]) -> list[Figure]:
    """Return the figures that overlay several studies."""
    about = "Best value so far against reports spent, over all trials of each study."
    data = []
    for place, rows in enumerate(studies):
        points = rows.best_so_far()
        if points:
            trace = line(text(f"{rows.name} ({rows.summary['strategy']})"), *map(list, zip(*points, strict=True)))
            data.append({**trace, "line": {"shape": "hv", "width": 2.5, "color": f"@line{place % 6}"}})
    title = "Best so far against compute"
    if not data:
        return [Figure("versus", title, about, missing="none of the studies has a report yet")]
    return [Figure("versus", title, about, data, {**axes("reports spent", studies[0].metric), "height": 460})]
