"""The scheduler of Ray Tune: it records every report in the study, then asks the search's rule."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from mistral_ner.hyperopt.cluster.private import keep_no_averages, waiting_trials
from mistral_ner.hyperopt.engines.rules import build_rule
from mistral_ner.hyperopt.engines.trial import FAILURE, REPORT
from mistral_ner.hyperopt.sampling.promise import Seen, look_at
from mistral_ner.hyperopt.study.event_log import EventLog
from mistral_ner.hyperopt.study.study import Study


class DriverOnly:
    """Stays out of Ray's own snapshots: a search is resumed from the study on disk."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudyScheduler(DriverOnly, FIFOScheduler):
    """Tells Ray Tune at every report whether the trial continues.

    Reports of an earlier run of the study are judged again first, so that a resumed search knows them.
    """

    def __init__(self, study: Study, watch: EventLog) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.study, self.watch, self.rule = study, watch, build_rule(study.plan)
        self.failures: dict[int, str] = {}  # what broke a trial, and perhaps its worker after it
        for trial in study.trials:
            for report in sorted(trial.intermediate_values):
                self.judge(trial.number, report, look_at(trial, report))
        self.rule.settle(study.trials)

    def judge(self, number: int, report: int, seen: Seen) -> bool:
        """Record a report for the trials to come; return whether this one stops or pauses."""
        if not math.isfinite(seen.metric):
            return True
        if report >= self.study.plan.reports_per_trial:
            return False  # its last: fit ends by itself, once the adapter is in place
        return self.rule.reported(number, report, seen)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the oldest trial that waits for a worker, passing over those whose worker is starting.

        To give such a trial a free worker, Tune ends the one that starts. Short trials would then all run in one.
        """
        trials = waiting_trials(tune_controller)
        return min(trials, key=lambda trial: int(trial.config["number"]), default=None)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Spare the memory that Tune would spend on a trial's metrics."""
        keep_no_averages(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the report and decide whether the trial continues."""
        number = trial.config["number"]
        if FAILURE in result:
            self.failures[number] = result[FAILURE]
            return str(self.CONTINUE)
        if REPORT not in result:
            return str(self.CONTINUE)
        report = result[REPORT]
        value = self.study.report(number, report, result)
        self.watch.log_report(number, report, value)
        if self.judge(number, report, self.study.look_at(number, report)):
            self.study.rest(number)
        elif self.study.spent is not None or not self.study.affords(number):
            if self.rule.pauses and self.study.spent is None:
                self.rule.hold(number)
                self.study.rest(number)
            else:
                self.study.suspend(number)
        else:
            return str(self.CONTINUE)
        return str(self.STOP)
