"""The study: every trial of a search, on disk, and the one place that decides how a trial ended.

Whichever engine runs the trials, it asks here for settings, passes every report on, and says when a trial is over.
A trial that used its whole budget is COMPLETE with its best report as value, one that was stopped early is PRUNED
with its intermediate values, a broken one FAIL with its reason. One that was cut off, by a crash, a signal or the end
of a budget, stays RUNNING, which a resumed search goes on with.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from mistral_ner import files
from mistral_ner.config import UserError, to_container
from mistral_ner.hyperopt.plan import Plan, saved_config, trial_name
from mistral_ner.hyperopt.samplers import INFEASIBLE, Shown, sampler
from mistral_ner.hyperopt.signals import held
from mistral_ner.hyperopt.storage import settle
from mistral_ner.progress import reports_on_disk

REASON = "reason"  # user attribute of a trial: why it failed
FAILURES = "failures"  # user attribute of a trial: what broke it before it was tried again
SECOND = "second_metric"  # user attribute of a trial: the second metric by report
STARTED = "started"  # user attribute of a study: when this run of it began, in seconds since the epoch
SECONDS = "seconds"  # user attribute of a study: wall time of its earlier runs
GO_ON = "the same command with hyperopt.resume=true, or make resume"
WORKER_DIED = "the worker process died (killed, or out of memory)"  # a reason

# What may be over when the trial is tried again: a machine that went away, a disk or network that had a bad moment.
_TRANSIENT = (
    *(WORKER_DIED, "OSError", "TimeoutError", "BlockingIOError", "BrokenPipeError"),
    *("ConnectionError", "ConnectionAbortedError", "ConnectionRefusedError", "ConnectionResetError"),
)
_DISK_FULL = files.DiskFullError.__name__
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
_ENOUGH_TRIALS = 6  # to judge by how many of them failed

log = logging.getLogger(__name__)


@dataclass
class Asked:
    """A trial to run: its number, its settings by parameter name, and whether it goes on from an earlier report."""

    number: int
    values: dict[str, object]
    again: bool = False


@dataclass
class Study:
    """One search on disk, led by this process."""

    plan: Plan
    optuna: optuna.Study
    warm: list[FrozenTrial] = field(default_factory=list)  # trials of an earlier study, for the sampler alone
    started: float = field(default_factory=time.monotonic)
    reports: int = 0  # made so far, over all trials
    interrupted: str | None = None  # by which signal
    full_disk: str | None = None  # the message of a write that found no room
    _running: dict[int, Trial] = field(default_factory=dict)
    _again: list[int] = field(default_factory=list)  # running trials that nobody works on
    _at_work: set[int] = field(default_factory=set)  # running trials that make their next report
    _made: Counter[int] = field(default_factory=Counter)  # reports by trial
    _unpaid: set[int] = field(default_factory=set)  # trials that a budget does not take any further
    _asked: int = 0
    _ended: int = 0
    _failed: int = 0
    _reached: bool = False
    _shown: Shown = field(init=False)

    def __post_init__(self) -> None:
        """Count what is on disk; the trials that were cut off are the next to run."""
        self._shown = Shown(self.warm)
        for trial in self.trials:
            self._asked += 1
            self._ended += trial.state.is_finished()
            self._failed += trial.state == TrialState.FAIL
            for value in trial.intermediate_values.values():
                self.count(trial.number, value)
            if trial.state == TrialState.RUNNING:
                self._running[trial.number] = Trial(self.optuna, trial._trial_id)
                self._again.append(trial.number)

    def ask(self) -> Asked:
        """Return the next trial, with its config in its folder: one that was cut off, or a new one.

        Raises:
            DiskFullError: there is no room for it.
        """
        if self._again:  # a worker that outlives its killed leader may still be at it
            with files.alone(self.plan.folder / trial_name(self._again[0])):
                pass
        with held(), files.full_disk_named(self.plan.folder, again=GO_ON):
            # seeded by the trial's number: a resumed search proposes what the unbroken one would have
            self.optuna.sampler = sampler(self.plan, self._again[0] if self._again else self._asked, self._shown)
            if self._again:
                trial, again = self._running[self._again.pop(0)], True
            else:
                trial, again = self.optuna.ask(), False
                self._running[trial.number] = trial
                self._asked += 1
            self._at_work.add(trial.number)
            if again and not self._config_of(trial.number).exists():
                self._draw_again(trial)
            values = self.plan.space.suggest(trial)  # those that were proposed before it was cut off stay
            # before the trial's folder, which goes by the number; what is reported and ended after it, and lost with
            # the machine, is found in the folder again
            settle(self.optuna._storage)
            self._write_config(trial.number, values)
            return Asked(trial.number, values, again)

    def _write_config(self, number: int, values: Mapping[str, object]) -> None:
        """Write a trial's config where it is not there, or is damaged: the study knows what it was."""
        path = self._config_of(number)
        if path.exists():
            try:
                saved_config(path)
                return
            except UserError:
                log.warning("%s is damaged; written again from the study", path)
        files.write_yaml(path, to_container(self.plan.trial_config(number, values)))

    def _config_of(self, number: int) -> Path:
        return self.plan.folder / trial_name(number) / "config.yaml"

    def _draw_again(self, trial: Trial) -> None:
        """Bring the sampler to where it was when a proposal was cut off after some of its parameters."""
        cut = self._frozen(trial)
        for name, distribution in cut.distributions.items():
            if name not in {**trial._fixed_params, **trial.relative_params} and not distribution.single():
                self.optuna.sampler.sample_independent(self.optuna, cut, name, distribution)

    def take(self, number: int) -> None:
        """Say that somebody works on a trial that was cut off or rested, without :meth:`ask`."""
        self._at_work.add(number)
        if number in self._again:
            self._again.remove(number)

    def rest(self, number: int) -> None:
        """Say that a running trial makes no report for now, or none any more."""
        self._at_work.discard(number)

    def affords(self, number: int | None = None) -> bool:
        """Whether ``max_reports`` pays for a trial up to where it is judged next, beside those that are on their way.

        Args:
            number: a running trial, or None for the one that :meth:`ask` would return.
        """
        most = self.plan.config.hyperopt.max_reports
        if most is None:
            return True
        made = self._made[self._again[0] if number is None and self._again else -1 if number is None else number]
        others = sum(self.plan.leg(self._made[other]) for other in self._at_work if other != number)
        return self.reports + others + self.plan.leg(made) <= most

    def cut(self, number: int) -> None:
        """Say that a spent budget does not take a running trial any further; a resumed search may."""
        self._unpaid.add(number)
        self.rest(number)

    def catch_up(self, number: int) -> dict[int, float]:
        """Record the reports in a trial's folder that the study has not seen, which a crash can part, and return them.

        Keys count from 1.
        """
        rows = reports_on_disk(self.plan.folder / trial_name(number))
        known = self.reports_of(number)
        missed = {int(row["report"]): row for row in rows if int(row["report"]) not in known}
        return {report: self.report(number, report, row) for report, row in missed.items()}

    def report(self, number: int, report: int, metrics: Mapping[str, object]) -> float:
        """Record a report of a running trial; returns the metric. ``report`` counts from 1.

        The disk is not waited for: the trial's folder holds the report, too, and :meth:`catch_up` finds it there.
        """
        value = _metrics(self.plan, metrics)[0]
        with held(), self._room():  # without room the report is in the trial's folder alone, until it is caught up with
            record(self.plan, self._running[number], report, metrics)
        self.count(number, value)
        return value

    def count(self, number: int, value: float) -> None:
        """Count a trial's report towards ``max_reports`` and ``target``."""
        self.reports += 1
        self._made[number] += 1
        self._reached = self._reached or reaches_target(self.plan, value)

    def reports_of(self, number: int) -> dict[int, float]:
        """Return the metric at each report that a running trial has made, in any process."""
        return self.optuna._storage.get_trial(self._running[number]._trial_id).intermediate_values

    def prunes(self, number: int) -> bool:
        """Whether Optuna's pruner stops a running trial at its latest report."""
        trial = self._frozen(self._running[number])
        return bool(trial.intermediate_values) and self.optuna.pruner.prune(self.optuna, trial)

    def end(self, number: int, failure: str | None = None, stopped: bool = False) -> FrozenTrial:
        """Decide and record how a trial ended.

        Args:
            number: the trial.
            failure: what broke it.
            stopped: whether the scheduler or the pruner stopped it, rather than the end of a budget.

        Returns:
            The trial; in state RUNNING where it is not over: it goes on at once after a transient failure, or when
            the search is resumed.
        """
        with held(), self._room():
            if failure is not None and failure.startswith(_DISK_FULL):
                self.full_disk = failure.partition(": ")[2]
            if self.full_disk is not None:  # no fault of the trial
                return self._frozen(self._running.pop(number))
            reports = self.reports_of(number)
            if failure is None and len(reports) < self.plan.reports_per_trial:
                # a worker that outlived its killed driver for a moment may have made some that only its folder holds
                self.catch_up(number)
                reports = self.reports_of(number)
            over = self.spent is not None or number in self._unpaid
            self.rest(number)
            if failure is not None and self._try_again(number, failure):
                return self._frozen(self._running[number])
            if failure is None and not stopped and len(reports) < self.plan.reports_per_trial and over:
                return self._frozen(self._running.pop(number))
            return self._tell(self._running.pop(number), reports, failure)
        return self.trials[number]  # there was no room to write how it ended

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Remember a write that found no room: it ends the search, and is no fault of a trial."""
        try:
            with files.full_disk_named(self.plan.folder, again=GO_ON):
                yield
        except files.DiskFullError as error:
            self.full_disk = str(error)

    def _try_again(self, number: int, failure: str) -> bool:
        trial = self._running[number]
        failures = [*trial.user_attrs.get(FAILURES, []), failure]
        if not failure.startswith(_TRANSIENT) or len(failures) > self.plan.config.hyperopt.max_failures:
            return False
        trial.set_user_attr(FAILURES, failures)
        self._again.append(number)
        return True

    def _tell(self, trial: Trial, reports: Mapping[int, float], failure: str | None) -> FrozenTrial:
        metric = self.plan.config.hyperopt.metric
        if failure is None and not reports:
            failure = f"ended without a report of {metric}"
        if failure is None and not all(math.isfinite(value) for value in reports.values()):
            failure = f"{metric} is not finite"
        self._ended += 1
        if failure is not None:
            self._failed += 1
            trial.set_user_attr(REASON, failure)
            if failure.startswith(_OUT_OF_MEMORY):
                trial.set_constraint(INFEASIBLE, 1.0)
            return self.optuna.tell(trial, state=TrialState.FAIL)
        if len(reports) < self.plan.reports_per_trial:
            return self.optuna.tell(trial, state=TrialState.PRUNED)
        best = max(reports, key=lambda report: (self.plan.sign * reports[report], -report))
        values = [reports[best]]
        if self.plan.config.hyperopt.second_metric is not None:
            values.append(float(self._frozen(trial).user_attrs[SECOND][str(best)]))
        return self.optuna.tell(trial, values, state=TrialState.COMPLETE)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.optuna._storage.get_trial(trial._trial_id)

    @property
    def complete(self) -> bool:
        """Whether every trial of the budget was started and none waits to go on."""
        return self._asked >= self.plan.config.hyperopt.num_trials and not self._again

    @property
    def spent(self) -> str | None:
        """Why the search ends before its last trial, or None."""
        if self.full_disk is not None:
            return "the disk is full"
        if self.interrupted is not None:
            return f"interrupted ({self.interrupted})"
        rate = self.plan.config.hyperopt.max_failure_rate
        if self._ended >= _ENOUGH_TRIALS and self._failed > rate * self._ended:
            return f"{self._failed} of {self._ended} trials failed (max_failure_rate={rate:.2g})"
        if not self._at_work and not self.affords():
            return f"the reports are spent (max_reports={self.plan.config.hyperopt.max_reports})"
        return spent_budget(self.plan, self.seconds, self._reached)

    @property
    def ended(self) -> int:
        """How many trials are over."""
        return self._ended

    @property
    def best_report(self) -> tuple[float, int] | None:
        """The best value that any trial reported, and the trial's number."""
        values = [
            (value, trial.number)
            for trial in self.trials
            for value in trial.intermediate_values.values()
            if math.isfinite(value)
        ]
        return max(values, key=lambda item: (self.plan.sign * item[0], -item[1]), default=None)

    @property
    def broken(self) -> bool:
        """Whether the search ended because too many trials failed."""
        return self.spent is not None and "max_failure_rate" in self.spent

    @property
    def target_reached(self) -> bool:
        """Whether some report is as good as ``target``."""
        return self._reached

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the trials that somebody works on."""
        return tuple(number for number in self._running if number not in self._again)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial that this study ran or runs, by number."""
        return [trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]

    @property
    def seconds(self) -> float:
        """Wall time since this run of the study began."""
        return time.monotonic() - self.started

    @property
    def seconds_in_all(self) -> float:
        """Wall time of this run and of the earlier ones."""
        return self.seconds + float(self.optuna.user_attrs.get(SECONDS, 0.0))


