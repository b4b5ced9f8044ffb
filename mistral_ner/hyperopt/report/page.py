"""The report as one HTML file: everything inside, nothing loaded. What comes from a study is escaped."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable
from importlib.resources import files as package_files
from typing import Any

from mistral_ner.hyperopt import best_config
from mistral_ner.hyperopt.card import settings_name
from mistral_ner.hyperopt.plan import train_again, trial_name
from mistral_ner.hyperopt.report.figure import STATE_COLOURS, Figure, text
from mistral_ner.hyperopt.report.rows import StudyRows, TrialRow
from mistral_ner.hyperopt.watch import shown


def study_page(rows: StudyRows, figures: list[Figure]) -> str:
    """Return the page of one study."""
    by_name = {figure.name: figure for figure in figures}
    body = [
        f"<h1>{text(rows.name)}</h1>",
        f'<p class="soft">{text(rows.summary["strategy"])} search for {text(rows.metric)} '
        f"({text(rows.summary['mode'])}), {text(_state(rows))}</p>",
        _nav(figures),
        _note(rows),
        _tiles(rows),
        _winner(rows),
        _saved(rows),
        _pair(by_name["history"], by_name["importance"]),
        _figure(by_name["curves"]),
        _figure(by_name["parallel"]),
        _pair(by_name["per_type"], by_name["timeline"]),
        _figure(by_name["slices"]),
        _failures(rows),
        _trials(rows),
        _repeat(rows),
    ]
    return _page(f"{rows.name} · report", body, figures)


def comparison_page(studies: list[StudyRows], figures: list[Figure]) -> str:
    """Return the page that overlays several studies."""
    head = ["study", "strategy", "trials", "reports", "saved", f"best {studies[0].metric}", "seconds"]
    lines = [
        [
            *(rows.name, rows.summary["strategy"], str(rows.summary["n_trials"])),
            *(f"{rows.summary['reports_run']} of {rows.summary['reports_full']}", f"{_share_saved(rows):.0%}"),
            *("none" if rows.best is None else f"{rows.summary['best_value']:.4f}", f"{rows.summary['wall_s']:.0f}"),
        ]
        for rows in studies
    ]
    body = [
        f"<h1>{len(studies)} studies</h1>",
        *map(_figure, figures),
        _section("studies", "Studies", _table(head, lines)),
    ]
    return _page("studies compared", body, figures)


def _page(title: str, body: list[str], figures: list[Figure]) -> str:
    from plotly.offline import get_plotlyjs

    drawn = [{"name": f.name, "data": f.data, "layout": f.layout} for f in figures if not f.missing]
    # < in data would end the script element
    data = json.dumps(drawn, allow_nan=False, default=str).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<main>
{"".join(body)}
</main>
<script>{get_plotlyjs()}</script>
<script type="application/json" id="figures">{data}</script>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return (package_files("mistral_ner.hyperopt.report") / name).read_text(encoding="utf-8")


def _state(rows: StudyRows) -> str:
    summary = rows.summary
    if summary["budget_spent"]:
        return f"ended early: {summary['budget_spent']}"
    return "not ended" if summary["n_unfinished"] else "ended"


def _nav(figures: list[Figure]) -> str:
    places = [("winner", "Winner"), *((f.name, f.title) for f in figures)]
    places += [("failures", "Failures"), ("trials", "Trials"), ("repeat", "Repeat it")]
    links = [f'<a href="#{name}">{text(title)}</a>' for name, title in places]
    return f"<nav>{''.join(links)}</nav>"


def _note(rows: StudyRows) -> str:
    """What is unusual about this study, in words."""
    note = rows.summary["note"]
    return f'<p class="note">{text(note)}</p>' if note else ""


def _share_saved(rows: StudyRows) -> float:
    return 1.0 - float(rows.summary["reports_run"]) / max(1.0, float(rows.summary["reports_full"]))


def _tiles(rows: StudyRows) -> str:
    summary = rows.summary
    best = "none" if rows.best is None else f"{summary['best_value']:.4f}"
    said = f"best {rows.metric} on dev" + ("" if rows.best is None else f", trial {rows.best.number}")
    if rows.final and rows.final.get("settings"):
        winner, seeds = rows.final["settings"][0], len(rows.final["seeds"])
        said = f"{rows.metric} of the winner on dev, mean of {seeds} seeds; best single trial {best}"
        best = f"{winner['dev_mean']:.4f}"
    tiles = [
        (best, said),
        (f"{_share_saved(rows):.0%}", f"of the reports saved: {summary['reports_run']} of {summary['reports_full']}"),
        (str(summary["n_trials"]), f"trials: {_counts(rows)}"),
        (_duration(summary["wall_s"]), "wall time"),
    ]
    cells = "".join(f'<div class="tile"><b>{text(b)}</b><span class="soft">{text(s)}</span></div>' for b, s in tiles)
    return f'<div class="tiles">{cells}</div>'


def _counts(rows: StudyRows) -> str:
    names = (
        ("n_complete", "completed"),
        ("n_pruned", "stopped"),
        ("n_failed", "failed"),
        ("n_unfinished", "unfinished"),
    )
    return ", ".join(f"{rows.summary[key]} {name}" for key, name in names if rows.summary[key]) or "none yet"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _winner(rows: StudyRows) -> str:
    if rows.best is None:
        return _section("winner", "Winner", '<p class="soft">None: no trial has completed.</p>')
    settings = _table(
        ["setting", "value"], [[name, shown(value)] for name, value in rows.summary["best_params"].items()]
    )
    if rows.final is None:
        said = (
            f"Trial {rows.best.number} has the best {rows.metric} on dev. The best of many noisy trials looks better "
            "than it is: trained again with other seeds it will score somewhat less."
        )
        return _section("winner", "Winner", f'<p class="soft">{text(said)}</p>{settings}')
    return _section("winner", "Winner", _final(rows.final, rows.metric))


def _final(final: dict[str, Any], metric: str) -> str:
    """The winner of the repeated trainings, beside the other settings and the search's own figures."""
    metric, settings = final.get("metric", metric), final.get("settings", [])
    lines = [
        [
            *("winner" if not place else "", settings_name(one), f"{one['dev_mean']:.4f} ± {one['dev_std']:.4f}"),
            *(_interval(one["dev_f1"], one["dev_f1_interval"]), _interval(one["test_f1"], one["test_f1_interval"])),
            "" if one["search_value"] is None else f"{one['search_value']:.4f}",
            "" if not place else "yes" if one["distinguishable"] else "not distinguishable from the winner",
        ]
        for place, one in enumerate(settings)
    ]
    head = ["", "settings", f"mean {metric} on dev", "F1 on dev (95% interval)", "F1 on test (95% interval)"]
    table = _table([*head, f"{metric} in the search", "worse than the winner"], lines, long=6)
    chosen = [[name, shown(value)] for one in settings[:1] for name, value in one["params"].items()]
    return table + _table(["setting", "value"], chosen)


