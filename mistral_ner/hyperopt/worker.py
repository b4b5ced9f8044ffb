"""One trial inside a worker process that outlives it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ray import tune

from mistral_ner.hyperopt.logs import trial_logs

REPORT = "report"  # the key in a Ray result that counts reports; ASHA's unit of time
FAILURE = "failure"  # the key in a Ray result that says what broke the trial

log = logging.getLogger(__name__)


def run_trial(trial: dict[str, Any]) -> None:
    """Train the config in ``trial["folder"]`` and report each evaluation to Ray Tune.

    What breaks a trial is reported, not raised, so that the worker lives on for the next one.
    """
    folder = Path(trial["folder"])
    with trial_logs(folder):
        try:
            from mistral_ner.hyperopt.plan import saved_config
            from mistral_ner.train import fit

            reporter = _Reporter()
            fit(saved_config(folder / "config.yaml"), reporter)
        except Exception as error:
            log.exception("the trial failed")
            tune.report({FAILURE: f"{type(error).__name__}: {error}"})
            return
    if reporter.stop is not None:
        raise reporter.stop


class _Reporter:
    """Passes reports to Ray Tune; remembers its wish to stop until ``fit`` has put everything in order."""

    def __init__(self) -> None:
        self.stop: SystemExit | None = None

    def __call__(self, number: int, metrics: dict[str, float]) -> bool:
        try:
            tune.report({**metrics, REPORT: number})
        except SystemExit as stop:  # this is how Ray Tune ends a trial's thread
            self.stop = stop
        return self.stop is not None
