"""The events of a search: a line for each in ``hyperopt.log``, and the live view; and each trial's ``logs.txt``."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.sampling.samplers import explain_choices
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.live_view import LiveView, NoView, can_show
from mistral_ner.hyperopt.study.study import FAILURES, REASON, VERDICT, Proposal, Study

log = logging.getLogger(__name__)

END_NAMES = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}


@contextmanager
def append_log(plan: Plan) -> Iterator[None]:
    """Write what the project logs inside the block to ``hyperopt.log`` too, unless ``hyperopt.log_to_file`` is off."""
    if not plan.config.hyperopt.log_to_file:
        yield
        return
    handler = logging.FileHandler(plan.folder / "hyperopt.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
    logging.getLogger("mistral_ner").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("mistral_ner").removeHandler(handler)
        handler.close()


@contextmanager
def write_trial_log(folder: Path, this_thread: bool = False) -> Iterator[None]:
    """Append what the process logs inside the block, at INFO and above, to ``folder/logs.txt``.

    Args:
        folder: the trial's.
        this_thread: only what this thread logs, where other trials run in the same process.
    """
    handler = logging.FileHandler(folder / "logs.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    if this_thread:
        own = threading.get_ident()
        handler.addFilter(lambda record: record.thread == own)
    root = logging.getLogger()
    with _lock:
        if not _open:
            _level.append(root.level)
            root.setLevel(min(root.level, logging.INFO))
        _open.append(handler)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with _lock:
            _open.remove(handler)
            if not _open:
                root.setLevel(_level.pop())
        with suppress(OSError):  # the disk is full; the trial's failure is reported elsewhere
            handler.close()


_lock = threading.Lock()
_open: list[logging.Handler] = []  # logs of the trials that run in this process
_level: list[int] = []  # the root's before them


class EventLog:
    """Logs a line for every event of a search; a context manager that opens and closes ``hyperopt.log``."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.plan = study.plan
        self.ended_trials = study.ended
        self.best = study.best_so_far  # trial, value
        self._file = append_log(study.plan)
        self._view = _build_view(study) if can_show() else NoView()

    def __enter__(self) -> EventLog:
        self._file.__enter__()
        hyperopt = self.plan.config.hyperopt
        log.info(
            "study %s: %s, %d trials, %d at once, up to %d reports each; results in %s",
            hyperopt.study_name,
            hyperopt.strategy,
            hyperopt.num_trials,
            self.plan.at_once,
            self.plan.reports_per_trial,
            self.plan.folder,
        )
        if (note := explain_choices(self.plan)) is not None:
            log.warning(note)
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, where)
        self._file.__exit__(kind, error, where)

    def log_start(self, trial: Proposal) -> None:
        """Log that a trial starts or continues."""
        self._view.start_trial(trial.number, self.study.reports_of(trial.number) if trial.again else {})
        settings = "  ".join(f"{name}={format_value(value)}" for name, value in trial.values.items())
        log.info("trial %-3d %s         %s", trial.number, "goes on" if trial.again else "starts ", settings)

    def log_report(self, number: int, report: int, value: float) -> None:
        """Log a report of a trial; ``report`` counts from 1."""
        if math.isfinite(value) and (self.best is None or self.plan.sign * value > self.plan.sign * self.best[1]):
            self.best = (number, value)
        best = "none" if self.best is None else f"{self.best[1]:.4f} (trial {self.best[0]})"
        self._view.add_report(number, report, value, self.best, self.study.reports)
        log.info(
            "trial %-3d report %d/%d  %s %.4f | best %s | %d of %d trials ended, %d reports",
            number,
            report,
            self.plan.reports_per_trial,
            self.plan.config.hyperopt.metric,
            value,
            best,
            self.ended_trials,
            self.plan.config.hyperopt.num_trials,
            self.study.reports,
        )

    def log_pause(self, number: int, verdict: str | None) -> None:
        """Log that a trial waits at a rung."""
        self._view.end_trial(number, None)
        log.info("trial %-3d waits: %s", number, verdict)

    def log_wake(self, number: int) -> None:
        """Log that a trial that waited continues."""
        self._view.start_trial(number, self.study.reports_of(number))
        log.info("trial %-3d continues", number)

    def log_end(self, trial: FrozenTrial) -> None:
        """Log that a trial is over, or that it waits to be continued."""
        self._view.end_trial(trial.number, END_NAMES.get(trial.state))
        if trial.state == TrialState.RUNNING:
            failures = trial.user_attrs.get(FAILURES)
            outcome = "was cut off" if self.study.spent or not failures else f"is tried again: {failures[-1]}"
            log.info("trial %-3d %s", trial.number, outcome)
            return
        self.ended_trials += 1
        level = logging.WARNING if trial.state == TrialState.FAIL else logging.INFO
        reason = trial.user_attrs.get(REASON) or trial.user_attrs.get(VERDICT)
        log.log(level, "trial %-3d %s%s", trial.number, END_NAMES[trial.state], f": {reason}" if reason else "")


def _build_view(study: Study) -> LiveView:
    view = LiveView(study.plan, best=study.best_so_far, reports=study.reports, ended_before=study.ended)
    for trial in study.trials:
        if trial.state in END_NAMES:
            view.count_end(END_NAMES[trial.state], len(trial.intermediate_values))
    return view


def format_duration(seconds: float) -> str:
    """Return seconds as text, such as ``2 h 05 min``, ``3 min 20 s`` or ``9 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def format_value(value: object) -> str:
    """Return a setting as short text: four significant digits for a float."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
