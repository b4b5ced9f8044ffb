"""A line of progress for everything that happens in a search, on the screen and in ``hyperopt.log``."""

from __future__ import annotations

import logging
import math
import sys
from types import TracebackType

from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.samplers import remark
from mistral_ner.hyperopt.study import FAILURES, REASON, Asked, Study
from mistral_ner.hyperopt.view import NoView, View

log = logging.getLogger(__name__)

ENDS = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}


class Watch:
    """Counts what was spent and logs a line per event; a context manager that owns ``hyperopt.log``."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.plan = study.plan
        self.ended_trials = study.ended
        self.best = study.best_report  # value, trial
        self._handler: logging.Handler | None = None
        self._view = _view(study) if sys.stdout.isatty() else NoView()

    def __enter__(self) -> Watch:
        if self.plan.config.hyperopt.log_to_file:
            self._handler = logging.FileHandler(self.plan.folder / "hyperopt.log", encoding="utf-8")
            self._handler.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
            logging.getLogger("mistral_ner").addHandler(self._handler)
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
        if (said := remark(self.plan)) is not None:
            log.warning(said)
        self._view.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._view.__exit__(kind, error, None)
        if self._handler is not None:
            logging.getLogger("mistral_ner").removeHandler(self._handler)
            self._handler.close()

    def asked(self, asked: Asked) -> None:
        """A trial was proposed."""
        self._view.started_trial(asked.number, self.study.reports_of(asked.number) if asked.again else {})
        settings = "  ".join(f"{name}={shown(value)}" for name, value in asked.values.items())
        log.info("trial %-3d %s         %s", asked.number, "goes on" if asked.again else "starts ", settings)

    def reported(self, number: int, report: int, value: float) -> None:
        """A trial made a report."""
        if math.isfinite(value) and (self.best is None or self.plan.sign * value > self.plan.sign * self.best[0]):
            self.best = (value, number)
        best = "none" if self.best is None else f"{self.best[0]:.4f} (trial {self.best[1]})"
        self._view.reported(number, report, value, self.best, self.study.reports)
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

    def ended(self, trial: FrozenTrial) -> None:
        """A trial is over, or waits to go on."""
        self._view.ended(trial.number, ENDS.get(trial.state))
        if trial.state == TrialState.RUNNING:
            failures = trial.user_attrs.get(FAILURES)
            what = "was cut off" if self.study.spent or not failures else f"is tried again: {failures[-1]}"
            log.info("trial %-3d %s", trial.number, what)
            return
        self.ended_trials += 1
        level = logging.WARNING if trial.state == TrialState.FAIL else logging.INFO
        reason = trial.user_attrs.get(REASON)
        log.log(level, "trial %-3d %s%s", trial.number, ENDS[trial.state], f": {reason}" if reason else "")


def _view(study: Study) -> View:
    view = View(study.plan, best=study.best_report, reports=study.reports, ended_before=study.ended)
    for trial in study.trials:
        if trial.state in ENDS:
            view.counts[ENDS[trial.state]] += 1
            view.reports_of_ended += len(trial.intermediate_values)
    return view


def shown(value: object) -> str:
    """Return a setting as short text: four significant digits for a float."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