def record(plan: Plan, trial: Trial, report: int, metrics: Mapping[str, object]) -> float:
    """Write a report of a running trial into its study and return the metric.

    Raises:
        KeyError: the report lacks the metric; the message names those there are.
    """
    value, *second = _metrics(plan, metrics)
    if second:
        seen = dict(trial.user_attrs.get(SECOND, {}))
        trial.set_user_attr(SECOND, {**seen, str(report): second[0]})
    # not trial.report: it refuses a study of two metrics
    trial.study._storage.set_trial_intermediate_value(trial._trial_id, report, value)
    return value


def _metrics(plan: Plan, metrics: Mapping[str, object]) -> list[float]:
    """Return the metric, and the second one where there is one.

    Raises:
        KeyError: one is missing.
    """
    wanted = [name for name in (plan.config.hyperopt.metric, plan.config.hyperopt.second_metric) if name is not None]
    for name in wanted:
        if name not in metrics:
            raise KeyError(f"no report has the metric {name!r}; there are: {', '.join(sorted(metrics))}")
    return [float(metrics[name]) for name in wanted]  # type: ignore[arg-type]


def spent_budget(plan: Plan, seconds: float, reached: bool) -> str | None:
    """Return which of timeout and target is used up, in words, or None."""
    hyperopt = plan.config.hyperopt
    if hyperopt.timeout is not None and seconds >= hyperopt.timeout:
        return f"time ran out (timeout={hyperopt.timeout:g} s)"
    return f"the target is reached ({hyperopt.metric} {hyperopt.target:g})" if reached else None


def reaches_target(plan: Plan, value: float) -> bool:
    """Whether a value of the metric is as good as ``target``; an infinite one is a fault, not a success."""
    target = plan.config.hyperopt.target
    return target is not None and math.isfinite(value) and plan.sign * value >= plan.sign * target


def any_reaches_target(plan: Plan, values: Iterable[float]) -> bool:
    """Whether one of several values of the metric is as good as ``target``."""
    return any(reaches_target(plan, value) for value in values)
