"""The report of a study, and the page that compares several: HTML files that load nothing."""

from __future__ import annotations

import json
import os
from typing import Any

from mistral_ner.hyperopt.results import best_config
from mistral_ner.hyperopt.results.model_card import format_mean, name_new_seeds, name_seeds, name_settings
from mistral_ner.hyperopt.results.report.figure import STATE_COLOURS, Figure, escape
from mistral_ner.hyperopt.results.report.mistakes import KINDS, Findings, describe_findings
from mistral_ner.hyperopt.results.report.parts import (
    ERRORS_PAGE,
    build_document,
    build_pre,
    build_section,
    build_table,
    read_asset,
)
from mistral_ner.hyperopt.results.report.rows import StudyRows, TrialRow
from mistral_ner.hyperopt.results.summary import describe_reports, share_saved
from mistral_ner.hyperopt.spec.plan import train_again, trial_name
from mistral_ner.hyperopt.study.event_log import format_duration, format_value


def build_study_page(rows: StudyRows, figures: list[Figure], findings: Findings | None) -> str:
    """Return the HTML page of one study; ``findings`` are the mistakes of its final model, if there is one."""
    by_name = {figure.name: figure for figure in figures}
    body = [
        f"<h1>{escape(rows.name)}</h1>",
        f'<p class="soft">{escape(rows.summary["strategy"])} search for {escape(rows.metric)} '
        f"({escape(rows.summary['mode'])}), {escape(_state(rows))}</p>",
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
        _errors(findings),
        _failures(rows),
        _trials(rows),
        _repeat(rows),
    ]
    return _page(f"{rows.name} · report", body, figures)


def build_comparison_page(studies: list[StudyRows], figures: list[Figure]) -> str:
    """Return the HTML page that overlays several studies."""
    head = ["study", "strategy", "trials", "reports run", "reports saved", f"best {studies[0].metric}", "seconds"]
    lines = [
        [
            *(rows.name, rows.summary["strategy"], str(rows.summary["n_trials"])),
            *(str(rows.summary["reports_run"]), f"{rows.summary['reports_saved']} ({share_saved(rows.summary):.0%})"),
            *("none" if rows.best is None else f"{rows.summary['best_value']:.4f}", f"{rows.summary['wall_s']:.0f}"),
        ]
        for rows in studies
    ]
    body = [
        f"<h1>{len(studies)} studies</h1>",
        *map(_figure, figures),
        build_section("studies", "Studies", build_table(head, lines)),
    ]
    return _page("studies compared", body, figures)


def _page(title: str, body: list[str], figures: list[Figure]) -> str:
    from plotly.offline import get_plotlyjs

    drawn = [{"name": f.name, "data": f.data, "layout": f.layout} for f in figures if not f.missing]
    # < in data would end the script element
    data = json.dumps(drawn, allow_nan=False, default=str).replace("<", "\\u003c")
    scripts = [
        f"<script>{get_plotlyjs()}</script>",
        f'<script type="application/json" id="figures">{data}</script>',
        f"<script>\n{read_asset('page.js')}</script>",
    ]
    return build_document(title, body, scripts)


def _state(rows: StudyRows) -> str:
    summary = rows.summary
    if summary["budget_spent"]:
        return f"ended early: {summary['budget_spent']}"
    return "not ended" if summary["n_unfinished"] else "ended"


def _nav(figures: list[Figure]) -> str:
    places = [("winner", "Winner"), *((f.name, f.title) for f in figures)]
    places += [("errors", "Errors"), ("failures", "Failures"), ("trials", "Trials"), ("repeat", "Repeat it")]
    links = [f'<a href="#{name}">{escape(title)}</a>' for name, title in places]
    return f"<nav>{''.join(links)}</nav>"


def _note(rows: StudyRows) -> str:
    """Return the summary's note about what is unusual."""
    note = rows.summary["note"]
    return f'<p class="note">{escape(note)}</p>' if note else ""


