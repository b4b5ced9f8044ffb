"""A search in figures: counts, the best trial, the table of trials, all read from the study."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.sampling.promise import best_value
from mistral_ner.hyperopt.spec.plan import trial_name
from mistral_ner.hyperopt.study.budget import any_reaches_target, find_used_up_space
from mistral_ner.hyperopt.study.study import REASON, VERDICT, Study
from mistral_ner.training.checkpoint import CHECKPOINTS, find_best


@dataclass
class Summary:
    """A search in figures, as ``summary.json`` holds it."""

    study_name: str
    strategy: str
    metric: str
    mode: str
    n_trials: int
    n_complete: int
    n_pruned: int
    n_failed: int
    n_unfinished: int  # cut off by the end of the search; a resumed search continues them
    best_value: float | None
    best_trial: int | None
    best_params: dict[str, Any]
    reports_run: int
    reports_full: int  # what it would have cost to run every trial to its end
    reports_saved: int  # of trials that were stopped early; one that failed or was cut off saves nothing
    wall_s: float
    budget_spent: str | None  # which budget ended the search before its last trial
    failures: dict[str, int]  # how often each reason occurred
    note: str | None = None  # what is unusual about the search
    best_config: str | None = None  # what best_config.yaml holds
    pareto: list[dict[str, Any]] | None = None  # of a search for two metrics: the trials that no other beats in both
    final: dict[str, Any] | None = None  # final/final.json


UNFINISHED = "unfinished"  # user attribute of a study: the trial that it left where none was complete


def describe_reports(summary: Mapping[str, Any]) -> str:
    """Return how many reports were run and saved; ``summary`` holds the fields of a Summary."""
    run, saved = summary["reports_run"], summary["reports_saved"]
    return f"{run} run, {saved} saved by stopping early ({share_saved(summary):.0%})"


def share_saved(summary: Mapping[str, Any]) -> float:
    """Return the share of the reports of the trials so far that stopping early has saved, 0 to 1."""
    run, saved = int(summary["reports_run"]), int(summary["reports_saved"])
    return saved / max(1, run + saved)


def find_eligible(study: Study) -> list[tuple[FrozenTrial, float]]:
    """Return the trials that may win, each with the value of its best report.

    They are the complete ones, and those that were cut off because they reached the target. If there are none, it is
    the unfinished one that :func:`choose_unfinished` left.
    """
    found = _find_whole(study)
    unfinished = [trial for trial in study.trials if is_unfinished_winner(study, trial.number)]
    return found or [(one, best_value(one, study.plan.sign)) for one in unfinished]


def _find_whole(study: Study) -> list[tuple[FrozenTrial, float]]:
    found = []
    for trial in study.trials:
        values = trial.intermediate_values
        reached = trial.state == TrialState.RUNNING and any_reaches_target(study.plan, values.values())
        if (trial.state == TrialState.COMPLETE or reached) and (best := find_best(values, study.plan.sign)):
            found.append((trial, best[1]))
    return found


def choose_unfinished(study: Study) -> None:
    """Note which trial a search leaves that has spent its budget before any trial was complete: the best so far."""
    if study.spent is None or _find_whole(study):
        return
    cut_off = [trial for trial in study.trials if trial.state == TrialState.RUNNING and trial.intermediate_values]
    cut_off = [one for one in cut_off if (study.plan.folder / trial_name(one.number) / CHECKPOINTS).is_dir()]
    best = find_best({one.number: best_value(one, study.plan.sign) for one in cut_off}, study.plan.sign)
    if best is not None and math.isfinite(best[1]):
        study.optuna.set_user_attr(UNFINISHED, best[0])


def is_unfinished_winner(study: Study, number: int) -> bool:
    """Whether a trial is the unfinished one that the search left, and has not gone on since."""
    left = study.optuna.user_attrs.get(UNFINISHED)
    return left == number and study.trials[number].state == TrialState.RUNNING


def summarise(study: Study) -> Summary:
    """Count a study's trials and find the best; the study may still run."""
    trials, hyperopt = study.trials, study.plan.config.hyperopt
    by_state = {state: [t for t in trials if t.state == state] for state in TrialState}
    complete = by_state[TrialState.COMPLETE]
    over = [*complete, *by_state[TrialState.PRUNED]]
    eligible = find_eligible(study)
    best = find_best({trial.number: value for trial, value in eligible}, study.plan.sign)
    params = {trial.number: trial.params for trial, _ in eligible}
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
        best_value=best[1] if best else None,
        best_trial=best[0] if best else None,
        best_params=study.plan.space.decode(params[best[0]]) if best else {},
        reports_run=sum(len(t.intermediate_values) for t in trials),
        reports_full=len(trials) * study.plan.reports_per_trial,
        reports_saved=sum(study.plan.reports_per_trial - len(t.intermediate_values) for t in over),
        wall_s=round(study.seconds_in_all, 3),
        budget_spent=_early_end(study, unfinished=bool(by_state[TrialState.RUNNING])),
        failures=failures,
        pareto=_pareto(study),
    )
    summary.note = _note_unfinished(study, summary) or _note(summary)
    return summary


def _note_unfinished(study: Study, summary: Summary) -> str | None:
    best = summary.best_trial
    if best is None or not is_unfinished_winner(study, best):
        return None
    made = len(study.trials[best].intermediate_values)
    return (
        f"No trial completed: the best so far is trial {best}, as it is after {made} of {study.plan.reports_per_trial} "
        "reports."
    )


def _early_end(study: Study, unfinished: bool) -> str | None:
    """Return why the search ended before its last trial, or None."""
    if unfinished or not study.complete:
        return study.spent
    started = len(study.trials) >= study.plan.config.hyperopt.num_trials
    return None if started else find_used_up_space(study.plan, study.trials)


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


def _pareto(study: Study) -> list[dict[str, Any]] | None:
    """Return the trials that no other beats in both metrics, or None if the search has one metric."""
    hyperopt = study.plan.config.hyperopt
    if hyperopt.second_metric is None:
        return None
    return [
        {"trial": t.number, hyperopt.metric: t.values[0], hyperopt.second_metric: t.values[1]}
        for t in sorted(study.optuna.best_trials, key=lambda t: -study.plan.sign * t.values[0])
    ]


def format_csv(study: Study) -> str:
    """Return the table of trials as CSV: a row for each, with a column for each parameter."""
    names = [parameter.name for parameter in study.plan.space]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "value", "reports", "seconds", *names, "reason"])
    for trial in study.trials:
        params = study.plan.space.decode(trial.params)
        row = [trial.number, trial.state.name, _value(trial), len(trial.intermediate_values), _seconds(trial)]
        writer.writerow([*row, *(params.get(name, "") for name in names), tell_reason(trial)])
    return text.getvalue()


def tell_reason(trial: FrozenTrial) -> str:
    """Return why a trial failed, or how it compared with others where it was stopped early."""
    return str(trial.user_attrs.get(REASON) or trial.user_attrs.get(VERDICT, ""))


def _value(trial: FrozenTrial) -> float | str:
    if trial.state == TrialState.COMPLETE:
        return float(trial.values[0])
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else ""


def _seconds(trial: FrozenTrial) -> float | str:
    return round(trial.duration.total_seconds(), 3) if trial.duration else ""
