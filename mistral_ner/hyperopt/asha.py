"""Asynchronous successive halving over reports (Li et al. 2018, https://arxiv.org/abs/1810.05934).

Ray Tune's scheduler stops a trial that is under its rung for good. :class:`Promotion` is the paper's own form: every
trial pauses at its rung, and a free slot goes on with the best that waits, or starts a new one. Pausing costs nothing,
because a training that is called again goes on in its folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.study import Study
from mistral_ner.hyperopt.watch import Watch
from mistral_ner.hyperopt.worker import FAILURE, REPORT


class DriverOnly:
    """Left out of Ray's own snapshots: the study on disk is what a search is continued from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass
class Promotion:
    """Which trials wait at which rung, and which of them goes on next."""

    rungs: list[int]
    reduction_factor: float
    sign: int
    values: dict[int, dict[int, float]] = field(default_factory=dict)  # rung to trial to metric
    promoted: set[tuple[int, int]] = field(default_factory=set)  # rung and trial
    paused: set[int] = field(default_factory=set)

    def reported(self, trial: int, report: int, value: float) -> bool:
        """Record a report; returns True where the trial pauses: at a rung, unless it may go on at once."""
        if report not in self.rungs:
            return False
        self.values.setdefault(report, {})[trial] = value
        self.paused.discard(trial)
        if trial in self._best(report):
            self.promoted.add((report, trial))
            return False
        self.paused.add(trial)
        return True

    def settle(self, trials: Iterable[FrozenTrial]) -> None:
        """Set right who waits, after the reports of an earlier run were recorded in any order."""
        for trial in trials:
            last = max(trial.intermediate_values, default=0)
            self.promoted |= {(rung, trial.number) for rung in self.rungs if rung < last}
            if trial.state != TrialState.RUNNING or last not in self.rungs:
                self.paused.discard(trial.number)

    def next(self) -> int | None:
        """Return the trial that goes on, of the highest rung that has one, or None."""
        for rung in reversed(self.rungs):
            for trial in self._best(rung):
                if trial in self.paused and (rung, trial) not in self.promoted:
                    self.promoted.add((rung, trial))
                    self.paused.discard(trial)
                    return trial
        return None

    def _best(self, rung: int) -> list[int]:
        at_rung = self.values.get(rung, {})
        count = math.floor(len(at_rung) / self.reduction_factor)
        return sorted(at_rung, key=lambda trial: (-self.sign * at_rung[trial], trial))[:count]


def promotion(plan: Plan) -> Promotion | None:
    """Return the paper's rule for ``asha_type: promotion``, None for ``stopping``."""
    hyperopt = plan.config.hyperopt
    if hyperopt.asha_type == "stopping":
        return None
    return Promotion(plan.rungs, hyperopt.asha_reduction_factor, plan.sign)


