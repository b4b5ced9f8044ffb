"""The Ray Tune engine: runs the trials of ``combined`` and ``asha`` in warm workers.

Ray Tune starts workers, hands out trials and lets ASHA decide at every report; the study owns what a trial is and how
it ended. A worker process lives through many trials, so imports and the base model are paid for once.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from mistral_ner.hyperopt.plan import Plan, cpus_per_trial, trial_name
from mistral_ner.hyperopt.results import Summary, finish
from mistral_ner.hyperopt.study import Study
from mistral_ner.hyperopt.watch import Watch
from mistral_ner.hyperopt.worker import FAILURE, REPORT, run_trial

log = logging.getLogger(__name__)

_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning in workers
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write their own result.json
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a stopped trial may take the adapter off before its worker goes on
    "RAY_AIR_NEW_OUTPUT": "0",  # the progress lines are ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a broken trial reports its reason instead of the metric
}


def search(plan: Plan) -> Summary:
    """Run a whole search and return its summary.

    Raises:
        StudyExistsError: the study's name is taken.
        UserError: Ray cannot hold the trials, or no trial completed.
    """
    study = Study.create(plan)
    with Watch(study) as watch, _cluster(plan) as cpus:
        _tuner(plan, study, watch, cpus).fit()
    return finish(study)


def _tuner(plan: Plan, study: Study, watch: Watch, cpus: float) -> tune.Tuner:
    hyperopt = plan.config.hyperopt
    gpus = hyperopt.resources_per_trial.gpu
    resources = PlacementGroupFactory([{"CPU": cpus, "GPU": gpus or 0.0}])
    return tune.Tuner(
        tune.with_resources(run_trial, resources),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(study, watch),
            scheduler=_StudyASHA(study, watch),
            num_samples=hyperopt.num_trials,
            reuse_actors=True,
            trial_dirname_creator=_folder_name,
            trial_name_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name=hyperopt.study_name,
            storage_path=hyperopt.results_dir,
            stop=_TimeIsUp(study),
            verbose=0,
            log_to_file=False,
        ),
    )


def _folder_name(trial: Trial) -> str:
    return trial_name(trial.config["number"])


class _DriverOnly:
    """Left out of Ray's own snapshots: the study on disk is what a search is continued from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_DriverOnly, Searcher):
    """Asks the study for trials and tells it how they ended."""

    def __init__(self, study: Study, watch: Watch) -> None:
        hyperopt = study.plan.config.hyperopt
        super().__init__(metric=hyperopt.metric, mode=hyperopt.mode)
        self.study, self.watch = study, watch
        self.numbers: dict[str, int] = {}  # Ray's trial id to the study's number

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config, None while ``max_concurrent`` trials run, FINISHED when time is up."""
        if len(self.numbers) >= self.study.plan.config.hyperopt.max_concurrent:
            return None
        if self.study.out_of_time:
            return Searcher.FINISHED
        asked = self.study.ask()
        self.numbers[trial_id] = asked.number
        self.watch.asked(asked)
        return {"number": asked.number, "folder": str(self.study.plan.folder / trial_name(asked.number))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study that a trial is over."""
        number = self.numbers.pop(trial_id, None)
        if number is None:
            return
        failure = "the worker process died (killed, or out of memory)" if error else (result or {}).get(FAILURE)
        self.watch.ended(number, self.study.end(number, failure))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is on disk."""


class _StudyASHA(_DriverOnly, ASHAScheduler):
    """ASHA over reports; every report is recorded in the study before it is judged."""

    def __init__(self, study: Study, watch: Watch) -> None:
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
        self.study, self.watch = study, watch

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the report and decide whether the trial goes on."""
        metric = self.study.plan.config.hyperopt.metric
        if REPORT not in result or FAILURE in result:
            return str(self.CONTINUE)
        number = trial.config["number"]
        value = self.study.report(number, result[REPORT], result)
        self.watch.reported(number, result[REPORT], value)
        if not math.isfinite(value):
            return str(self.STOP)
        return str(super().on_trial_result(tune_controller, trial, {REPORT: result[REPORT], metric: value}))


class _TimeIsUp(_DriverOnly, Stopper):
    """Ends the search once its time is spent; what the running trials have reported is on disk."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Whether the study's time is spent."""
        return self.study.out_of_time


@contextmanager
def _cluster(plan: Plan) -> Iterator[float]:
    """Start a private local Ray, or join the one at ``ray_address``; yields the CPUs of one trial."""
    hyperopt = plan.config.hyperopt
    os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    cpus = cpus_per_trial(plan.config)
    joined = hyperopt.ray_address is not None or ray.is_initialized()
    # Ray says at every start that its token authentication is on; it stays on
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if not ray.is_initialized():
        where: dict[str, Any] = (
            {"address": hyperopt.ray_address}
            if joined
            else {
                "address": "local",
                "num_cpus": max(os.cpu_count() or 1, math.ceil(cpus * hyperopt.max_concurrent)),
                "include_dashboard": False,
            }
        )
        ray.init(**where, log_to_driver=False, logging_level=logging.WARNING, runtime_env={"env_vars": _ENVIRONMENT})
    try:
        yield cpus
    finally:
        if not joined:
            ray.shutdown()
