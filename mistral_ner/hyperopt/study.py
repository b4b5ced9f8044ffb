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
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from mistral_ner import files
from mistral_ner.config import HyperoptConfig, UserError, to_container
from mistral_ner.hyperopt.plan import Plan, trial_name

REASON = "reason"  # user attribute: why a trial failed


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
    _reports: dict[int, dict[int, float]] = field(default_factory=dict)

    @classmethod
    def create(cls, plan: Plan) -> Study:
        """Make the study's folder and storage.

        Raises:
            StudyExistsError: there is one of this name.
        """
        hyperopt = plan.config.hyperopt
        if (plan.folder / "config.yaml").exists():
            raise StudyExistsError(
                f"the study {hyperopt.study_name!r} exists already in {plan.folder}; "
                f"fix: another name, hyperopt.study_name={hyperopt.study_name}_2"
            )
        plan.folder.mkdir(parents=True, exist_ok=True)
        files.write_yaml(plan.folder / "config.yaml", to_container(plan.config))
        _quiet_optuna()
        study = optuna.create_study(
            study_name=hyperopt.study_name,
            storage=_storage(plan),
            sampler=sampler(hyperopt, plan.config.seed, plan.space.conditional),
            direction="maximize" if hyperopt.mode == "max" else "minimize",
        )
        study.set_user_attr("search_space", plan.space.describe())
        return cls(plan, study)

    def ask(self) -> Asked:
        """Propose the next trial and write its folder with its config."""
        trial = self.optuna.ask()
        values = self.plan.space.suggest(trial)
        config = self.plan.trial_config(trial.number, values)
        files.write_yaml(self.plan.folder / trial_name(trial.number) / "config.yaml", to_container(config))
        self._running[trial.number], self._reports[trial.number] = trial, {}
        return Asked(trial.number, values)

    def report(self, number: int, report: int, metrics: Mapping[str, Any]) -> float:
        """Record a report of a running trial once; returns the metric. ``report`` counts from 1."""
        value = float(metrics[self.plan.config.hyperopt.metric])
        if report not in self._reports[number]:
            self._reports[number][report] = value
            self._running[number].report(value, report)
        return value

    def end(self, number: int, failure: str | None = None) -> TrialState:
        """Decide and record how a trial ended; ``failure`` says what broke it. Returns the state."""
        trial, reports = self._running.pop(number), self._reports.pop(number)
        values = [value for _, value in sorted(reports.items())]
        if failure is None and not values:
            failure = f"ended without a report of {self.plan.config.hyperopt.metric}"
        if failure is None and not all(math.isfinite(value) for value in values):
            failure = f"{self.plan.config.hyperopt.metric} is not finite"
        if failure is not None:
            trial.set_user_attr(REASON, failure)
            return self.optuna.tell(trial, state=TrialState.FAIL).state
        if len(values) < self.plan.reports_per_trial:
            return self.optuna.tell(trial, state=TrialState.PRUNED).state
        best = max(values) if self.plan.config.hyperopt.mode == "max" else min(values)
        return self.optuna.tell(trial, best, state=TrialState.COMPLETE).state

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the trials that were asked for and have not ended."""
        return tuple(self._running)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial so far, by number."""
        return self.optuna.get_trials(deepcopy=False)

    @property
    def out_of_time(self) -> bool:
        """Whether ``timeout`` seconds have passed."""
        timeout = self.plan.config.hyperopt.timeout
        return timeout is not None and self.seconds >= timeout

    @property
    def seconds(self) -> float:
        """Wall time since the study was opened."""
        return time.monotonic() - self.started


def sampler(hyperopt: HyperoptConfig, seed: int, conditional: bool) -> optuna.samplers.BaseSampler:
    """Return the Optuna sampler of that name, seeded."""
    startup = hyperopt.optuna_n_startup_trials
    if hyperopt.optuna_sampler == "TPE":
        # constant liar: a worker's running trials count as poor, so that no two get the same point
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=conditional, constant_liar=True
        )
    if hyperopt.optuna_sampler == "CMA":
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=max(1, startup))
    if hyperopt.optuna_sampler == "GPSampler":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    if hyperopt.optuna_sampler == "QMC":
        return optuna.samplers.QMCSampler(seed=seed, scramble=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _storage(plan: Plan) -> BaseStorage | str:
    url = plan.config.hyperopt.storage_url
    return url if url else JournalStorage(JournalFileBackend(str(plan.folder / "study.journal")))


def _quiet_optuna() -> None:
    import warnings

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
