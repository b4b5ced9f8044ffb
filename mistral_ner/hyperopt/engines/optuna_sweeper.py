"""The Hydra Optuna sweeper engine: runs the trials of ``optuna`` and ``random`` here, in Ray, or in Hydra launchers.

The package's own loop asks for a batch of ``n_jobs`` trials and waits for the slowest of them, knows no pruner and no
timeout, does not tell a job its trial, and starts again at directory 0. Ours fills every free slot at once.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from mistral_ner import files
from mistral_ner.config.mirror import is_url
from mistral_ner.config.schema import HyperoptConfig
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster import scratch
from mistral_ner.hyperopt.cluster.jobs import JobWorkers, check_launcher, is_submitit
from mistral_ner.hyperopt.cluster.road import Road
from mistral_ner.hyperopt.cluster.workers import Here, RayWorkers, Workers, actor_options, worker_class
from mistral_ner.hyperopt.engines.slots import InLauncher, InProcess, InWorkers, Slots, ended_job
from mistral_ner.hyperopt.engines.trial import Ended, Objective, StudyReporter, try_study_trial, way_of_jobs
from mistral_ner.hyperopt.results.finish import finish, record_interrupt
from mistral_ner.hyperopt.results.summary import Summary
from mistral_ner.hyperopt.spec.plan import Plan, trial_name
from mistral_ner.hyperopt.study.event_log import EventLog
from mistral_ner.hyperopt.study.opening import lead_study
from mistral_ner.hyperopt.study.signals import catch_signals
from mistral_ner.hyperopt.study.storage import STORAGE_URL
from mistral_ner.hyperopt.study.study import GO_ON, Study


def run(plan: Plan, launcher: Any = None, objective: Objective | None = None) -> Summary:
    """Ask for trials and run them until the budget is spent; return the search's summary.

    Args:
        plan: the checked search.
        launcher: Hydra's, after its setup; it runs the trials. Left out, this process runs them, or Ray if
            ``max_concurrent`` is more than one.
        objective: called for each trial; left out, :func:`mistral_ner.train.fit`. A launcher calls its own task.

    Raises:
        UserError: the study exists and is not to be resumed, Ray has no room for the trials or does not know an
            option of a worker, or no trial completed.
    """
    slots, uses_ray = _slots(plan, launcher, objective)
    if plan.config.hyperopt.storage_url is not None:
        os.environ[STORAGE_URL] = plan.config.hyperopt.storage_url
    with (
        catch_signals(),
        _join(plan) if uses_ray else nullcontext(),
        files.name_full_disk(plan.folder, again=GO_ON),
        lead_study(plan) as study,
        ExitStack() as slots_are_there,
    ):
        workers: Workers | None = None
        study.clock.trains_finals = objective is None
        with EventLog(study) as watch, record_interrupt(study):
            pool = slots_are_there.enter_context(slots())
            _Loop(study, watch, pool).run()
            if objective is None:  # the trials were trainings: a final one can follow
                workers = pool.workers if isinstance(pool, InWorkers) else Here()
                if isinstance(workers, RayWorkers):
                    workers.serve_singly()
        if study.interrupted is not None:
            slots_are_there.close()  # and the trials that still run
        return finish(study, workers)


def _slots(
    plan: Plan, launcher: Any, objective: Objective | None
) -> tuple[Callable[[], AbstractContextManager[Slots]], bool]:
    """Return a function that opens the slots of the trials, and whether they need Ray.

    Raises:
        UserError: trials are to share passes, and a launcher would start each in a process of its own.
    """
    if plan.config.hyperopt.trials_per_pass > 1:
        if type(launcher).__name__ not in ("NoneType", "BasicLauncher"):
            raise UserError(
                f"hyperopt.trials_per_pass={plan.config.hyperopt.trials_per_pass} needs trials in one process, and "
                f"{type(launcher).__name__} starts a job for each; fix: hydra/launcher=basic"
            )
        return lambda: _in_ray(plan, objective), True
    if type(launcher).__name__ == "RayLauncher":
        jobs = _HydraJobs(plan, launcher)
        jobs.check_options()
        return jobs.in_ray, True
    if is_submitit(launcher):
        check_launcher(launcher)
        return _HydraJobs(plan, launcher).in_cluster, False
    if launcher is not None:
        jobs = _HydraJobs(plan, launcher)
        return lambda: nullcontext(InLauncher(plan, launcher, jobs.overrides)), False
    if plan.at_once == 1 and plan.config.hyperopt.ray_address is None:
        return lambda: nullcontext(InProcess(plan, objective)), False
    return lambda: _in_ray(plan, objective), True


def _join(plan: Plan) -> AbstractContextManager[None]:
    if plan.config.hyperopt.ray_address is None:
        return nullcontext()
    from mistral_ner.hyperopt.cluster.connect import join  # late: trials in this process need no Ray

    return join(plan)


@contextmanager
def _in_ray(plan: Plan, objective: Objective | None) -> Iterator[Slots]:
    """Lend Ray's workers, which call the objective without a Hydra launcher."""
    from mistral_ner.hyperopt.cluster.connect import with_storage

    with _ray_workers(plan, {}) as workers:
        trial, folder = with_storage(plan, try_study_trial), plan.folder

        def call(number: int) -> tuple[Any, ...]:
            return trial, folder, number, objective, _road(plan, workers, number)

        yield InWorkers(workers, call, lambda ended: ended)


