"""Asynchronous successive halving over reports (Li et al. 2018, https://arxiv.org/abs/1810.05934).

Ray Tune's scheduler stops a trial that is under its rung for good. :class:`Promotion` is the paper's own form: every
trial pauses at its rung, and a free slot goes on with the best that waits, or starts a new one. Pausing costs nothing,
because a training that is called again goes on in its folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

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
        if trial in self._best(report):
            self.promoted.add((report, trial))
            return False
        self.paused.add(trial)
        return True

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
    """ASHA over reports; every report is recorded in the study before it is judged."""

    def __init__(self, study: Study, watch: Watch, rule: Promotion | None) -> None:
        hyperopt = study.plan.config.hyperopt
        super().__init__(
            time_attr=REPORT,
            metric=hyperopt.metric,
            mode=hyperopt.mode,
            max_t=hyperopt.asha_max_t,
            grace_period=hyperopt.asha_grace_period,
            reduction_factor=hyperopt.asha_reduction_factor,
            brackets=hyperopt.asha_brackets,
        )
        self.study, self.watch, self.rule = study, watch, rule

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the report and decide whether the trial goes on."""
        if REPORT not in result or FAILURE in result:
            return str(self.CONTINUE)
        number, report = trial.config["number"], result[REPORT]
        value = self.study.report(number, report, result)
        self.watch.reported(number, report, value)
        if not math.isfinite(value):
            return str(self.STOP)
        if report >= self.study.plan.reports_per_trial:
            return str(self.CONTINUE)  # its last: fit ends by itself, once the adapter is in place
        if self.rule is not None:
            return str(self.STOP if self.rule.reported(number, report, value) else self.CONTINUE)
        metric = self.study.plan.config.hyperopt.metric
        return str(super().on_trial_result(tune_controller, trial, {REPORT: report, metric: value}))