class StudyASHA(DriverOnly, ASHAScheduler):
    """ASHA over reports; every report is recorded in the study before it is judged.

    Trials are known by their number in the study, so that one that goes on in another worker, or in a resumed search,
    is the same trial at every rung.
    """

    def __init__(self, study: Study, watch: Watch, rule: Promotion | None) -> None:
        hyperopt = study.plan.config.hyperopt
        super().__init__(
            time_attr=REPORT,
            metric=hyperopt.metric,
            mode=hyperopt.mode,
            max_t=hyperopt.asha_max_t,
            grace_period=hyperopt.asha_grace_period or 1,
            reduction_factor=hyperopt.asha_reduction_factor,
            brackets=hyperopt.asha_brackets,
        )
        self.study, self.watch, self.rule = study, watch, rule
        self.stopped: set[int] = set()
        self.failures: dict[int, str] = {}  # what broke a trial, and perhaps its worker after it
        self._passed: dict[int, set[str]] = {}  # trials that went on, by the rung they went on from
        self._replay()
        if rule is not None:
            rule.settle(study.trials)

    def _replay(self) -> None:
        """Judge the reports of an earlier run again, in the order of the trials.

        A trial that was cut off between the report at which it stopped and its end is left in ``stopped``.
        """
        for trial in self.study.trials:
            for report, value in sorted(trial.intermediate_values.items()):
                self.stopped.discard(trial.number)  # it reported again: it had gone on
                self.judge(trial.number, report, value)
        self.stopped &= {trial.number for trial in self.study.trials if trial.state == TrialState.RUNNING}

    def judge(self, number: int, report: int, value: float) -> bool:
        """Whether a trial stops, or pauses, at this report; remembers the report for the trials to come."""
        if not math.isfinite(value):
            return True
        if report >= self.study.plan.reports_per_trial:
            return False  # its last: fit ends by itself, once the adapter is in place
        if self.rule is not None:
            return self.rule.reported(number, report, value)
        stop = self._stops(number, report, self.study.plan.sign * value)
        if stop:
            self.stopped.add(number)
        return stop

    def _stops(self, number: int, report: int, value: float) -> bool:
        bracket, known = self._bracket(number), _Known(str(number))
        rung = next(
            (recorded for at, recorded in bracket._rungs if report >= at and known.trial_id not in recorded), None
        )
        if rung is None:
            return False
        crowded = self._crowded(bracket, rung, value)
        stop = bool(bracket.on_result(known, report, value) == self.STOP) or crowded
        if not stop:
            self._passed.setdefault(id(rung), set()).add(known.trial_id)
        return stop

    def _crowded(self, bracket: Any, rung: dict[str, float], value: float) -> bool:
        """Whether a trial that ties with the cutoff stops: enough that were as good have gone on.

        Ray lets every tie go on. Entity F1 is exactly 0 for many settings at the first rungs, and all of those would
        then run to their end.
        """
        if value != bracket.cutoff(rung):
            return False
        passed = sum(rung[trial] >= value for trial in self._passed.get(id(rung), ()))
        return bool(passed >= (len(rung) + 1) / bracket.rf)

    def _bracket(self, number: int) -> Any:
        if number not in self._trial_info:
            sizes = np.array([len(bracket._rungs) for bracket in self._brackets])
            weights = np.exp(sizes - sizes.max())
            drawn = np.random.default_rng([self.study.plan.config.seed, number]).choice(
                len(sizes), p=weights / weights.sum()
            )
            self._trial_info[number] = self._brackets[drawn]
        return self._trial_info[number]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing to do: a trial's bracket follows from its number."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the oldest trial that waits for a worker, passing over those whose worker is starting.

        To give such a trial a free worker Tune ends the one that starts: trials shorter than that would all run in one.
        """
        controller = tune_controller._tune_controller  # what is shown to schedulers does not tell who has a worker
        actors: dict[Trial, Any] = controller._trial_to_actor
        started = controller._actor_manager.is_actor_started  # whether Ray has room for it and makes it
        waiting = [
            trial
            for trial in controller.get_live_trials()
            if trial.status == Trial.PENDING and not (trial in actors and started(actors[trial]))
        ]
        return min(waiting, key=lambda trial: int(trial.config["number"]), default=None)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the report and decide whether the trial goes on."""
        number = trial.config["number"]
        if FAILURE in result:
            self.failures[number] = result[FAILURE]
            return str(self.CONTINUE)
        if REPORT not in result:
            return str(self.CONTINUE)
        report = result[REPORT]
        value = self.study.report(number, report, result)
        self.watch.reported(number, report, value)
        if self.judge(number, report, value):
            self.study.rest(number)
        elif self.study.spent is not None or not self.study.affords(number):
            self.study.cut(number)
        else:
            return str(self.CONTINUE)
        return str(self.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing to do: every report was judged when it came."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing to do: what the trial reported still counts."""


@dataclass(frozen=True)
class _Known:
    """What Ray's bracket asks of a trial."""

    trial_id: str
