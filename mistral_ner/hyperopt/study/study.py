"""The study: every trial of a search, on disk, and the one place that decides how a trial ended.

Every engine asks the study for settings, passes each report to it, and tells it when a trial is over. A trial that used
its whole budget becomes COMPLETE with the value of its best report. A trial that was stopped early becomes PRUNED, a
broken one FAIL with the reason. One that was cut off stays RUNNING, and a resumed search continues it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from mistral_ner import files, locks
from mistral_ner.config.schema import to_container
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.sampling.known import KnownTrials
from mistral_ner.hyperopt.sampling.promise import SECOND, Seen, look_at
from mistral_ner.hyperopt.sampling.proposals import CheckedSampler
from mistral_ner.hyperopt.sampling.samplers import INFEASIBLE, build_sampler
from mistral_ner.hyperopt.spec.plan import Plan, read_saved_config, trial_name
from mistral_ner.hyperopt.study.budget import Clock, Ledger, find_used_up_space
from mistral_ner.hyperopt.study.running import RunningTrial, read_metrics
from mistral_ner.hyperopt.study.signals import delay_signals
from mistral_ner.hyperopt.study.storage import settle
from mistral_ner.training.checkpoint import find_best, reports_on_disk

REASON = "reason"  # user attribute of a trial: why it failed
VERDICT = "verdict"  # user attribute of a trial: how it compared with others where it was stopped early
FAILURES = "failures"  # user attribute of a trial: what broke it before it was tried again
STARTED = "started"  # user attribute of a study: when this run of it began, in seconds since the epoch
CALLED_OFF = "called_off"  # user attribute of a study: whether this run of it has spent its time
SECONDS = "seconds"  # user attribute of a study: wall time of its earlier runs
GO_ON = "the same command with hyperopt.resume=true, or make resume"
WORKER_DIED = "the worker process died (killed, or out of memory)"  # a reason

# Failures that may not come again when the trial is tried again: a lost machine, a short fault of a disk or network.
_TRANSIENT = (
    *(WORKER_DIED, "OSError", "TimeoutError", "BlockingIOError", "BrokenPipeError"),
    *("ConnectionError", "ConnectionAbortedError", "ConnectionRefusedError", "ConnectionResetError"),
)
_DISK_FULL = files.DiskFullError.__name__
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")

log = logging.getLogger(__name__)


@dataclass
class Proposal:
    """A trial to run: its number, its settings by parameter name, and whether it continues an earlier run."""

    number: int
    values: dict[str, object]
    again: bool = False


@dataclass
class Study:
    """One search on disk, led by this process."""

    plan: Plan
    optuna: optuna.Study
    storage: BaseStorage  # of the study
    warm: list[FrozenTrial] = field(default_factory=list)  # trials of earlier studies, seen by the sampler only
    interrupted: str | None = None  # the name of the signal
    full_disk: str | None = None  # the message of a write that failed for lack of space
    _running: dict[int, RunningTrial] = field(default_factory=dict)
    _again: list[int] = field(default_factory=list)  # running trials that no worker has
    _unpaid: set[int] = field(default_factory=set)  # trials that a budget no longer pays for
    clock: Clock = field(init=False)
    ledger: Ledger = field(init=False)
    _known: KnownTrials = field(init=False)

    def __post_init__(self) -> None:
        """Count what is on disk, and queue the trials that were cut off."""
        self.ledger = Ledger(self.plan)
        self._known = KnownTrials(self.warm, self.ledger.at_work)
        for trial in self.trials:
            self.ledger.count_trial(trial.state)
            for value in trial.intermediate_values.values():
                self.count(trial.number, value)
            if trial.state == TrialState.RUNNING:
                self._running[trial.number] = RunningTrial.find(self.plan, self.storage, self.optuna, trial.number)
                self._again.append(trial.number)
        self.clock = Clock(self.plan, self.reports)

    def ask(self) -> Proposal:
        """Return the next trial, one that was cut off or a new one, after writing its config into its folder.

        Raises:
            DiskFullError: the disk has no space for it.
        """
        again = bool(self._again)
        if again:
            self.take(cut_off := self._again[0])
        with delay_signals(), files.name_full_disk(self.plan.folder, again=GO_ON):
            running = self._continue(cut_off) if again else self._propose()
            number = running.trial.number
            self.ledger.at_work.add(number)
            values = self.plan.space.suggest(running.trial)  # keeps those proposed before the trial was cut off
            # The trial must be on the disk before its folder, which is named by its number. Reports and ends that a
            # failing machine loses later are found again in the folder.
            settle(self.storage)
            self._write_config(number, values)
            return Proposal(number, values, again)

    def _continue(self, number: int) -> RunningTrial:
        self.optuna.sampler = build_sampler(self.plan, number, self._known)
        if not self._config_of(number).exists():
            if isinstance(self.optuna.sampler, CheckedSampler):  # which draws all parameters when the trial is opened
                self._running[number] = RunningTrial.find(self.plan, self.storage, self.optuna, number)
            self._running[number].draw_again()
        return self._running[number]

    def _propose(self) -> RunningTrial:
        # seeded by the trial's number, so that a resumed search proposes what an unbroken one would have
        self.optuna.sampler = build_sampler(self.plan, self.ledger.asked, self._known)
        running = RunningTrial.of(self.plan, self.storage, self.optuna.ask())
        self._running[running.trial.number] = running
        self.ledger.asked += 1
        return running

    def _write_config(self, number: int, values: Mapping[str, object]) -> None:
        """Write a trial's config if it is missing or damaged; the study knows the settings."""
        path = self._config_of(number)
        if path.exists():
            try:
                read_saved_config(path)
                return
            except UserError:
                log.warning("%s is damaged; written again from the study", path)
        files.write_yaml(path, to_container(self.plan.trial_config(number, values)))

    def _config_of(self, number: int) -> Path:
        return self.plan.folder / trial_name(number) / "config.yaml"

    def take(self, number: int) -> None:
        """Note that a worker runs a waiting or cut-off trial that :meth:`ask` did not return."""
        if number in self._again:
            with locks.hold_folder(self.plan.folder / trial_name(number)):
                self._again.remove(number)  # a worker may outlive its killed leader and still run the trial
        self.ledger.at_work.add(number)

    def rest(self, number: int) -> None:
        """Note that a running trial will make no further report for now."""
        self.ledger.at_work.discard(number)

    def affords(self, number: int | None = None) -> bool:
        """Whether ``max_reports`` pays for a trial until it is next judged, in addition to the trials at work.

        Args:
            number: a running trial, or None for the one that :meth:`ask` would return.
        """
        return self.ledger.affords(self._again[0] if number is None and self._again else number, self._running)

    def suspend(self, number: int) -> None:
        """Note that the budget is spent for a running trial; a resumed search may continue it."""
        self._unpaid.add(number)
        self.rest(number)

    def catch_up(self, number: int) -> dict[int, float]:
        """Record the reports that a crash left in a trial's folder but not in the study.

        Returns:
            Their metric by report, counted from 1.
        """
        rows = reports_on_disk(self.plan.folder / trial_name(number))
        known = self.reports_of(number)
        missed = {int(row["report"]): row for row in rows if int(row["report"]) not in known}
        return {report: self.report(number, report, row) for report, row in missed.items()}

    def report(self, number: int, report: int, metrics: Mapping[str, object]) -> float:
        """Record a report of a running trial and return the metric; ``report`` counts from 1.

        This does not wait for the disk, because the trial's folder has the report too: :meth:`catch_up` finds it there.
        """
        value = read_metrics(self.plan, metrics)[0]
        with delay_signals(), self._note_full_disk():
            self._running[number].record(report, metrics)
        self.count(number, value)
        return value

    def count(self, number: int, value: float) -> None:
        """Count a trial's report towards ``max_reports`` and ``target``."""
        self.ledger.count(number, value)

    def reports_of(self, number: int) -> dict[int, float]:
        """Return the metric by report of a running trial, whichever process recorded it."""
        return self._running[number].read().intermediate_values

    def look_at(self, number: int, report: int) -> Seen:
        """Return what a running trial has shown up to a report."""
        return look_at(self._running[number].read(), report)

    def is_pruned(self, number: int) -> bool:
        """Whether Optuna's pruner stops a running trial at its latest report."""
        return self._running[number].is_pruned()

    def end(
        self, number: int, failure: str | None = None, stopped: bool = False, verdict: str | None = None
    ) -> FrozenTrial:
        """Decide how a trial ended, and record it.

        Args:
            number: the trial.
            failure: what broke it.
            stopped: whether the scheduler or the pruner stopped it, rather than the end of a budget.
            verdict: what stopped it, in words.

        Returns:
            The trial. It is still RUNNING if it will continue: soon, after a transient failure, or in a resumed search.
        """
        with delay_signals(), self._note_full_disk():
            if failure is not None and failure.startswith(_DISK_FULL):
                self.full_disk = failure.partition(": ")[2]
            if self.full_disk is not None:  # which is not the trial's fault
                return self._running.pop(number).read()
            reports = self.reports_of(number)
            if failure is None and not self.plan.is_whole(reports):
                # a worker that outlived its killed driver may have made some that only its folder has
                self.catch_up(number)
                reports = self.reports_of(number)
            over = self.spent is not None or number in self._unpaid
            self.rest(number)
            if failure is not None and self._try_again(number, failure):
                return self._running[number].read()
            if failure is None and not stopped and not self.plan.is_whole(reports) and over:
                return self._running.pop(number).read()
            if verdict is not None and failure is None:
                self._running[number].trial.set_user_attr(VERDICT, verdict)
            told = self._tell(running := self._running.pop(number), reports, failure)
            self.ledger.count_end(told.state)
            running.tidy(told.state)
            return told
        return self.trials[number]  # the disk had no space to record how it ended

    @contextmanager
    def _note_full_disk(self) -> Iterator[None]:
        """Remember a full disk, which ends the search and is not a trial's fault."""
        try:
            with files.name_full_disk(self.plan.folder, again=GO_ON):
                yield
        except files.DiskFullError as error:
            self.full_disk = str(error)

    def _try_again(self, number: int, failure: str) -> bool:
        trial = self._running[number].trial
        failures = [*trial.user_attrs.get(FAILURES, []), failure]
        if not failure.startswith(_TRANSIENT) or len(failures) > self.plan.config.hyperopt.max_failures:
            return False
        trial.set_user_attr(FAILURES, failures)
        self._again.append(number)
        return True

    def _tell(self, running: RunningTrial, reports: Mapping[int, float], failure: str | None) -> FrozenTrial:
        trial, metric = running.trial, self.plan.config.hyperopt.metric
        if failure is None and not reports:
            failure = f"ended without a report of {metric}"
        if failure is None and not all(math.isfinite(value) for value in reports.values()):
            failure = f"{metric} is not finite"
        if failure is not None:
            trial.set_user_attr(REASON, failure)
            if failure.startswith(_OUT_OF_MEMORY):
                trial.set_constraint(INFEASIBLE, 1.0)
            return self.optuna.tell(trial, state=TrialState.FAIL)
        if not self.plan.is_whole(reports):
            return self.optuna.tell(trial, state=TrialState.PRUNED)
        best = find_best(reports, self.plan.sign)
        assert best is not None, "a whole trial has reports"
        values = [best[1]]
        if self.plan.config.hyperopt.second_metric is not None:
            values.append(float(running.read().user_attrs[SECOND][str(best[0])]))
        return self.optuna.tell(trial, values, state=TrialState.COMPLETE)

    @property
    def complete(self) -> bool:
        """Whether all trials were started, or all settings tried, and none waits to be continued."""
        if self._again or self.ledger.asked >= self.plan.config.hyperopt.num_trials:
            return not self._again
        # the trials are read only where the space is finite: this is asked at every report
        return self.plan.settings is not None and find_used_up_space(self.plan, self.trials) is not None

    @property
    def spent(self) -> str | None:
        """Why the search ends before its last trial, or None."""
        if self.full_disk is not None:
            return "the disk is full"
        if self.interrupted is not None:
            return f"interrupted ({self.interrupted})"
        if (failures := self.ledger.too_many_failures) is not None:
            return failures
        if not self.ledger.at_work and not self.affords() and not self.ledger.affords_winner(self._running):
            return f"the reports are spent (max_reports={self.plan.config.hyperopt.max_reports})"
        hyperopt = self.plan.config.hyperopt
        reached = f"the target is reached ({hyperopt.metric} {hyperopt.target:g})" if self.ledger.reached else None
        return self.clock.time_is_up(self.reports, self.ledger.completed) or reached

    def call_off(self) -> None:
        """Tell the trials that run in processes of their own that the search is over."""
        if self.full_disk is None and not self.optuna.user_attrs.get(CALLED_OFF):
            with self._note_full_disk():
                self.optuna.set_user_attr(CALLED_OFF, True)

    @property
    def reports(self) -> int:
        """How many reports all trials have made."""
        return self.ledger.reports

    @property
    def ended(self) -> int:
        """How many trials are over."""
        return self.ledger.ended

    @property
    def best_so_far(self) -> tuple[int, float] | None:
        """The number of the trial with the best finite report, and its value."""
        best = {}
        for trial in self.trials:
            finite = {report: value for report, value in trial.intermediate_values.items() if math.isfinite(value)}
            if (found := find_best(finite, self.plan.sign)) is not None:
                best[trial.number] = found[1]
        return find_best(best, self.plan.sign)

    @property
    def broken(self) -> bool:
        """Whether the search ended because too many trials failed."""
        return self.spent is not None and self.spent == self.ledger.too_many_failures

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the trials that a worker runs."""
        return tuple(number for number in self._running if number not in self._again)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial that was started, in the order of their numbers."""
        return [trial for trial in self.optuna.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]

    @property
    def seconds_in_all(self) -> float:
        """Wall time in seconds of this run and the earlier ones."""
        return self.clock.seconds + float(self.optuna.user_attrs.get(SECONDS, 0.0))