def _interval(value: float | None, bounds: Any) -> str:
    return "—" if value is None else f"{value:.4f} ({bounds[0]:.4f} to {bounds[1]:.4f})"


def _saved(rows: StudyRows) -> str:
    run, full = rows.summary["reports_run"], rows.summary["reports_full"]
    said = (
        f"{run} reports were run; every trial to its end would have been {full}. {_share_saved(rows):.0%} were saved."
    )
    bar = f'<div class="bar"><i style="width:{100 * run / max(1, full):.1f}%"></i></div>'
    return _section("saved", "Compute saved", f'{bar}<p class="soft">{text(said)}</p>')


def _figure(figure: Figure) -> str:
    if figure.missing:
        return _section(figure.name, figure.title, f'<p class="soft">Nothing to draw: {text(figure.missing)}.</p>')
    place = f'<div class="wide"><div class="figure" id="figure-{figure.name}"></div></div>'
    return _section(figure.name, figure.title, f'<p class="soft">{text(figure.about)}</p>{place}')


def _pair(*figures: Figure) -> str:
    return f'<div class="pair">{"".join(map(_figure, figures))}</div>'


def _failures(rows: StudyRows) -> str:
    failed = [trial for trial in rows.trials if trial.state == "failed"]
    if not failed:
        return _section("failures", "Failures", '<p class="soft">No trial failed.</p>')
    lines = [[str(trial.number), trial.reason or "unknown", f"{trial_name(trial.number)}/logs.txt"] for trial in failed]
    return _section("failures", "Failures", _table(["trial", "reason", "log"], lines, long=1))


def _trials(rows: StudyRows) -> str:
    if not rows.trials:
        return _section("trials", "Trials", '<p class="soft">None yet.</p>')
    head = "".join(
        f"<th>{text(name)}</th>" for name in ("trial", "state", rows.metric, "reports", "seconds", *rows.kinds)
    )
    order = sorted(rows.trials, key=lambda t: (t.best is None, -rows.sign * (t.best or 0.0), t.number))
    body = "".join(_trial(rows, trial) for trial in order)
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return _section("trials", "Trials", f'<p class="soft">Best first; the value is that of the best report.</p>{table}')


def _trial(rows: StudyRows, trial: TrialRow) -> str:
    colour = f"var(--{STATE_COLOURS[trial.state][1:]})"
    cells = [
        f'<a href="{trial_name(trial.number)}/logs.txt">{trial.number}</a>',
        f'<span class="state" style="background:{colour}"></span>{text(trial.state)}',
        "" if trial.best is None else f"{trial.best:.4f}",
        f"{len(trial.values)} of {rows.reports_per_trial}",
        "" if trial.seconds is None else f"{trial.seconds:.0f}",
        *(text(trial.params[name]) if name in trial.params else "" for name in rows.kinds),
    ]
    winner = ' class="winner"' if rows.best is not None and trial.number == rows.best.number else ""
    return f"<tr{winner}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _repeat(rows: StudyRows) -> str:
    folder = os.path.relpath(rows.folder)
    parts = []
    if what := best_config.what_it_is(rows.folder):
        parts.append(f"<p>Train {text(what)}:</p>{_pre(train_again(folder))}")
        parts.append(_config(rows, best_config.NAME, "Its config"))
    parts.append(
        f"<p>Go on with the search, or extend it:</p>{_pre(f'python -m mistral_ner.hyperopt.resume {folder}')}"
    )
    parts.append(_config(rows, "config.yaml", "The search's config"))
    return _section("repeat", "Repeat it", "".join(parts))


def _config(rows: StudyRows, name: str, title: str) -> str:
    try:
        content = (rows.folder / name).read_text(encoding="utf-8")
    except OSError:
        return ""
    return f"<details><summary>{text(title)} ({text(name)})</summary>{_pre(content)}</details>"


def _pre(content: str) -> str:
    return f"<pre>{html.escape(content)}</pre>"


def _section(name: str, title: str, content: str) -> str:
    long = ' class="long"' if name in ("trials", "repeat", "slices") else ""
    return f'<section id="{name}"{long}><h2>{text(title)}</h2>{content}</section>\n'


def _table(head: Iterable[str], lines: Iterable[Iterable[str]], long: int | None = None) -> str:
    def cells(line: Iterable[str]) -> str:
        return "".join(f"<td{' class=long' if place == long else ''}>{text(c)}</td>" for place, c in enumerate(line))

    top = "".join(f"<th>{text(name)}</th>" for name in head)
    rows = "".join(f"<tr>{cells(line)}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
