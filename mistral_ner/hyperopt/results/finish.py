"""The end of a search: writes its results from the study and the trial folders, and prints the summary."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from mistral_ner import files
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.workers import Workers
from mistral_ner.hyperopt.results import best_config, report
from mistral_ner.hyperopt.results.final import Final, finalise, finalise_trial
from mistral_ner.hyperopt.results.model_card import format_interval, name_new_seeds, name_seeds, name_settings
from mistral_ner.hyperopt.results.summary import (
    Summary,
    choose_unfinished,
    describe_reports,
    find_eligible,
    format_csv,
    is_unfinished_winner,
    summarise,
)
from mistral_ner.hyperopt.results.tracker import track_search
from mistral_ner.hyperopt.results.trainings import Candidate
from mistral_ner.hyperopt.spec.plan import train_again
from mistral_ner.hyperopt.study.event_log import append_log, format_duration, format_value
from mistral_ner.hyperopt.study.signals import Interrupted, delay_signals, get_signal_name
from mistral_ner.hyperopt.study.study import GO_ON, Study
from mistral_ner.training.inputs.check import NOTHING_FOUND

log = logging.getLogger(__name__)


@contextmanager
def record_interrupt(study: Study) -> Iterator[None]:
    """Turn an interrupt inside the block into ``study.interrupted``, so that :func:`finish` can follow."""
    try:
        yield
    except KeyboardInterrupt:  # Ray raises its own for ours
        study.interrupted = get_signal_name()


def finish(study: Study, workers: Workers | None = None) -> Summary:
    """Write ``summary.json``, ``trials.csv`` and ``best_config.yaml``, print the summary, and return it.

    Args:
        study: the search that has ended.
        workers: train the final model (unless ``final.enabled`` is off) and score it; None if the objective was not
            a training.

    Raises:
        UserError: too many trials failed, or none completed, so that there is no best config; the rest is written.
        Interrupted: a signal ended the search.
    """
    _refuse_empty(study)
    study.clock.stop()
    with delay_signals():
        if study.interrupted is None and study.full_disk is None:  # a resumed search will complete some
            choose_unfinished(study)
        summary = _write(study)
    if workers is not None and _needs_final(study, summary):
        with record_interrupt(study), append_log(study.plan):
            final = _run_final(study, summary, workers)
            summary.final, summary.best_config = asdict(final), best_config.write_final(study.plan, final)
        study.clock.stop()  # the search lasts until its final model is there
        summary.wall_s = round(study.seconds_in_all, 3)
        files.write_json(study.plan.folder / "summary.json", asdict(summary))
    _publish(study, summary)
    _print(summary, study)
    if summary.metric == "eval_f1" and summary.best_value == 0:
        log.warning("%s", NOTHING_FOUND)
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


def _refuse_empty(study: Study) -> None:
    if study.trials:
        return
    if study.interrupted is not None:
        raise Interrupted(study.interrupted)
    name, why = study.plan.config.hyperopt.study_name, study.full_disk or study.spent or "no worker could start one"
    raise UserError(f"{name} started no trial ({why}); nothing of it is kept, and its name is free")


def _needs_final(study: Study, summary: Summary) -> bool:
    return study.interrupted is None and study.full_disk is None and not study.broken and summary.best_trial is not None


def _run_final(study: Study, summary: Summary, workers: Workers) -> Final:
    found = [
        Candidate(trial.number, study.plan.space.decode(trial.params), value) for trial, value in find_eligible(study)
    ]
    best = next(candidate for candidate in found if candidate.trial == summary.best_trial)
    if study.plan.config.hyperopt.final.enabled and not is_unfinished_winner(study, summary.best_trial or 0):
        return finalise(study.plan, found, workers, study.clock.deadline)
    return finalise_trial(study.plan, best, workers)


def _write(study: Study) -> Summary:
    summary, folder = summarise(study), study.plan.folder
    if summary.best_trial is not None and summary.best_value is not None:
        best = next(trial for trial in study.trials if trial.number == summary.best_trial)
        summary.best_config = best_config.write_trial(study.plan, best, summary.best_value)
    files.write_json(folder / "summary.json", asdict(summary))
    files.write_text(folder / "trials.csv", format_csv(study))
    return summary


def _publish(study: Study, summary: Summary) -> None:
    try:
        report.write(study, asdict(summary))
    except OSError as error:
        again = f"python -m mistral_ner.hyperopt.report {study.plan.folder}"
        log.warning("report.html could not be written (%s); fix: mend that, then %s", error.strerror or error, again)
    except Exception:  # the results are on disk, and do not depend on the report
        log.warning("report.html could not be written", exc_info=True)
    if study.interrupted is not None:
        return  # a resumed search is tracked at its end
    try:
        track_search(study, asdict(summary))
    except Exception as error:
        log.warning("the search is not tracked: %s", error)


def _add_final(table: Table, final: dict[str, Any], folder: str) -> None:
    """Add the figures of the final trainings, with those of the search for comparison."""
    for index, result in enumerate(final["settings"]):
        text = f"{name_settings(result)}: {final['metric']} {result['dev_mean']:.4f} ({name_seeds(result)})"
        text += (
            f", dev F1 {format_interval(result['dev_f1'], result['dev_f1_interval'])}{name_new_seeds(final, result)}"
        )
        if result["test_f1"] is not None:
            text += f", test F1 {format_interval(result['test_f1'], result['test_f1_interval'])}"
        if result["search_value"] is not None:
            text += f"; the search said {result['search_value']:.4f}"
        if result["out"] is not None:
            text += f"; {result['out']}"
        elif index and not result["distinguishable"]:
            text += "; not distinguishable from the winner"
        table.add_row("winner" if not index else "", escape(text))
    if final["cut"] is not None:
        table.add_row("cut", escape(final["cut"]))
    table.add_row("final model", f"{folder}/final")


def _print(summary: Summary, study: Study) -> None:
    folder = os.path.relpath(study.plan.folder)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    unfinished = f", {summary.n_unfinished} unfinished" if summary.n_unfinished else ""
    table.add_row(
        "trials",
        f"{summary.n_complete} completed, {summary.n_pruned} stopped early, {summary.n_failed} failed{unfinished}",
    )
    table.add_row("reports", describe_reports(asdict(summary)))
    table.add_row("time", format_duration(summary.wall_s))
    if summary.budget_spent:
        table.add_row("ended early", summary.budget_spent)
    if summary.note is not None:
        table.add_row("note", summary.note)
    for reason, count in summary.failures.items():
        table.add_row("failed", f"{count} x {reason}")
    if summary.best_trial is not None:
        table.add_row(f"best {summary.metric}", f"[bold]{summary.best_value:.4f}[/bold] (trial {summary.best_trial})")
        for name, value in summary.best_params.items():
            table.add_row(f"  {name}", format_value(value))
        for row in summary.pareto or []:
            table.add_row("Pareto front", "  ".join(f"{name} {format_value(value)}" for name, value in row.items()))
    elif study.best_so_far is not None:
        number, value = study.best_so_far
        table.add_row(f"{summary.metric} so far", f"{value:.4f} (trial {number}, not complete)")
    if summary.final is not None:
        _add_final(table, summary.final, folder)
    if summary.best_config is not None:
        table.add_row("best_config", summary.best_config)
        table.add_row("train it", train_again(folder))
    table.add_row("results", folder)
    if (study.plan.folder / "report.html").exists():
        table.add_row("look at it", f"{folder}/report.html")
    if study.interrupted or (summary.budget_spent and summary.budget_spent == study.spent):
        table.add_row("go on", GO_ON)
    end = "interrupted" if study.interrupted else "completed" if summary.best_trial is not None else "found nothing"
    title = f"{summary.strategy} search {end}"
    # lines are folded, not cut, so that they can be copied; files and pipes take wide lines
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)
    try:
        with suppress(SystemExit):  # rich's, of a pipe whose reader went away: … | head
            console.print(Panel.fit(table, title=title))
    except OSError as error:  # of a file that the output goes to; the results are elsewhere
        log.warning("the summary cannot be shown (%s); it is in %s/summary.json", error.strerror or error, folder)
