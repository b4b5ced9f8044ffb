"""When a search has spent its reports or its time, or reached its target."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.sampling.proposals import distinct_settings
from mistral_ner.hyperopt.spec.plan import Plan

_ENOUGH_TRIALS = 6  # before max_failure_rate is applied
_FINALISTS = 2  # a race of fewer decides nothing
_MARGIN = 1.1  # the race itself expects that a training takes as long as those before


@dataclass
class Clock:
    """The wall time of one run of a search, and when ``timeout`` ends it."""

    plan: Plan
    made_before: int = 0  # reports of earlier runs
    trains_finals: bool = False  # whether final trainings follow, for which timeout has to last, too
    started: float = field(default_factory=time.monotonic)
    _stopped_at: float | None = None
    _up: str | None = None  # that time ran out, in words

    @property
    def seconds(self) -> float:
        """Seconds of this run until the clock is stopped."""
        return time.monotonic() - self.started if self._stopped_at is None else self._stopped_at

    def stop(self, seconds: float | None = None) -> None:
        """Fix the time of this run: at ``seconds``, or at what has passed until now."""
        self._stopped_at = time.monotonic() - self.started if seconds is None else seconds

    @property
    def deadline(self) -> float | None:
        """When ``timeout`` is over, by ``time.monotonic``."""
        timeout = self.plan.config.hyperopt.timeout
        return None if timeout is None else self.started + timeout

    def time_is_up(self, reports: int, completed: int) -> str | None:
        """Return in words that ``timeout`` ends the search; once it has, it stays so.

        Args:
            reports: made by all trials.
            completed: trials, which can race for the final model.
        """
        timeout, made = self.plan.config.hyperopt.timeout, reports - self.made_before
        if timeout is None or self._up is not None:
            return self._up
        kept = 0.0
        if made and completed >= _FINALISTS and self.trains_finals and self.plan.config.hyperopt.final.enabled:
            training = self.plan.reports_per_trial * self.seconds * self.plan.at_once / made
            kept = seconds_for_finals(self.plan, training, timeout - self.seconds)
        if self.seconds >= timeout - kept:
            share = f", {kept:.0f} s of them for final trainings" if kept else ""
            self._up = f"time ran out (timeout={timeout:g} s{share})"
        return self._up


def seconds_for_finals(plan: Plan, training: float, left: float) -> float:
    """Return the seconds of ``timeout`` to keep for the final trainings: 0 if they are too few for a lap of two.

    They get the share of the time that ``final.share`` names, or as much as they can use if that is less.

    Args:
        plan: the search, which has a timeout.
        training: seconds that a whole training takes, beside as many as the search runs at once.
        left: seconds of ``timeout`` that are left.
    """
    final, at_once = plan.config.hyperopt.final, plan.passes
    assert plan.config.hyperopt.timeout is not None
    share = 1.0 if final.share is None else final.share
    most = plan.config.hyperopt.timeout * share / (1 + share)
    laps = (final.seeds - 1) * math.ceil((final.top_k + 1) / at_once)  # the search has run the first seed
    lap = math.ceil(_FINALISTS / at_once) * training
    if not laps or lap > most or _MARGIN * lap > left:
        return 0.0
    # one more, for the trial that is running when they should begin; some searches look at the clock between trials
    # only, and the next look should not find that it is too late
    return min(most, max((laps + 1) * training, _MARGIN * (lap + training)))


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
