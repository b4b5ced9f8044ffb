"""One trial inside a worker process that outlives it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from mistral_ner import files
from mistral_ner.config import Config
from mistral_ner.hyperopt.logs import trial_logs
from mistral_ner.hyperopt.workers import device_answers

REPORT = "report"  # the key in a Ray result that counts reports; ASHA's unit of time
FAILURE = "failure"  # the key in a Ray result that says what broke the trial

# What a search calls for each trial: like mistral_ner.train.fit, which it is unless told otherwise.
Objective = Callable[[Config, Callable[[int, dict[str, float]], bool | None]], Any]

log = logging.getLogger(__name__)


def run_trial(trial: dict[str, Any], objective: Objective | None = None) -> None:
    """Call the objective with the config in ``trial["folder"]`` and report each evaluation to Ray Tune.

    What breaks a trial is reported, not raised, so that the worker lives on for the next one; but not one whose GPU the
    trial has broken.
    """
    folder = Path(trial["folder"])
    with trial_logs(folder):
        try:
            from mistral_ner.hyperopt.plan import saved_config

            reporter = _Reporter(trial["metric"])
            config = saved_config(folder / "config.yaml")
            with files.alone(folder), files.full_disk_named(folder):
                (objective or default_objective())(config, reporter)
        except (Exception, SystemExit) as error:
            log.exception("the trial failed")
            tune.report({FAILURE: described(error)})
            if not device_answers():
                raise  # Ray Tune ends this process, and the next trial gets another
            return
    if reporter.stop is not None:
        raise reporter.stop


def default_objective() -> Objective:
    """Return the objective of every search that is not told another: train a tagger."""
    from mistral_ner.train import fit

    return fit


def described(error: BaseException) -> str:
    """Return an exception as the reason of a failed trial."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Reporter:
    """Passes reports to Ray Tune; remembers its wish to stop until ``fit`` has put everything in order."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.stop: SystemExit | None = None

    def __call__(self, number: int, metrics: dict[str, float]) -> bool:
        if self.metric not in metrics:
            raise KeyError(f"no report has the metric {self.metric!r}; there are: {', '.join(sorted(metrics))}")
        try:
            tune.report({**metrics, REPORT: number})
        except SystemExit as stop:  # this is how Ray Tune ends a trial's thread
            self.stop = stop
        return self.stop is not None
