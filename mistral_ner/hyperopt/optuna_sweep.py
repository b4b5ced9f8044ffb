"""The Hydra Optuna sweeper engine: runs the trials of ``optuna`` and ``random`` as jobs of any Hydra launcher."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import DictConfig, OmegaConf, open_dict

from mistral_ner import files
from mistral_ner.config import ResourcesConfig, UserError
from mistral_ner.hyperopt.job import Ended
from mistral_ner.hyperopt.jobs import InProcess, InRay, Jobs, in_ray
from mistral_ner.hyperopt.leader import lead
from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.quoting import quoted
from mistral_ner.hyperopt.results import Summary, ending_in_order, finish
from mistral_ner.hyperopt.signals import interruptible
from mistral_ner.hyperopt.storage import STORAGE_URL
from mistral_ner.hyperopt.study import GO_ON, WORKER_DIED, Asked, Study
from mistral_ner.hyperopt.watch import Watch
from mistral_ner.hyperopt.worker import Objective, described
from mistral_ner.hyperopt.workers import Here, RayWorkers, Workers, holding, worker_class

log = logging.getLogger(__name__)


def search(plan: Plan, objective: Objective | None = None) -> Summary:
    """Run a whole search without a Hydra launcher and return its summary: in this process, or with Ray where
    ``max_concurrent`` is more than one.

    Args:
        plan: the checked search.
        objective: called for each trial; left out, :func:`mistral_ner.train.fit`.

    Raises:
        UserError: the study exists and is not to be resumed, Ray cannot hold the trials, or no trial completed.
    """

    @contextmanager
    def jobs() -> Iterator[Jobs]:
        if plan.at_once == 1 and plan.config.hyperopt.ray_address is None:
            yield InProcess(plan, objective)
            return
        from mistral_ner.hyperopt.cluster import cluster

        with cluster(plan) as resources, in_ray(plan, resources, objective) as in_workers:
            yield in_workers

    return run(plan, jobs, train=objective is None)


def run(plan: Plan, jobs: Callable[[], Any], train: bool = True, in_ray: bool = True) -> Summary:
    """Ask for trials and give them to ``jobs()``, a context manager, until the budget is spent.

    Args:
        plan: the checked search.
        jobs: makes what runs the trials.
        train: whether the trials were trainings, so that a final model can follow.
        in_ray: whether ``hyperopt.ray_address`` counts.
    """
    if plan.config.hyperopt.storage_url is not None:
        os.environ[STORAGE_URL] = plan.config.hyperopt.storage_url
    with (
        interruptible(),
        _joined(plan) if in_ray else nullcontext(),
        files.full_disk_named(plan.folder, again=GO_ON),
        lead(plan) as study,
        ExitStack() as jobs_are_there,
    ):
        workers: Workers | None = None
        with Watch(study) as watch, ending_in_order(study):
            pool = jobs_are_there.enter_context(jobs())
            _Loop(study, watch, pool).run()
            if train:
                workers = pool.workers if isinstance(pool, InRay) else Here()
        if study.interrupted is not None:
            jobs_are_there.close()  # with all that still runs
        return finish(study, workers)


def _joined(plan: Plan) -> AbstractContextManager[None]:
    if plan.config.hyperopt.ray_address is None:
        return nullcontext()
    from mistral_ner.hyperopt.cluster import joined  # late: trials in this process need no Ray

    return joined(plan)


class _Loop:
    """Fills every free slot at once, and passes on what the trials report meanwhile."""

    def __init__(self, study: Study, watch: Watch, jobs: Jobs) -> None:
        self.study, self.watch, self.jobs = study, watch, jobs
        self._shown: dict[int, int] = {}

    def run(self) -> None:
        study, jobs = self.study, self.jobs
        while (not study.complete and not study.spent) or jobs.running:
            while jobs.free and not study.complete and not study.spent and study.affords():
                asked = study.ask()
                self.watch.asked(asked)
                if not asked.again or self._goes_on(asked.number):
                    jobs.start(asked)
            for number, ended in jobs.ended():
                self._see(number)
                self.watch.ended(study.end(number, ended.failure, ended.stopped))
            for number in jobs.running:
                self._see(number)

    def _goes_on(self, number: int) -> bool:
        """Whether a trial that was cut off has something left to run: it may have been cut off before its judgement."""
        self.study.catch_up(number)
        if len(self.study.reports_of(number)) < self.study.plan.reports_per_trial and self.study.prunes(number):
            self.watch.ended(self.study.end(number, stopped=True))
            return False
        self._shown[number] = len(self.study.reports_of(number))
        return True

    def _see(self, number: int) -> None:
        """Show and count the reports that a job has written since the last look."""
        shown = self._shown.setdefault(number, 0)
        values = self.study.reports_of(number)
        for report in sorted(values)[shown:]:
            self.study.count(number, values[report])
            self.watch.reported(number, report, values[report])
        self._shown[number] = len(values)


class StudySweeper(OptunaSweeperImpl):
    """The package's sweeper with another loop.

    Upstream's loop asks for a batch of ``n_jobs`` trials and waits for the slowest of them, knows no pruner and no
    timeout, does not tell a job its trial, and starts again at directory 0. Setting up the launcher is upstream's.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def setup(self, **kwargs: Any) -> None:
        """Let upstream set up the launcher."""
        super().setup(**kwargs)
        self.hydra: Any = self.hydra_context
        self.jobs: Any = self.launcher
        self.composed: Any = self.config

    def search(self) -> Summary:
        """Run the whole search and return its summary.

        Raises:
            UserError: as :func:`run`, or Ray knows no such option of a worker; nothing is written then.
        """
        if self._uses_ray:
            self._check_options()
        return run(self.plan, self._jobs, in_ray=self._uses_ray)

    @contextmanager
    def _jobs(self) -> Iterator[Jobs]:
        if not self._uses_ray:
            yield _LauncherJobs(self)
            return
        from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job

        from mistral_ner.hyperopt.cluster import cluster, with_storage

        with (
            cluster(self.plan) as resources,
            closing(RayWorkers(self.plan, {**holding(resources), **self._options})) as workers,
        ):
            setup_globals()
            # The launcher's own ``launch`` would wait for a whole batch.
            job, state = with_storage(self.plan, _run_job), Singleton.get_state()
            yield InRay(
                workers,
                lambda asked: (job, self.hydra, self._job_config(asked), self.jobs.task_function, state),
                _ended,
            )

    @cached_property
    def _options(self) -> dict[str, Any]:
        """Ray's options of the workers, as far as the command line has them."""
        options: Any = OmegaConf.to_container(self.jobs.ray_cfg.remote, resolve=True)
        return dict(options)

    def _check_options(self) -> None:
        where, faults = "hydra.launcher.ray.remote", []
        for name, value in self._options.items():
            try:
                worker_class({name: value})
            except (TypeError, ValueError) as error:
                why = str(error).partition(" Valid ones")[0]
                faults.append(f"{where}.{name}: found {value!r}. {why} fix: ~{where}.{name}")
        if faults:
            raise UserError("\n".join([f"{where} takes options of a Ray actor, where trials run:", *faults]))

    @property
    def _uses_ray(self) -> bool:
        return type(self.jobs).__name__ == "RayLauncher"

    @cached_property
    def _without_settings(self) -> DictConfig:
        composed: DictConfig = self.hydra.config_loader.load_sweep_config(self.jobs.config, self._shared)
        return composed

    def _job_config(self, asked: Asked) -> DictConfig:
        """Return what Hydra would compose for a job; composing each anew takes longer than all else that starts one."""
        config: DictConfig = copy.deepcopy(self._without_settings)
        with open_dict(config):
            for override in OverridesParser.create().parse_overrides(self._own(asked)):
                OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
            config.hydra.overrides.task = self.overrides(asked)
            config.hydra.job.id = f"trial_{asked.number}"
            config.hydra.job.num = asked.number
        return config

    def overrides(self, asked: Asked) -> list[str]:
        """Return a job's overrides: the command line's own without sweeps, the settings, and the trial's number."""
        return [*self._shared, *self._own(asked)]

    @cached_property
    def _shared(self) -> list[str]:
        given = [o for o in self.composed.hydra.overrides.task if not _is_sweep(o) and _key(o) not in _NOT_PASSED_ON]
        hyperopt = self.plan.config.hyperopt
        url = [f"hyperopt.storage_url={STORAGE_URL}"] if hyperopt.storage_url is not None else []
        # the default of a study's name holds the time of day
        # Hydra may write its own files: the trials' folders are this study's alone
        return [*given, *url, "hydra.output_subdir=.hydra", f"hyperopt.study_name={hyperopt.study_name}"]

    def _own(self, asked: Asked) -> list[str]:
        settings = [f"{path}={quoted(value)}" for path, value in self.plan.space.by_path(asked.values).items()]
        return [*settings, f"hyperopt.trial={asked.number}"]


