"""What a search leaves behind: best config, summary, table of trials. Reads the study and the trial folders only."""

from __future__ import annotations

import csv
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from mistral_ner import files
from mistral_ner.config import UserError
from mistral_ner.hyperopt import best_config, report
from mistral_ner.hyperopt.card import settings_name, with_interval
from mistral_ner.hyperopt.final import Candidate, Final, finalise, keep
from mistral_ner.hyperopt.plan import Plan, train_again
from mistral_ner.hyperopt.signals import Interrupted, held, received
from mistral_ner.hyperopt.study import GO_ON, REASON, Study, any_reaches_target
from mistral_ner.hyperopt.tracked import track_search
from mistral_ner.hyperopt.watch import shown
from mistral_ner.hyperopt.workers import Workers

log = logging.getLogger(__name__)


@dataclass
class Summary:
    """A search in figures; ``summary.json`` holds just this."""

    study_name: str
    strategy: str
    metric: str
    mode: str
    n_trials: int
    n_complete: int
    n_pruned: int
    n_failed: int
    n_unfinished: int  # cut off by the end of the search; a resumed one goes on with them
    best_value: float | None
    best_trial: int | None
    best_params: dict[str, Any]
    reports_run: int
    reports_full: int  # what running every trial to its end would have cost
    wall_s: float
    budget_spent: str | None  # which budget ended the search before its last trial
    failures: dict[str, int]  # reasons and how often
    note: str | None = None  # what is unusual about it, in words
    best_config: str | None = None  # what best_config.yaml holds, in words
    pareto: list[dict[str, Any]] | None = None  # of two metrics: the trials that none beats in both
    final: dict[str, Any] | None = None  # final/final.json


@contextmanager
def ending_in_order(study: Study) -> Iterator[None]:
    """Let an interrupted search come to :func:`finish`."""
    try:
        yield
    except KeyboardInterrupt:  # Ray makes its own of ours
        study.interrupted = received()


def finish(study: Study, workers: Workers | None = None) -> Summary:
    """Write ``summary.json``, ``trials.csv`` and ``best_config.yaml``, print the summary, and return it.

    Args:
        study: the search that has ended.
        workers: of a search whose trials were trainings, who trains the final model (unless ``final.enabled`` is off)
            and scores it.

    Raises:
        UserError: no trial completed, so there is no best config, or too many failed; the rest is written.
        Interrupted: the search was.
    """
    with held():
        summary = _written(study)
    if workers is not None and _trains_final(study, summary):
        with ending_in_order(study):
            final = _final(study, workers)
            summary.final, summary.best_config = asdict(final), best_config.write_final(study.plan, final)
        files.write_json(study.plan.folder / "summary.json", asdict(summary))
    _report(study, summary)
    _print(summary, study)
    if study.interrupted is not None:
        raise Interrupted(study.interrupted)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in summary.failures.items())
    if study.full_disk is not None:
        raise files.DiskFullError(study.full_disk)
    if study.broken:
        raise UserError(f"{summary.budget_spent}: {reasons}; see {study.plan.folder}/trial_*/logs.txt")
    if summary.best_trial is None:
        raise UserError(
            f"no trial of {summary.study_name} completed "
            f"({reasons or summary.budget_spent or 'all were stopped early'}); see {study.plan.folder}"
        )
    return summary


def _trains_final(study: Study, summary: Summary) -> bool:
    return study.interrupted is None and study.full_disk is None and not study.broken and summary.best_trial is not None


def _final(study: Study, workers: Workers) -> Final:
    found = [
        Candidate(trial.number, study.plan.space.decode(trial.params), best_of(study.plan, trial)[1])
        for trial in _eligible(study)
    ]
    if study.plan.config.hyperopt.final.enabled:
        return finalise(study.plan, found, workers)
    best = min(found, key=lambda one: (-study.plan.sign * (one.value or 0.0), one.trial))
    return keep(study.plan, best, workers)