@contextmanager
def _ray_workers(plan: Plan, options: dict[str, Any]) -> Iterator[RayWorkers]:
    """Lend Ray's workers, and serve those whose machines do not see the study."""
    from mistral_ner.hyperopt.cluster.connect import lend_cluster
    from mistral_ner.hyperopt.cluster.transport import open_office

    each = plan.config.hyperopt.trials_per_pass
    with (
        lend_cluster(plan) as resources,
        open_office(plan, lambda number: StudyReporter(plan.folder, number).judge) as office,
        closing(RayWorkers(plan, {**actor_options(resources), **options}, each=each, office=office)) as workers,
    ):
        yield workers


def _road(plan: Plan, workers: RayWorkers, number: int) -> Road | None:
    return workers.office.issue(plan.folder / trial_name(number)) if workers.office is not None else None


class _Loop:
    """Fills every free slot at once, and counts what the trials report."""

    def __init__(self, study: Study, watch: EventLog, slots: Slots) -> None:
        self.study, self.watch, self.slots = study, watch, slots
        self._shown: dict[int, int] = {}

    def run(self) -> None:
        study, slots = self.study, self.slots
        while (not study.complete and not study.spent) or slots.running:
            while slots.free and not study.complete and not study.spent and study.affords():
                asked = study.ask()
                self.watch.log_start(asked)
                if not asked.again or self._goes_on(asked.number):
                    slots.start(asked.number)
            for number, ended in slots.ended():
                self._see(number)
                self.watch.log_end(study.end(number, ended.failure, ended.stopped))
            for number in slots.running:
                self._see(number)
            if study.spent is not None:
                study.call_off()

    def _goes_on(self, number: int) -> bool:
        """Judge what a cut-off trial reported unseen; return whether it continues."""
        self.study.catch_up(number)
        if len(self.study.reports_of(number)) < self.study.plan.reports_per_trial and self.study.is_pruned(number):
            self.watch.log_end(self.study.end(number, stopped=True))
            return False
        self._shown[number] = len(self.study.reports_of(number))
        return True

    def _see(self, number: int) -> None:
        """Show and count the reports that a trial has written since the last look."""
        shown = self._shown.setdefault(number, 0)
        values = self.study.reports_of(number)
        for report in sorted(values)[shown:]:
            self.study.count(number, values[report])
            self.watch.log_report(number, report, values[report])
        self._shown[number] = len(values)


