"""Runs one trial, in whichever process: calls the objective with the trial's config and passes its reports on.

The config comes from the trial's folder, where the study wrote it, so that a value of a search space stays data.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mistral_ner import files, locks
from mistral_ner.config.schema import Config
from mistral_ner.garbage import collect_rarely
from mistral_ner.hyperopt.cluster.road import Road, Workplace, work_in
from mistral_ner.hyperopt.cluster.workers import Machine, introduce
from mistral_ner.hyperopt.spec.plan import read_saved_config, trial_name
from mistral_ner.hyperopt.study.budget import any_reaches_target
from mistral_ner.hyperopt.study.event_log import write_trial_log
from mistral_ner.hyperopt.study.opening import open_trial
from mistral_ner.hyperopt.study.study import CALLED_OFF, STARTED
from mistral_ner.training.gpu import device_works, keep_to_share
from mistral_ner.versions import describe_differences

REPORT = "report"  # the key in a Ray result that counts reports; ASHA's unit of time
FAILURE = "failure"  # the key in a Ray result that says what broke the trial
STRANGER = "stranger"  # the key in a Ray result that names the machine on which a trial did not begin
VERSIONS = "versions"  # the key in a Ray Tune config with the driver's versions, where machines may have others

# What a search calls for each trial; mistral_ner.train.fit by default.
Objective = Callable[[Config, Callable[[int, dict[str, float]], bool | None]], Any]

log = logging.getLogger(__name__)


@dataclass
class Ended:
    """How a trial ended: what broke it, or whether the pruner stopped it."""

    failure: str | None = None
    stopped: bool = False


def run_tune_trial(trial: dict[str, Any], objective: Objective | None = None, road: Road | None = None) -> None:
    """Run the trial in ``trial["folder"]``, which ``road`` leads to, and report each evaluation to Ray Tune.

    An exception is reported, not raised, so that the worker serves the next trial, unless the trial has broken its
    GPU. On a machine with other versions the trial does not begin, and holds the machine until the search ends.
    """
    from ray import tune  # late: other trials need no Ray

    collect_rarely()
    while (machine := find_stranger(trial)) is not None:
        tune.report({STRANGER: machine})  # ends this thread once the search is over
        time.sleep(_IDLE)
    reporter = _TuneReporter(trial["metric"])
    try:
        with work_in(Path(trial["folder"]), road) as place, write_trial_log(place.folder), log_failure():
            run_trial(objective, place, reporter)
    except (Exception, SystemExit) as error:
        tune.report({FAILURE: describe_error(error)})
        if not device_works():
            raise  # Ray Tune ends this process, and the next trial gets another
        return
    if reporter.stop is not None:
        raise reporter.stop


_IDLE = 1.0  # seconds between reports of a trial that has not begun


def find_stranger(trial: dict[str, Any], machine: Machine | None = None) -> Machine | None:
    """Return the machine of this process, or a given one, if its versions are not those of the trial's driver."""
    if VERSIONS not in trial:
        return None
    address, versions = machine or introduce()
    return (address, versions) if describe_differences({address: versions}, trial[VERSIONS]) is not None else None


@contextmanager
def log_failure() -> Iterator[None]:
    """Log what breaks a trial; its log is still open."""
    try:
        yield
    except (Exception, SystemExit):
        log.exception("the trial failed")
        raise


def run_study_trial(
    study_folder: Path, number: int, objective: Objective | None = None, road: Road | None = None
) -> Ended:
    """Run trial ``number`` of the study in ``study_folder`` and report each evaluation to the study.

    Raises:
        UserError: the study cannot be opened.
    """
    with work_in(study_folder / trial_name(number), road) as place:
        reporter = StudyReporter(study_folder, number) if place.ask is None else _Asker(place.ask)
        with write_trial_log(place.folder, this_thread=reporter.together):
            try:
                run_trial(objective, place, reporter)
            except SystemExit as end:  # ends the trial, not the process that it runs in
                return Ended(failure=describe_error(end))
        return Ended(stopped=reporter.stopped)


def run_job(cfg: DictConfig, objective: Objective | None = None) -> Ended:
    """Run the trial that a Hydra job is for: ``cfg`` says the study and the trial's number, nothing else counts."""
    study_folder = files.expand(Path(cfg.hyperopt.results_dir, cfg.hyperopt.study_name)).absolute()
    road = None
    if (way := os.environ.get(_WAY)) is not None:
        road = Road(*json.loads(way))
        study_folder = Path(road.study)
    return try_study_trial(study_folder, int(cfg.hyperopt.trial), objective, road)


