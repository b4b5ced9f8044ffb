"""The race of the best settings for the final model: seed after seed, while some could still win and time is left.

The search's own runs are the first lap: they are on disk. Each further lap trains the settings that are left with a new
seed. Settings leave the race when

- a test says that they cannot win (:func:`~mistral_ner.hyperopt.results.bootstrap.is_worse`): their F1 on dev is under
  that of the best, by the new seeds alone, which did not choose them. The test is made after every lap and against
  every other finalist, and the best settings are to be dropped with a probability of 5% at most. For that, each of the
  tests gets its share of the 5% (Bonferroni). Comparing all with the best alone needs no more shares than there are
  others (Hsu 1984, Annals of Statistics 12, 1136-1144). Dropping settings lap by lap is the idea of Hoeffding races
  (Maron and Moore 1993, NIPS 6) and of F-Race (Birattari et al. 2002, GECCO);
- the time does not pay for them: all laps together take at most ``hyperopt.final.share`` of the search's training time,
  and what is left of ``hyperopt.timeout``. The best so far go on, and the default config, which they are compared with.

Without a timeout, decisions follow from what is on disk when a lap begins, so that a race that was cut off goes on as
it would have.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mistral_ner.hyperopt.results.bootstrap import is_worse, pool_variance
from mistral_ner.hyperopt.results.trainings import Finalist, Trainings, is_default, seconds_of
from mistral_ner.hyperopt.spec.plan import Plan

log = logging.getLogger(__name__)

ERROR = 0.05  # the probability that the best settings are dropped by a test
_TESTED_BY = "eval_f1"  # the metric that the test resamples; settings that are chosen by another are not tested


@dataclass
class Race:
    """Runs the laps.

    Args:
        trainings: train and score.
        finalists: the settings to compare.
        seeds: of the laps; the first is that of the search.
        deadline: when ``hyperopt.timeout`` is over, by ``time.monotonic``; None if there is none.
    """

    trainings: Trainings
    finalists: list[Finalist]
    seeds: Sequence[int]
    deadline: float | None = None
    cut: str | None = None  # what the time did not pay for, in words
    _spent: float = 0.0  # seconds of the laps so far
    _laps: list[int] = field(default_factory=list)  # the seeds so far

    @property
    def plan(self) -> Plan:
        """The search."""
        return self.trainings.plan

    @property
    def running(self) -> list[Finalist]:
        """The finalists that have not left the race, the best first; of equals in their order."""
        left = [one for one in self.finalists if one.out is None]
        return sorted(left, key=lambda one: -self.plan.sign * one.mean) if self._laps else left

    @property
    def new_seeds(self) -> list[int]:
        """The seeds so far that did not choose the finalists."""
        return self._laps[1:]

    def run(self) -> list[Finalist]:
        """Run the race; return the finalists that ran it to its end, the best first."""
        self._leave_out_late_default()
        self._lap([one for one in self.finalists if one.out is None], self.seeds[0])
        for seed in self.seeds[1:]:
            # one that is alone is still trained with a new seed: its value in the search is too high
            if not (running := self.running) or (len(running) == 1 and self.new_seeds):
                break
            left, why = self._limit()
            paid = self._paid(running, left)
            if len(paid) < min(2, len(running)):
                self._say(f"seed {seed} was left out", why)
                break
            for one in running:
                if one not in paid:
                    one.out = f"not trained with seed {seed}: no time left"
            if len(paid) < len(running):
                names = ", ".join(one.candidate.name for one in running if one not in paid)
                self._say(f"{names} stopped before seed {seed}", why)
            self._lap(paid, seed)
            self._drop_the_beaten()
        return self.running

    def _leave_out_late_default(self) -> None:
        """Take the default config out of the race if the search has not trained it and there is no time to do so."""
        of_search = [one for one in self.finalists if one.candidate.trial is not None]
        longest = max((seconds_of(self.plan.folder / one.candidate.name) for one in of_search), default=0.0)
        if self.deadline is not None and of_search and self.deadline - time.monotonic() < longest:
            for one in self.finalists:
                if one not in of_search:
                    one.out = "not trained: no time left"
                    self._say("the default config was left out", self._late)

    @property
    def _late(self) -> str:
        return f"hyperopt.timeout={self.plan.config.hyperopt.timeout:g} s leaves no time for more"

    def _say(self, what: str, why: str) -> None:
        self.cut = "; ".join(filter(None, [self.cut, what]))
        log.info("final trainings: %s: %s", what, why)

    def _lap(self, finalists: Sequence[Finalist], seed: int) -> None:
        self.trainings.train(finalists, seed)
        self._laps.append(seed)
        folders = [Path(one.trained[seed][0].output_dir) for one in finalists if seed in one.trained]
        took = [seconds_of(folder) for folder in folders if self._is_new(folder)]
        self._spent += max(sum(took) / self.trainings.workers.at_once, *took) if took else 0.0

    def _is_new(self, folder: Path) -> bool:
        return folder.parent != self.plan.folder

    def _paid(self, running: Sequence[Finalist], left: float) -> list[Finalist]:
        """Return the finalists that ``left`` seconds pay a lap for: the default config and the best of the others."""
        if left == math.inf:
            return list(running)
        longest, at_once = max(map(self._seconds_per_training, running)), self.trainings.workers.at_once
        many = math.floor(max(0.0, left) / max(longest, 1e-9)) * at_once
        default = [one for one in running if is_default(self.plan, one.candidate)]
        kept = [*running[:1], *default, *running[1:]]
        chosen = [one for place, one in enumerate(kept) if one not in kept[:place]][:many]
        return [one for one in running if one in chosen]

    def _limit(self) -> tuple[float, str]:
        """Return the seconds of wall time that are left, and in words what limits them."""
        hyperopt, limits = self.plan.config.hyperopt, [(math.inf, "nothing limits them")]
        search = sum(map(seconds_of, self.plan.folder.glob("trial_*"))) / self.plan.at_once
        if hyperopt.final.share is not None and search:
            text = f"they take at most {hyperopt.final.share:g} of the search's time (hyperopt.final.share)"
            limits.append((hyperopt.final.share * search - self._spent, text))
        if self.deadline is not None:
            limits.append((self.deadline - time.monotonic(), self._late))
        return min(limits)

    def _seconds_per_training(self, finalist: Finalist) -> float:
        """Return the mean seconds of a finalist's trainings, were as many of them run side by side as will be now."""
        took = []
        for config, _ in finalist.trained.values():
            folder = Path(config.output_dir)
            crowd = 1.0 if self._is_new(folder) else self.trainings.workers.at_once / self.plan.at_once
            took.append(crowd * seconds_of(folder))
        return sum(took) / len(took)

    def _drop_the_beaten(self) -> None:
        """Take those out of the race that a test says cannot win."""
        running, last = self.running, len(self._laps) == len(self.seeds)
        if len(running) < 2 or last or self.plan.config.hyperopt.metric != _TESTED_BY:
            return
        tests = (len(self.finalists) - 1) * max(1, len(self.seeds) - 2)  # after each lap but the first and the last
        noise, freedom = pool_variance([[value for _, value in one.trained.values()] for one in self.finalists])
        found = self.trainings.scores(running, "dev")
        counts = [[scores[seed].counts for seed in self.new_seeds] for scores in found]
        best = running[0]
        for one, of_one in zip(running[1:], counts[1:], strict=True):
            if is_worse(of_one, counts[0], noise, freedom, ERROR / tests):
                gap = self.plan.sign * (best.mean - one.mean)
                one.out = f"cannot win: {gap:.4f} behind {best.candidate.name} after seed {self._laps[-1]}"
                log.info("final trainings: %s %s", one.candidate.name, one.out)
