"""The study: every trial of a search, on disk, and the one place that decides how a trial ended.

Whichever engine runs the trials, it asks here for settings, passes every report on, and says when a trial is over.
A trial that used its whole budget is COMPLETE with its best report as value, one that was stopped early is PRUNED
with its intermediate values, a broken one FAIL with its reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from mistral_ner import files
from mistral_ner.config import UserError, to_container
from mistral_ner.hyperopt.plan import Plan, trial_name
from mistral_ner.hyperopt.samplers import pruner, quiet, sampler

REASON = "reason"  # user attribute of a trial: why it failed
STARTED = "started"  # user attribute of a study: when, in seconds since the epoch
WORKER_DIED = "the worker process died (killed, or out of memory)"  # a reason


class StudyExistsError(UserError):
    """A study of this name is on disk already."""


@dataclass
class Asked:
    """A trial that was proposed: its number and its settings by parameter name."""

    number: int
    values: dict[str, Any]


@dataclass
class Study:
    """One search on disk."""

    plan: Plan
    optuna: optuna.Study
    started: float = field(default_factory=time.monotonic)
    _running: dict[int, Trial] = field(default_factory=dict)
    reports: int = 0  # made so far, over all trials
    _asked: int = 0
    _reached: bool = False

    @classmethod
    def create(cls, plan: Plan) -> Study:
        """Make the study's folder and storage, and enqueue the settings to be tried first.

        Raises:
            StudyExistsError: there is one of this name.
        """
        hyperopt = plan.config.hyperopt
        exists = StudyExistsError(
            f"the study {hyperopt.study_name!r} exists already in {hyperopt.storage_url or plan.folder}; "
            f"fix: another name, hyperopt.study_name={hyperopt.study_name}_2"
        )
        if (plan.folder / "config.yaml").exists():
            raise exists
        quiet()
        plan.folder.mkdir(parents=True, exist_ok=True)
        try:
            study = optuna.create_study(
                study_name=hyperopt.study_name,
                storage=storage(plan.folder, hyperopt.storage_url),
                sampler=sampler(plan),
                pruner=pruner(plan),
                direction="maximize" if hyperopt.mode == "max" else "minimize",
            )
        except optuna.exceptions.DuplicatedStudyError:
            raise exists from None
        files.write_yaml(plan.folder / "config.yaml", to_container(plan.config))
        study.set_user_attr("search_space", plan.space.describe())
        study.set_user_attr(STARTED, time.time())
        for values in plan.enqueued:
            study.enqueue_trial(plan.space.encode(values))
        return cls(plan, study)

    def ask(self) -> Asked:
        """Propose the next trial and write its folder with its config."""
        trial = self.optuna.ask()
        values = self.plan.space.suggest(trial)
        config = self.plan.trial_config(trial.number, values)
        files.write_yaml(self.plan.folder / trial_name(trial.number) / "config.yaml", to_container(config))
        self._running[trial.number] = trial
        self._asked += 1
        return Asked(trial.number, values)

    def report(self, number: int, report: int, metrics: Mapping[str, Any]) -> float:
        """Record a report of a running trial; returns the metric. ``report`` counts from 1."""
        value = float(metrics[self.plan.config.hyperopt.metric])
        self._running[number].report(value, report)
        self.count(value)
        return value

    def count(self, value: float) -> None:
        """Count a report towards ``max_reports`` and ``target``."""
        self.reports += 1
        self._reached = self._reached or reaches_target(self.plan, value)

    def reports_of(self, number: int) -> dict[int, float]:
        """Return the metric at each report that a running trial has made, in any process."""
        return self.optuna._storage.get_trial(self._running[number]._trial_id).intermediate_values

    def end(self, number: int, failure: str | None = None) -> FrozenTrial:
        """Decide and record how a trial ended; ``failure`` says what broke it."""
        reports = self.reports_of(number)
        trial = self._running.pop(number)
        metric = self.plan.config.hyperopt.metric
        if failure is None and not reports:
            failure = f"ended without a report of {metric}"
        if failure is None and not all(math.isfinite(value) for value in reports.values()):
            failure = f"{metric} is not finite"
        if failure is not None:
            trial.set_user_attr(REASON, failure)
            return self.optuna.tell(trial, state=TrialState.FAIL)
        if len(reports) < self.plan.reports_per_trial:
            return self.optuna.tell(trial, state=TrialState.PRUNED)
        best = max(reports.values(), key=lambda value: self.plan.sign * value)
        return self.optuna.tell(trial, best, state=TrialState.COMPLETE)

    @property
    def complete(self) -> bool:
        """Whether every trial of the budget was asked for."""
        return self._asked >= self.plan.config.hyperopt.num_trials

    @property
    def spent(self) -> str | None:
        """Which budget ended the search before its last trial, or None."""
        return spent_budget(self.plan, self.seconds, self.reports, self._reached)

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the trials that were asked for and have not ended."""
        return tuple(self._running)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial that this study ran or runs, by number."""
        return [trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]

    @property
    def seconds(self) -> float:
        """Wall time since the study was opened."""
        return time.monotonic() - self.started


def spent_budget(plan: Plan, seconds: float, reports: int, reached: bool) -> str | None:
    """Return which of timeout, ``max_reports`` and target is used up, in words, or None."""
    hyperopt = plan.config.hyperopt
    if hyperopt.timeout is not None and seconds >= hyperopt.timeout:
        return f"time ran out (timeout={hyperopt.timeout:g} s)"
    if hyperopt.max_reports is not None and reports >= hyperopt.max_reports:
        return f"the reports are spent (max_reports={hyperopt.max_reports})"
    return f"the target is reached ({hyperopt.metric} {hyperopt.target:g})" if reached else None


def reaches_target(plan: Plan, value: float) -> bool:
    """Whether a value of the metric is as good as ``target``."""
    target = plan.config.hyperopt.target
    return target is not None and plan.sign * value >= plan.sign * target


def storage(folder: Path, url: str | None) -> BaseStorage | str:
    """Return the Optuna storage of a study: a journal file in its folder, or what the URL says."""
    return url if url else JournalStorage(JournalFileBackend(str(folder / "study.journal")))
