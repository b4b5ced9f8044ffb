"""Asynchronous successive halving over reports (Li et al. 2018, https://arxiv.org/abs/1810.05934), in two forms.

:class:`Stopping` stops a trial for good when it falls below the others at a rung. :class:`Promotion` is the paper's own
form: every trial pauses at its rung, and a free slot continues the best paused trial or starts a new one. Pausing costs
nothing, because a training that is called again continues in its folder.

Both count a trial by its number in the study, so that it stays the same trial in another worker or a resumed search.
What makes one trial better than another at a rung is the business of :mod:`mistral_ner.hyperopt.sampling.promise`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.sampling.promise import Judge, Scores, Seen
from mistral_ner.hyperopt.spec.plan import Plan

# Scores trials at a report, by what each has shown up to it.
Compare = Callable[[int, Mapping[int, Seen]], Scores]


class Rule(ABC):
    """Decides at every report whether a trial continues."""

    pauses: ClassVar[bool]  # whether a trial that was told to end may continue later

    def __init__(self, rungs: list[int], reduction_factor: float, compare: Compare) -> None:
        """Make a rule that has seen no report.

        Args:
            rungs: reports at which trials are compared, ascending, without a trial's last.
            reduction_factor: one trial in so many continues.
            compare: scores the trials at a rung.
        """
        self.rungs, self.reduction_factor, self.compare = rungs, reduction_factor, compare
        self.stopped: dict[int, int] = {}  # trials that stopped for good, and at which report
        self.paused: set[int] = set()  # trials that wait at a rung

    @abstractmethod
    def reported(self, trial: int, report: int, seen: Seen) -> bool:
        """Record a report and return whether the trial stops or pauses there."""

    @abstractmethod
    def settle(self, trials: Iterable[FrozenTrial]) -> None:
        """Correct who stopped or waits, after the reports of an earlier run were recorded trial by trial."""

    @abstractmethod
    def verdict(self, trial: int) -> str | None:
        """Return in words how a trial that stopped or waits compares with the others at its rung."""

    def next(self) -> int | None:
        """Return the paused trial to continue, or None."""
        return None

    def hold(self, trial: int) -> None:
        """Pause a trial that would continue, because nothing pays for it yet."""
        raise NotImplementedError(f"{type(self).__name__} pauses no trial")

    def best_paused(self) -> int | None:
        """Return the best trial of those that got furthest and wait there, whether or not its rung lets it pass."""
        return None


class Stopping(Rule):
    """Stops a trial whose score at a rung is below the cutoff, a quantile of the scores of those that came before it.

    Cutoff and brackets are those of Ray Tune's ``AsyncHyperBandScheduler``. Ties differ: Ray lets every trial continue
    that equals the cutoff. Entity F1 is exactly 0 for many settings at the first rungs, and all of those would run to
    their end. Here a tie stops once enough trials that were as good have continued.

    Args:
        brackets: how many brackets there are. Bracket ``s`` skips the first ``s`` rungs; a trial is in it with a
            probability proportional to ``exp(-s)``.
        seed: decides, together with a trial's number, which bracket the trial is in.
    """

    pauses = False

    def __init__(
        self, rungs: list[int], reduction_factor: float, compare: Compare, brackets: int = 1, seed: int = 0
    ) -> None:
        super().__init__(rungs, reduction_factor, compare)
        self._brackets = [[_Rung(report) for report in rungs[skipped:]] for skipped in range(brackets)]
        self._seed = seed
        self._verdicts: dict[int, str] = {}

    def reported(self, trial: int, report: int, seen: Seen) -> bool:
        for rung in reversed(self._bracket(trial)):
            if report >= rung.report and trial not in rung.seen:
                stops = self._stops(rung, trial, seen)
                if stops:
                    self.stopped[trial] = report
                else:
                    rung.continued.append(trial)
                rung.seen[trial] = seen
                return stops
        return False

    def _bracket(self, trial: int) -> list[_Rung]:
        weights = np.exp(-np.arange(len(self._brackets)))
        drawn = np.random.default_rng([self._seed, trial]).choice(len(weights), p=weights / weights.sum())
        return self._brackets[drawn]

    def _stops(self, rung: _Rung, trial: int, seen: Seen) -> bool:
        if not rung.seen:
            return False
        scores = self.compare(rung.report, {**rung.seen, trial: seen})
        before, mine = [scores.of[other] for other in rung.seen], scores.of[trial]
        cutoff = float(np.percentile(before, (1 - 1 / self.reduction_factor) * 100))
        self._verdicts[trial] = scores.tell(trial, cutoff)
        if mine != cutoff:
            return mine < cutoff
        as_good = sum(scores.of[other] >= mine for other in rung.continued)
        return as_good >= (len(before) + 1) / self.reduction_factor

    def settle(self, trials: Iterable[FrozenTrial]) -> None:
        """Forget the stop of a trial that ended, or that reported again: it had continued."""
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        last = {trial.number: max(trial.intermediate_values, default=0) for trial in running}
        self.stopped = {trial: report for trial, report in self.stopped.items() if last.get(trial) == report}

    def verdict(self, trial: int) -> str | None:
        return self._verdicts.get(trial)


@dataclass
class _Rung:
    report: int
    seen: dict[int, Seen] = field(default_factory=dict)  # of each trial that came here
    continued: list[int] = field(default_factory=list)  # the trials that did not stop here


class Promotion(Rule):
    """Pauses a trial at each rung, unless it is among the best there: one in ``reduction_factor``."""

    pauses = True

    def __init__(self, rungs: list[int], reduction_factor: float, compare: Compare) -> None:
        super().__init__(rungs, reduction_factor, compare)
        self._seen: dict[int, dict[int, Seen]] = {rung: {} for rung in rungs}  # by rung and trial
        self._promoted: set[tuple[int, int]] = set()  # rung and trial

    def reported(self, trial: int, report: int, seen: Seen) -> bool:
        if report not in self.rungs:
            return False
        self._seen[report][trial] = seen
        if (report, trial) in self._promoted:  # an objective that does not continue, but begins again
            return False
        self.paused.discard(trial)
        if trial in self._best(report):
            self._promoted.add((report, trial))
            return False
        self.paused.add(trial)
        return True

    def settle(self, trials: Iterable[FrozenTrial]) -> None:
        """Let the trials wait that run and reported last at a rung, and remember which rungs the others have passed.

        Reports were recorded in another order than they came, so that other trials may have passed a rung.
        """
        self.paused.clear()
        self._promoted.clear()
        for trial in trials:
            last = max(trial.intermediate_values, default=0)
            self._promoted |= {(rung, trial.number) for rung in self.rungs if rung < last}
            if trial.state == TrialState.RUNNING and last in self.rungs:
                self.paused.add(trial.number)

    def verdict(self, trial: int) -> str | None:
        at = [rung for rung in self.rungs if trial in self._seen[rung]]
        if not at:
            return None
        ranked, scores = self._ranked(at[-1])
        passing = ranked[: self._count(ranked)]
        return scores.tell(trial, scores.of[passing[-1]] if passing else None)

    def next(self) -> int | None:
        """Return the best paused trial of the highest rung that has one to continue, or None."""
        for rung in reversed(self.rungs):
            for trial in self._best(rung):
                if trial in self.paused and (rung, trial) not in self._promoted:
                    return self._promote(rung, trial)
        return None

    def hold(self, trial: int) -> None:
        self.paused.add(trial)
        rung = max(rung for rung in self.rungs if trial in self._seen[rung])
        self._promoted.discard((rung, trial))

    def best_paused(self) -> int | None:
        for rung in reversed(self.rungs):
            for trial in self._ranked(rung)[0]:
                if trial in self.paused:
                    return self._promote(rung, trial)
        return None

    def _promote(self, rung: int, trial: int) -> int:
        self._promoted.add((rung, trial))
        self.paused.discard(trial)
        return trial

    def _best(self, rung: int) -> list[int]:
        """Return the trials that a rung lets pass, the best first."""
        ranked, _ = self._ranked(rung)
        return ranked[: self._count(ranked)]

    def _count(self, ranked: list[int]) -> int:
        return math.floor(len(ranked) / self.reduction_factor)

    def _ranked(self, rung: int) -> tuple[list[int], Scores]:
        scores = self.compare(rung, self._seen[rung])
        return sorted(scores.of, key=lambda trial: (-scores.of[trial], trial)), scores


def build_rule(plan: Plan) -> Rule:
    """Return the rule that ``hyperopt.asha_type`` names."""
    hyperopt, compare = plan.config.hyperopt, Judge(plan).scores
    if plan.pauses:
        return Promotion(plan.rungs, hyperopt.asha_reduction_factor, compare)
    return Stopping(plan.rungs, hyperopt.asha_reduction_factor, compare, hyperopt.asha_brackets, plan.config.seed)