# A storage URL may hold a password: jobs get it from the environment, and find only that variable's name here.
_NOT_PASSED_ON = ("hyperopt.storage_url",)


class _LauncherJobs:
    """Jobs of a launcher that returns when all it was given are done: basic, joblib, submitit."""

    def __init__(self, sweeper: StudySweeper) -> None:
        self.sweeper = sweeper
        name = type(sweeper.jobs).__name__
        self.width = 1 if name == "BasicLauncher" else sweeper.plan.at_once
        hyperopt = sweeper.plan.config.hyperopt
        if sweeper.plan.at_once > self.width:
            log.warning("%s runs one trial at a time; hydra/launcher=ray runs max_concurrent at once", name)
        if hyperopt.ray_address is not None or hyperopt.resources_per_trial != ResourcesConfig():
            log.warning("hyperopt.ray_address and resources_per_trial do nothing with %s; hydra/launcher=ray", name)
        self.waiting: list[Asked] = []
        self.running: list[int] = []

    @property
    def free(self) -> bool:
        return len(self.waiting) < self.width

    def start(self, asked: Asked) -> None:
        self.waiting.append(asked)

    def ended(self) -> list[tuple[int, Ended]]:
        asked, self.waiting = self.waiting, []
        if not asked:
            return []
        returns: list[JobReturn] = []
        for batch in _consecutive(asked):  # Hydra counts a batch's jobs, and their folders, up from the first
            overrides = [self.sweeper.overrides(one) for one in batch]
            returns += self.sweeper.jobs.launch(overrides, initial_job_idx=batch[0].number)
        return [(one.number, _ended(returned)) for one, returned in zip(asked, returns, strict=True)]


def _consecutive(asked: list[Asked]) -> list[list[Asked]]:
    batches: list[list[Asked]] = []
    for one in asked:
        if batches and one.number == batches[-1][-1].number + 1:
            batches[-1].append(one)
        else:
            batches.append([one])
    return batches


def _ended(returned: JobReturn) -> Ended:
    value = returned._return_value
    if returned.status == JobStatus.COMPLETED and isinstance(value, Ended):
        return value
    return Ended(failure=described(value) if isinstance(value, BaseException) else WORKER_DIED)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_sweep(override: str) -> bool:
    return bool(OverridesParser.create().parse_override(override).is_sweep_override())
