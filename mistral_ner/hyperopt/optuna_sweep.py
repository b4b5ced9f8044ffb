"""The Hydra Optuna sweeper engine: runs the trials of ``optuna`` and ``random`` as jobs of any Hydra launcher."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import OmegaConf, open_dict

from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.results import Summary, finish
from mistral_ner.hyperopt.study import WORKER_DIED, Asked, Study
from mistral_ner.hyperopt.watch import Watch

log = logging.getLogger(__name__)


class StudySweeper(OptunaSweeperImpl):
    """The package's sweeper with another loop.

    Upstream's loop asks for a batch of ``n_jobs`` trials and waits for the slowest of them, knows no pruner and no
    timeout, does not tell a job its trial, and starts again at directory 0. Setting up the launcher is upstream's.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def search(self) -> Summary:
        """Run the whole search and return its summary."""
        study = Study.create(self.plan)
        with Watch(study) as watch, self._jobs() as jobs:
            while (not study.complete and not study.spent) or jobs.running:
                while jobs.free and not study.complete and not study.spent:
                    asked = study.ask()
                    watch.asked(asked)
                    jobs.start(asked)
                for number, returned in jobs.ended():
                    self._seen(study, watch, number)
                    watch.ended(study.end(number, _failure(returned)))
                for number in jobs.running:
                    self._seen(study, watch, number)
        return finish(study)

    @contextmanager
    def _jobs(self) -> Iterator[_LauncherJobs | _RayJobs]:
        if type(self.jobs).__name__ != "RayLauncher":
            yield _LauncherJobs(self)
            return
        from mistral_ner.hyperopt.cluster import cluster

        with cluster(self.plan) as resources:
            yield _RayJobs(self, resources)

    def _seen(self, study: Study, watch: Watch, number: int) -> None:
        """Show and count the reports that a job has written since the last look."""
        shown = self._shown.setdefault(number, 0)
        values = study.reports_of(number)
        for report in sorted(values)[shown:]:
            study.count(values[report])
            watch.reported(number, report, values[report])
        self._shown[number] = len(values)

    def setup(self, **kwargs: Any) -> None:
        """Let upstream set up the launcher."""
        super().setup(**kwargs)
        self.hydra: Any = self.hydra_context
        self.jobs: Any = self.launcher
        self.composed: Any = self.config
        self._shown: dict[int, int] = {}

    def overrides(self, asked: Asked) -> list[str]:
        """Return a job's overrides: the command line's own without sweeps, the settings, and the trial's number."""
        given = [override for override in self.composed.hydra.overrides.task if not _is_sweep(override)]
        settings = [f"{path}={quoted(value)}" for path, value in self.plan.space.by_path(asked.values).items()]
        return [
            *given,
            *settings,
            # its default holds the time of day
            f"hyperopt.study_name={self.plan.config.hyperopt.study_name}",
            f"hyperopt.trial={asked.number}",
        ]


class _LauncherJobs:
    """Jobs of a launcher that returns when all it was given are done: basic, joblib, submitit."""

    def __init__(self, sweeper: StudySweeper) -> None:
        self.sweeper = sweeper
        name = type(sweeper.jobs).__name__
        self.width = 1 if name == "BasicLauncher" else sweeper.plan.config.hyperopt.max_concurrent
        if sweeper.plan.config.hyperopt.max_concurrent > self.width:
            log.warning("%s runs one trial at a time; hydra/launcher=ray runs max_concurrent at once", name)
        self.waiting: list[Asked] = []
        self.running: list[int] = []

    @property
    def free(self) -> bool:
        return len(self.waiting) < self.width

    def start(self, asked: Asked) -> None:
        self.waiting.append(asked)

    def ended(self) -> list[tuple[int, JobReturn]]:
        asked, self.waiting = self.waiting, []
        if not asked:
            return []
        overrides = [self.sweeper.overrides(one) for one in asked]
        # a batch has consecutive numbers, so that job.num is the trial's number
        returns = self.sweeper.jobs.launch(overrides, initial_job_idx=asked[0].number)
        return [(one.number, returned) for one, returned in zip(asked, returns, strict=True)]


class _RayJobs:
    """Jobs of the Ray launcher, started one by one: its own ``launch`` would wait for a whole batch."""

    def __init__(self, sweeper: StudySweeper, resources: dict[str, float]) -> None:
        self.sweeper = sweeper
        self.remote = OmegaConf.create({"num_cpus": resources["cpu"], "num_gpus": resources["gpu"], "max_retries": 0})
        self.refs: dict[Any, int] = {}
        setup_globals()

    @property
    def running(self) -> list[int]:
        return list(self.refs.values())

    @property
    def free(self) -> bool:
        return len(self.refs) < self.sweeper.plan.config.hyperopt.max_concurrent

    def start(self, asked: Asked) -> None:
        from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray

        launcher, hydra = self.sweeper.jobs, self.sweeper.hydra
        config = hydra.config_loader.load_sweep_config(launcher.config, self.sweeper.overrides(asked))
        with open_dict(config):
            config.hydra.job.id = f"trial_{asked.number}"
            config.hydra.job.num = asked.number
        remote: Any = OmegaConf.merge(self.remote, launcher.ray_cfg.remote)
        ref = launch_job_on_ray(hydra, remote, config, launcher.task_function, Singleton.get_state())
        self.refs[ref] = asked.number

    def ended(self) -> list[tuple[int, JobReturn]]:
        import ray

        done, _ = ray.wait(list(self.refs), timeout=0.2) if self.refs else ([], [])
        return [(self.refs.pop(ref), _result(ref)) for ref in done]


def _result(ref: Any) -> JobReturn:
    import ray

    try:
        returned: JobReturn = ray.get(ref)
    except ray.exceptions.RayError:
        return JobReturn(status=JobStatus.FAILED)
    return returned


def _failure(returned: JobReturn) -> str | None:
    if returned.status == JobStatus.COMPLETED:
        return None
    error = returned._return_value
    if not isinstance(error, BaseException):
        return WORKER_DIED
    return f"{type(error).__name__}: {error}"


def _is_sweep(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return bool(OverridesParser.create().parse_override(override).is_sweep_override())


def quoted(value: Any) -> str:
    """Return a value in Hydra's override grammar, text in quotes and without interpolation."""
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
        return f"'{text}'"
    if isinstance(value, list):
        return f"[{','.join(quoted(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