class _HydraJobs:
    """Makes Hydra jobs of trials: a job gets its study and its number, and reads the rest from disk."""

    def __init__(self, plan: Plan, launcher: Any) -> None:
        self.plan, self.launcher = plan, launcher

    def overrides(self, number: int) -> list[str]:
        """Return a job's overrides: the command line's own without sweeps, the study, and the trial's number."""
        return [*self._shared, f"hyperopt.trial={number}"]

    @cached_property
    def _shared(self) -> list[str]:
        given = self.launcher.config.hydra.overrides.task
        passed_on = [one for one in given if not _is_sweep(one) and _key(one) not in _NOT_PASSED_ON]
        hyperopt = self.plan.config.hyperopt
        # the default study_name contains the time of day; Hydra's own files would not show the trial's settings
        own = [f"hyperopt.study_name={hyperopt.study_name}", "hydra.output_subdir=null"]
        if is_url(str(self.launcher.config.hyperopt.results_dir)):  # a mirror: the study lies here
            own.append(f"hyperopt.results_dir={HyperoptConfig.results_dir}")
        return [*passed_on, *own, *(["hyperopt.storage_url=null"] if hyperopt.storage_url is not None else [])]

    @contextmanager
    def in_ray(self) -> Iterator[Slots]:
        """Lend Ray's workers, which run Hydra's jobs; the launcher's own ``launch`` would wait for a whole batch."""
        from mistral_ner.hyperopt.cluster.connect import with_storage

        with _ray_workers(self.plan, self._options) as workers:
            setup_globals()
            job, state, context = with_storage(self.plan, _run_job), Singleton.get_state(), self.launcher.hydra_context
            task = self.launcher.task_function

            def call(number: int) -> tuple[Any, ...]:
                return (
                    job,
                    context,
                    self._config(number),
                    task,
                    state,
                    _road(self.plan, workers, number),
                )

            yield InWorkers(workers, call, lambda ended: ended)

    @contextmanager
    def in_cluster(self) -> Iterator[Slots]:
        """Lend jobs of Slurm, which the launcher itself would start batch by batch; it is what each of them calls."""
        with closing(JobWorkers(self.plan, self.launcher)) as workers:
            setup_globals()
            state = Singleton.get_state()
            yield InWorkers(
                workers,
                lambda number: (
                    *(self.launcher, self.overrides(number), "hydra.sweep.dir", number, trial_name(number)),
                    state,
                ),
                ended_job,
            )

    @cached_property
    def _options(self) -> dict[str, Any]:
        """Return the options of Ray's workers that the config names."""
        options: Any = OmegaConf.to_container(self.launcher.ray_cfg.remote, resolve=True)
        return dict(options)

    def check_options(self) -> None:
        """Check the options of the workers before anything is written.

        Raises:
            UserError: names every option that Ray does not know.
        """
        where, faults = "hydra.launcher.ray.remote", []
        for name, value in self._options.items():
            try:
                worker_class({name: value})
            except (TypeError, ValueError) as error:
                why = str(error).partition(" Valid ones")[0]
                faults.append(f"{where}.{name}: found {value!r}. {why} fix: ~{where}.{name}")
        if faults:
            raise UserError("\n".join([f"{where} takes options of a Ray actor, where trials run:", *faults]))

    @cached_property
    def _composed(self) -> DictConfig:
        loader = self.launcher.hydra_context.config_loader
        composed: DictConfig = loader.load_sweep_config(self.launcher.config, self._shared)
        return composed

    def _config(self, number: int) -> DictConfig:
        """Return what Hydra would compose for a job; composing it anew is the slowest part of starting a job."""
        config: DictConfig = copy.deepcopy(self._composed)
        with open_dict(config):
            config.hyperopt.trial = number
            config.hydra.overrides.task = self.overrides(number)
            config.hydra.job.id = f"trial_{number}"
            config.hydra.job.num = number
        return config


def _run_job(context: Any, config: DictConfig, task: Any, state: Any, road: Road | None) -> Ended:
    """Run a Hydra job in a worker, as a launcher does: https://hydra.cc/docs/advanced/plugins/develop.

    Hydra keeps the job's own files in the study's folder, or in a temporary one where the machine does not see that.
    """
    setup_globals()
    Singleton.set_state(state)
    with way_of_jobs(road), ExitStack() as stack:
        if road is not None and not road.leads_to_folder():
            config.hydra.sweep.dir = str(stack.enter_context(scratch.lend(scratch.of_search(road.token) / "jobs")))
        return ended_job(
            run_job(
                hydra_context=context,
                task_function=task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        )


# A storage URL may hold a password: jobs get it from the environment.
_NOT_PASSED_ON = ("hyperopt.storage_url",)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_sweep(override: str) -> bool:
    return bool(OverridesParser.create().parse_override(override).is_sweep_override())
