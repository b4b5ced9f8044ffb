"""When a search has spent its reports or its time, or reached its target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.proposals import distinct_settings

_ENOUGH_TRIALS = 6  # before max_failure_rate is applied


def find_spent_budget(plan: Plan, seconds: float, reached: bool) -> str | None:
    """Return in words which of timeout and target ends the search, or None.

    Args:
        plan: the search.
        seconds: wall time of this run of it.
        reached: whether some report is as good as the target.
    """
    hyperopt = plan.config.hyperopt
    if hyperopt.timeout is not None and seconds >= hyperopt.timeout:
        return f"time ran out (timeout={hyperopt.timeout:g} s)"
    return f"the target is reached ({hyperopt.metric} {hyperopt.target:g})" if reached else None


def find_used_up_space(plan: Plan, trials: Sequence[FrozenTrial]) -> str | None:
    """Return in words that the trials have tried every setting of the search space, or None."""
    settings = plan.settings
    if settings is None or len(trials) < len(settings) or len(distinct_settings(trials)) < len(settings):
        return None
    return f"the search space is used up ({len(settings)} settings)"


def reaches_target(plan: Plan, value: float) -> bool:
    """Whether a value of the metric is as good as ``target``; an infinite one is a fault, not a success."""
    target = plan.config.hyperopt.target
    return target is not None and math.isfinite(value) and plan.sign * value >= plan.sign * target


def any_reaches_target(plan: Plan, values: Iterable[float]) -> bool:
    """Whether one of several values of the metric is as good as ``target``."""
    return any(reaches_target(plan, value) for value in values)


@dataclass
class Ledger:
    """Counts the trials and the reports of a search, and says what its budget still pays for."""

    plan: Plan
    reports: int = 0  # made so far by all trials
    asked: int = 0  # trials that were started
    ended: int = 0
    failed: int = 0
    completed: int = 0  # trials that used their whole budget
    reached: bool = False  # whether some report is as good as the target
    made: Counter[int] = field(default_factory=Counter)  # reports by trial
    at_work: set[int] = field(default_factory=set)  # running trials that will report next

    def count_trial(self, state: TrialState) -> None:
        """Count a trial of an earlier run."""
        self.asked += 1
        if state.is_finished():
            self.count_end(state)

    def count_end(self, state: TrialState) -> None:
        """Count the end of a trial."""
        self.ended += 1
        self.failed += state == TrialState.FAIL
        self.completed += state == TrialState.COMPLETE

    @property
    def too_many_failures(self) -> str | None:
        """How many trials failed, in words, if ``max_failure_rate`` does not allow so many; else None."""
        rate = self.plan.config.hyperopt.max_failure_rate
        if self.ended >= _ENOUGH_TRIALS and self.failed > rate * self.ended:
            return f"{self.failed} of {self.ended} trials failed (max_failure_rate={rate:.2g})"
        return None

    def count(self, number: int, value: float) -> None:
        """Count a trial's report towards ``max_reports`` and ``target``."""
        self.reports += 1
        self.made[number] += 1
        self.reached = self.reached or reaches_target(self.plan, value)

    def affords(self, number: int | None, running: Collection[int]) -> bool:
        """Whether ``max_reports`` pays for a trial until it is next judged, in addition to the trials at work.

        Where trials pause, it must then still pay for the rest of the trial that is nearest to its end, unless some
        trial has completed: otherwise a search might end with trials that all wait.

        Args:
            number: a running trial, or None for a new one.
            running: the trials that have not ended.
        """
        most = self.plan.config.hyperopt.max_reports
        if most is None:
            return True
        new = -1 if number is None else number
        legs = {trial: self.plan.leg(self.made[trial]) for trial in {*self.at_work, new}}
        return self.reports + sum(legs.values()) + self._rest(legs, running) <= most

    def affords_winner(self, running: Collection[int]) -> bool:
        """Whether ``max_reports`` pays for the rest of a trial that waits, while no trial has completed."""
        most = self.plan.config.hyperopt.max_reports
        rest = self._rest({}, running)
        return most is not None and 0 < rest < self.plan.reports_per_trial and self.reports + rest <= most

    def _rest(self, legs: dict[int, int], running: Collection[int]) -> int:
        """Return the reports that the trial nearest to its end needs after ``legs``; 0 if there is no need for it."""
        if not self.plan.pauses or self.completed:
            return 0
        trials = {*running, *legs}
        furthest = max((self.made[trial] + legs.get(trial, 0) for trial in trials), default=0)
        return self.plan.reports_per_trial - furthest