_WAY = "MISTRAL_NER_ROAD"  # the variable with a Hydra job's road: Hydra calls a task with its config alone


@contextmanager
def way_of_jobs(road: Road | None) -> Iterator[None]:
    """Let the Hydra job of this process take a road to the study; None: it sees the study's folder."""
    if road is not None:
        os.environ[_WAY] = json.dumps(astuple(road))
    try:
        yield
    finally:
        os.environ.pop(_WAY, None)


def try_study_trial(
    study_folder: Path, number: int, objective: Objective | None = None, road: Road | None = None
) -> Ended:
    """Run a trial as :func:`run_study_trial` does; return an exception as the reason of its failure."""
    try:
        return run_study_trial(study_folder, number, objective, road)
    except Exception as error:
        log.debug("trial %d failed", number, exc_info=True)
        return Ended(failure=describe_error(error))


def run_trial(objective: Objective | None, place: Workplace, report: Callable[[int, dict[str, float]], bool]) -> None:
    """Call the objective, by default the training of a tagger, with the config of the trial in ``place``.

    What the trial has made so far is where the driver finds it before a report counts.
    """

    def report_saved(number: int, metrics: dict[str, float]) -> bool:
        place.save()
        return report(number, metrics)

    with locks.hold_folder(place.folder), files.name_full_disk(place.folder):
        config = read_saved_config(place.folder / "config.yaml")
        place.settle(config, trains=objective is None)
        (objective or _default_objective(config))(config, report_saved)


def _default_objective(config: Config) -> Objective:
    from mistral_ner.training.fit import fit

    keep_to_share(config)
    if config.hyperopt.trials_per_pass == 1:
        return fit
    from mistral_ner.training.parallel.together import pass_of_process

    return functools.partial(fit, together=pass_of_process())


def describe_error(error: BaseException) -> str:
    """Return an exception as the reason of a failed trial."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _TuneReporter:
    """Passes reports to Ray Tune; keeps its request to stop until ``fit`` has cleaned up."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.stop: SystemExit | None = None

    def __call__(self, number: int, metrics: dict[str, float]) -> bool:
        from ray import tune

        if self.metric not in metrics:
            raise KeyError(f"no report has the metric {self.metric!r}; there are: {', '.join(sorted(metrics))}")
        try:
            tune.report({**metrics, REPORT: number})
        except SystemExit as stop:  # this is how Ray Tune ends a trial's thread
            self.stop = stop
        return self.stop is not None


class _Asker:
    """Passes reports to the driver, where :class:`StudyReporter` decides."""

    together = True  # whether other trials may run in this process

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.ask, self.stopped = ask, False

    def __call__(self, number: int, metrics: dict[str, float]) -> bool:
        stop, self.stopped = self.ask("report", number, metrics)
        return bool(stop)


class StudyReporter:
    """Writes reports into the study; stops the trial if the pruner says so or a budget is spent.

    Raises:
        UserError: the study cannot be opened.
    """

    def __init__(self, study_folder: Path, number: int) -> None:
        trial = open_trial(study_folder, number)
        self.trial, self.plan, self.study = trial, trial.plan, trial.study
        self.together = trial.plan.config.hyperopt.trials_per_pass > 1
        self.started: float = trial.study.user_attrs[STARTED]
        self.stopped = False

    def __call__(self, number: int, metrics: dict[str, float]) -> bool:
        value = self.trial.record(number, metrics)
        if not math.isfinite(value):
            return True
        if number >= self.plan.reports_per_trial:
            return False
        self.stopped = self.trial.is_pruned()
        return self.stopped or self._budget_is_spent()

    def judge(self, number: int, metrics: dict[str, float]) -> tuple[bool, bool]:
        """Write a report; return whether the trial ends, and whether the pruner stopped it."""
        return self(number, metrics), self.stopped

    def _budget_is_spent(self) -> bool:
        """Return whether time or the target ends the search; max_reports paid for the whole trial at its start."""
        timeout = self.plan.config.hyperopt.timeout
        if (timeout is not None and time.time() - self.started >= timeout) or self.study.user_attrs.get(CALLED_OFF):
            return True
        if self.plan.config.hyperopt.target is None:
            return False
        trials = self.study.get_trials(deepcopy=False)  # reading all trials is not free
        return any_reaches_target(
            self.plan, [value for trial in trials for value in trial.intermediate_values.values()]
        )