def _tiles(rows: StudyRows) -> str:
    summary = rows.summary
    best = "none" if rows.best is None else f"{summary['best_value']:.4f}"
    label = f"best {rows.metric} on dev" + ("" if rows.best is None else f", trial {rows.best.number}")
    if rows.final and rows.final.get("settings"):
        label = f"{rows.metric} of the winner on dev, {name_seeds(rows.final['settings'][0])}; best single trial {best}"
        best = f"{rows.final['settings'][0]['dev_mean']:.4f}"
    tiles = [
        (best, label),
        (
            f"{share_saved(summary):.0%}",
            f"of the reports saved: {summary['reports_run']} run, {summary['reports_saved']} not needed",
        ),
        (str(summary["n_trials"]), f"trials: {_counts(rows)}"),
        (format_duration(summary["wall_s"]), "wall time" + (", the final model included" if rows.final else "")),
    ]
    cells = "".join(
        f'<div class="tile"><b>{escape(b)}</b><span class="soft">{escape(s)}</span></div>' for b, s in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _counts(rows: StudyRows) -> str:
    names = (
        ("n_complete", "completed"),
        ("n_pruned", "stopped"),
        ("n_failed", "failed"),
        ("n_unfinished", "unfinished"),
    )
    return ", ".join(f"{rows.summary[key]} {name}" for key, name in names if rows.summary[key]) or "none yet"


def _winner(rows: StudyRows) -> str:
    if rows.best is None:
        return build_section("winner", "Winner", '<p class="soft">None: no trial has completed.</p>')
    settings = build_table(
        ["setting", "value"], [[name, format_value(value)] for name, value in rows.summary["best_params"].items()]
    )
    if rows.final is None:
        label = (
            f"Trial {rows.best.number} has the best {rows.metric} on dev. The best of many noisy trials looks better "
            "than it is: trained again with other seeds it will score somewhat less."
        )
        return build_section("winner", "Winner", f'<p class="soft">{escape(label)}</p>{settings}')
    return build_section("winner", "Winner", _final(rows.final, rows.metric))


def _final(final: dict[str, Any], metric: str) -> str:
    """Return the tables of the final trainings: the winner, the other settings, and the values of the search."""
    metric, settings = final.get("metric", metric), final.get("settings", [])
    lines = [
        [
            *("winner" if not place else "", name_settings(one), format_mean(one)),
            _interval(one["dev_f1"], one["dev_f1_interval"]) + name_new_seeds(final, one),
            _interval(one["test_f1"], one["test_f1_interval"]),
            "" if one["search_value"] is None else f"{one['search_value']:.4f}",
            _compared(place, one),
        ]
        for place, one in enumerate(settings)
    ]
    head = ["", "settings", f"mean {metric} on dev", "F1 on dev (95% interval)", "F1 on test (95% interval)"]
    table = build_table([*head, f"{metric} in the search", "worse than the winner"], lines, long=6, cards=True)
    chosen = [[name, format_value(value)] for one in settings[:1] for name, value in one["params"].items()]
    cut = f'<p class="soft">Cut, for want of time: {escape(final["cut"])}.</p>' if final.get("cut") else ""
    return table + cut + build_table(["setting", "value"], chosen)


def _compared(place: int, result: dict[str, Any]) -> str:
    """Return how settings compare with the winner, which stands at the first place."""
    worse = "yes" if result["distinguishable"] else "not distinguishable from the winner"
    return "" if not place else "; ".join(filter(None, [worse, result.get("out")]))


def _interval(value: float | None, bounds: Any) -> str:
    return "—" if value is None else f"{value:.4f} ({bounds[0]:.4f} to {bounds[1]:.4f})"


def _saved(rows: StudyRows) -> str:
    summary = rows.summary
    label = f"Reports: {describe_reports(summary)}."
    if left := summary["reports_full"] - summary["reports_run"] - summary["reports_saved"]:
        label += f" {left} of trials that failed or are unfinished count as neither."
    bar = f'<div class="bar"><i style="width:{100 * (1 - share_saved(summary)):.1f}%"></i></div>'
    return build_section("saved", "Compute saved", f'{bar}<p class="soft">{escape(label)}</p>')


def _figure(figure: Figure) -> str:
    if figure.missing:
        return build_section(
            figure.name, figure.title, f'<p class="soft">Nothing to draw: {escape(figure.missing)}.</p>'
        )
    place = f'<div class="wide"><div class="figure" id="figure-{figure.name}"></div></div>'
    return build_section(figure.name, figure.title, f'<p class="soft">{escape(figure.about)}</p>{place}')


def _pair(*figures: Figure) -> str:
    return f'<div class="pair">{"".join(map(_figure, figures))}</div>'


def _errors(findings: Findings | None) -> str:
    if findings is None:
        label = "Nothing to show: final/ holds no predictions."
        return build_section("errors", "Errors of the final model", f'<p class="soft">{label}</p>')
    counts = ", ".join(f"{findings.count(kind)} {kind}" for kind in KINDS)
    label = f"{escape(describe_findings(findings))} {escape(counts)}."
    link = f'<p><a href="{ERRORS_PAGE}">Look at them, sentence by sentence</a></p>'
    return build_section("errors", "Errors of the final model", f'<p class="soft">{label}</p>{link}')


def _failures(rows: StudyRows) -> str:
    failed = [trial for trial in rows.trials if trial.state == "failed"]
    if not failed:
        return build_section("failures", "Failures", '<p class="soft">No trial failed.</p>')
    lines = [[str(trial.number), trial.reason or "unknown", f"{trial_name(trial.number)}/logs.txt"] for trial in failed]
    return build_section("failures", "Failures", build_table(["trial", "reason", "log"], lines, long=1))


def _trials(rows: StudyRows) -> str:
    if not rows.trials:
        return build_section("trials", "Trials", '<p class="soft">None yet.</p>')
    head = "".join(
        f"<th>{escape(name)}</th>" for name in ("trial", "state", rows.metric, "reports", "seconds", *rows.kinds)
    )
    order = sorted(rows.trials, key=lambda t: (t.best is None, -rows.sign * (t.best or 0.0), t.number))
    body = "".join(_trial(rows, trial) for trial in order)
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return build_section(
        "trials", "Trials", f'<p class="soft">The best trial first; values are those of the best report.</p>{table}'
    )


def _trial(rows: StudyRows, trial: TrialRow) -> str:
    colour = f"var(--{STATE_COLOURS[trial.state][1:]})"
    cells = [
        f'<a href="{trial_name(trial.number)}/logs.txt">{trial.number}</a>',
        f'<span class="state" style="background:{colour}"></span>{escape(trial.state)}',
        "" if trial.best is None else f"{trial.best:.4f}",
        f"{len(trial.values)} of {rows.reports_per_trial}",
        "" if trial.seconds is None else f"{trial.seconds:.0f}",
        *(escape(trial.params[name]) if name in trial.params else "" for name in rows.kinds),
    ]
    winner = ' class="winner"' if rows.best is not None and trial.number == rows.best.number else ""
    return f"<tr{winner}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _repeat(rows: StudyRows) -> str:
    folder = os.path.relpath(rows.folder)
    parts = []
    if what := best_config.read_description(rows.folder):
        parts.append(f"<p>Train {escape(what)}:</p>{build_pre(train_again(folder))}")
        parts.append(_config(rows, best_config.NAME, "Its config"))
    parts.append(f"<p>Continue or extend the search:</p>{build_pre(f'python -m mistral_ner.hyperopt.resume {folder}')}")
    parts.append(_config(rows, "config.yaml", "The search's config"))
    return build_section("repeat", "Repeat it", "".join(parts))


def _config(rows: StudyRows, name: str, title: str) -> str:
    try:
        content = (rows.folder / name).read_text(encoding="utf-8")
    except OSError:
        return ""
    return f"<details><summary>{escape(title)} ({escape(name)})</summary>{build_pre(content)}</details>"