def _eligible(study: Study) -> list[FrozenTrial]:
    """Return the trials that may win: the complete ones, and those cut off at the target that they reached."""
    return [
        trial
        for trial in study.trials
        if trial.state == TrialState.COMPLETE
        or (trial.state == TrialState.RUNNING and any_reaches_target(study.plan, trial.intermediate_values.values()))
    ]


def _written(study: Study) -> Summary:
    summary, folder = summarise(study), study.plan.folder
    if summary.best_trial is not None and summary.best_value is not None:
        best = next(trial for trial in study.trials if trial.number == summary.best_trial)
        summary.best_config = best_config.write_trial(study.plan, best, summary.best_value)
    files.write_json(folder / "summary.json", asdict(summary))
    files.write_text(folder / "trials.csv", _table(study))
    return summary


def _report(study: Study, summary: Summary) -> None:
    try:
        report.write(study, asdict(summary))
    except Exception:  # the results are on disk, and worth more than their picture
        log.warning("report.html could not be written", exc_info=True)
    if study.interrupted is not None:
        return  # it goes on, and is tracked at its end
    try:
        track_search(study, asdict(summary))
    except Exception as error:
        log.warning("the search is not tracked: %s", error)


def summarise(study: Study) -> Summary:
    """Count a study's trials and find the best; works on a running study too."""
    trials, hyperopt = study.trials, study.plan.config.hyperopt
    by_state = {state: [t for t in trials if t.state == state] for state in TrialState}
    complete = by_state[TrialState.COMPLETE]
    best = max(_eligible(study), key=lambda t: (study.plan.sign * best_of(study.plan, t)[1], -t.number), default=None)
    failures: dict[str, int] = {}
    for trial in by_state[TrialState.FAIL]:
        reason = str(trial.user_attrs.get(REASON, "unknown"))
        failures[reason] = failures.get(reason, 0) + 1
    summary = Summary(
        study_name=hyperopt.study_name,
        strategy=hyperopt.strategy,
        metric=hyperopt.metric,
        mode=hyperopt.mode,
        n_trials=len(trials),
        n_complete=len(complete),
        n_pruned=len(by_state[TrialState.PRUNED]),
        n_failed=len(by_state[TrialState.FAIL]),
        n_unfinished=len(by_state[TrialState.RUNNING]),
        best_value=best_of(study.plan, best)[1] if best else None,
        best_trial=best.number if best else None,
        best_params=study.plan.space.decode(best.params) if best else {},
        reports_run=sum(len(t.intermediate_values) for t in trials),
        reports_full=len(trials) * study.plan.reports_per_trial,
        wall_s=round(study.seconds_in_all, 3),
        budget_spent=study.spent if by_state[TrialState.RUNNING] or not study.complete else None,
        failures=failures,
        pareto=_pareto(study),
    )
    summary.note = _note(summary)
    return summary


def _note(summary: Summary) -> str | None:
    if not summary.n_trials:
        return "No trial has started yet."
    if summary.n_failed == summary.n_trials:
        return f"All {summary.n_trials} trials failed: there is no winner."
    if summary.best_trial is None and summary.n_unfinished:
        return "No trial has completed yet, so there is no winner."
    if summary.best_trial is None:
        return "No trial completed: each was stopped early or failed, so there is no winner."
    if summary.n_unfinished:
        return f"{summary.n_unfinished} trials are unfinished: the search is running or was cut off."
    return "There is one trial: nothing to compare it with." if summary.n_trials == 1 else None


def best_of(plan: Plan, trial: FrozenTrial) -> tuple[int, float]:
    """Return a trial's best report, counted from 1, and its value; the first of equals."""
    values = trial.intermediate_values
    report = max(values, key=lambda report: (plan.sign * values[report], -report))
    return report, values[report]


def _pareto(study: Study) -> list[dict[str, Any]] | None:
    """Return the trials that no other beats in both metrics, None where there is one metric."""
    hyperopt = study.plan.config.hyperopt
    if hyperopt.second_metric is None:
        return None
    return [
        {"trial": t.number, hyperopt.metric: t.values[0], hyperopt.second_metric: t.values[1]}
        for t in sorted(study.optuna.best_trials, key=lambda t: -study.plan.sign * t.values[0])
    ]


def _table(study: Study) -> str:
    names = [parameter.name for parameter in study.plan.space]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "value", "reports", "seconds", *names, "reason"])
    for trial in study.trials:
        params = study.plan.space.decode(trial.params)
        row = [trial.number, trial.state.name, _value(trial), len(trial.intermediate_values), _seconds(trial)]
        writer.writerow([*row, *(params.get(name, "") for name in names), trial.user_attrs.get(REASON, "")])
    return text.getvalue()


def _value(trial: FrozenTrial) -> float | str:
    if trial.state == TrialState.COMPLETE:
        return float(trial.values[0])
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else ""


def _seconds(trial: FrozenTrial) -> float | str:
    return round(trial.duration.total_seconds(), 3) if trial.duration else ""


def _add_final(table: Table, final: dict[str, Any], folder: str) -> None:
    """The honest figures beside the search's own."""
    seeds = len(final["seeds"])
    for index, result in enumerate(final["settings"]):
        text = f"{settings_name(result)}: {final['metric']} {result['dev_mean']:.4f} (mean of {seeds} seeds)"
        text += f", dev F1 {with_interval(result['dev_f1'], result['dev_f1_interval'])}"
        if result["test_f1"] is not None:
            text += f", test F1 {with_interval(result['test_f1'], result['test_f1_interval'])}"
        if result["search_value"] is not None:
            text += f"; the search said {result['search_value']:.4f}"
        if index and not result["distinguishable"]:
            text += "; not distinguishable from the winner"
        table.add_row("winner" if not index else "", escape(text))
    table.add_row("final model", f"{folder}/final")


def _print(summary: Summary, study: Study) -> None:
    folder = os.path.relpath(study.plan.folder)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    cut = f", {summary.n_unfinished} unfinished" if summary.n_unfinished else ""
    table.add_row(
        "trials", f"{summary.n_complete} completed, {summary.n_pruned} stopped early, {summary.n_failed} failed{cut}"
    )
    saved = 1 - summary.reports_run / max(1, summary.reports_full)
    table.add_row("reports", f"{summary.reports_run} of {summary.reports_full} ({saved:.0%} saved)")
    table.add_row("time", f"{summary.wall_s:.0f} s")
    if summary.budget_spent:
        table.add_row("ended early", summary.budget_spent)
    if summary.note is not None:
        table.add_row("note", summary.note)
    for reason, count in summary.failures.items():
        table.add_row("failed", f"{count} x {reason}")
    if summary.best_trial is not None:
        table.add_row(f"best {summary.metric}", f"[bold]{summary.best_value:.4f}[/bold] (trial {summary.best_trial})")
        for name, value in summary.best_params.items():
            table.add_row(f"  {name}", shown(value))
        for row in summary.pareto or []:
            table.add_row("Pareto front", "  ".join(f"{name} {shown(value)}" for name, value in row.items()))
    elif study.best_report is not None:
        value, number = study.best_report
        table.add_row(f"{summary.metric} so far", f"{value:.4f} (trial {number}, which is not whole)")
    if summary.final is not None:
        _add_final(table, summary.final, folder)
    if summary.best_config is not None:
        table.add_row("best_config", summary.best_config)
        table.add_row("train it", train_again(folder))
    table.add_row("results", folder)
    if (study.plan.folder / "report.html").exists():
        table.add_row("look at it", f"{folder}/report.html")
    if summary.budget_spent or study.interrupted:
        table.add_row("go on", GO_ON)
    end = "interrupted" if study.interrupted else "completed" if summary.best_trial is not None else "found nothing"
    title = f"{summary.strategy} search {end}"
    # folded lines can be copied, cut ones cannot; into a file or pipe nothing needs to be folded
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(Panel.fit(table, title=title))
