"""Registers this project with Hydra; imports nothing heavy, so that ``--help`` and ``--cfg`` answer at once."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mistral_ner import files
from mistral_ner.config.check import named_by_time
from mistral_ner.config.hydra_errors import refuse_secrets
from mistral_ner.config.mirror import is_url
from mistral_ner.environment import forget_other_launchers
from mistral_ner.errors import UserError, show_user_errors


class _StudySweeper(Sweeper):
    """Checks the whole search, then runs it or prints what it would do."""

    strategies: tuple[str, ...] = ()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; the search itself starts in :meth:`sweep`."""
        self.composed = config

    def sweep(self, arguments: list[str]) -> Any:
        """Check the search and run it; ``arguments`` are the command line's overrides, sweep syntax included."""
        with show_user_errors(debug=bool(self.composed.hydra.verbose)):
            refuse_secrets(self.composed.hydra)
            forget_other_launchers()
            from mistral_ner.hyperopt.spec.plan import Plan

            plan = Plan.of(self._task(), arguments, self.strategies)
            if plan.config.hyperopt.dry_run:
                from mistral_ner.hyperopt.dry_run import describe

                return describe(plan)
            from mistral_ner.hyperopt.dispatch import run_search

            summary = run_search(plan, launcher=self._launcher())
            files.write_text(plan.folder / "multirun.yaml", files.redact(OmegaConf.to_yaml(self.composed)))
            return summary

    def _task(self) -> DictConfig:
        """Return the part of the sweep's config that a run is made of; each trial sets its own output_dir."""
        config = self.composed
        task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        OmegaConf.set_struct(task, False)
        task.output_dir = config.hydra.sweep.dir
        return task

    def _launcher(self) -> Any:
        """Return the Hydra launcher that runs the trials, None if they are no Hydra jobs."""
        return None


class RayTuneSweeper(_StudySweeper):
    """The Ray Tune engine, as ``hydra/sweeper: ray_tune``."""

    strategies = ("combined", "asha")

    def _task(self) -> DictConfig:
        """Refuse a launcher that would not be asked: the trials would run on the login node of a cluster.

        Raises:
            UserError: the launcher is neither Hydra's own nor Ray's.
        """
        task, hydra = super()._task(), self.composed.hydra
        if hydra.launcher._target_.rpartition(".")[2] not in ("BasicLauncher", "RayLauncher"):
            raise UserError(
                f"hydra/launcher={hydra.runtime.choices['hydra/launcher']}: Ray Tune itself starts the trials of "
                f"hyperopt={task.hyperopt.strategy}; fix: leave hydra/launcher out, and on a cluster name its Ray, "
                "hyperopt.ray_address=auto; or hyperopt=optuna"
            )
        return task


class OptunaStudySweeper(_StudySweeper):
    """The Hydra Optuna sweeper engine, as ``hydra/sweeper: optuna_study``; works with any Hydra launcher."""

    strategies = ("optuna", "random")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over, for the package's sweeper to set up the launcher with."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.handed: dict[str, Any] = {"hydra_context": hydra_context, "task_function": task_function, "config": config}

    def _task(self) -> DictConfig:
        task = super()._task()
        # Hydra's own launcher runs one job after the other: each has the machine; passes are no jobs of it
        passes = task.hyperopt.ray_address is not None and task.hyperopt.trials_per_pass > 1
        launcher = self.composed.hydra.launcher._target_
        basic = "BasicLauncher" in launcher
        if task.hyperopt.ray_address is not None and "RayLauncher" not in launcher and not passes:
            raise UserError(
                f"hyperopt.ray_address={task.hyperopt.ray_address}: hyperopt={task.hyperopt.strategy} runs its trials "
                "there with hydra/launcher=ray only; fix: add hydra/launcher=ray"
            )
        if task.hyperopt.max_concurrent is None and basic and not passes:
            task.hyperopt.max_concurrent = task.hyperopt.trials_per_pass
        if "SlurmLauncher" in launcher:
            self._leave_to_slurm(task)
        return task

    def _leave_to_slurm(self, task: DictConfig) -> None:
        """Let nothing follow from this machine: each trial has the CPUs and cards of its Slurm job.

        Raises:
            UserError: the size of the search is not given, or a job's resources are not given to the launcher.
        """
        wanted, job = task.hyperopt.resources_per_trial, self.composed.hydra.launcher
        if task.hyperopt.max_concurrent is None:
            raise UserError(
                "hyperopt.max_concurrent: must be set with hydra/launcher=submitit_slurm: how many jobs may run at "
                "once is not known here; fix: hyperopt.max_concurrent=8"
            )
        if task.model.get("device_map") is not None:
            raise UserError(
                "model.device_map=auto: not with hydra/launcher=submitit_slurm; fix: a Ray over the allocation "
                "(deploy/slurm), hyperopt.ray_address=auto and hyperopt.resources_per_trial.gpu=2"
            )
        for kind, key in (("cpu", "cpus_per_task"), ("gpu", "gpus_per_node")):
            if wanted[kind] is not None:
                raise UserError(
                    f"hyperopt.resources_per_trial.{kind}: does nothing with hydra/launcher=submitit_slurm, found "
                    f"{wanted[kind]}; fix: hydra.launcher.{key}={max(1, round(wanted[kind]))} instead of it"
                )
        wanted.gpu = 0  # so that the cards of this machine count for nothing
        if task.training.threads is None:
            task.training.threads = job.cpus_per_task or 1

    def _launcher(self) -> Any:
        from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

        upstream = OptunaSweeper(None, None, None, None, 1, 1, 0.0, None, None)
        upstream.setup(**self.handed)
        return upstream.sweeper.launcher


class PlainSweeper(Sweeper):
    """A few trainings side by side without a search, in the place of Hydra's own ``hydra/sweeper: basic``.

    Unlike Hydra's, it stays out of the folder of a search and writes ``multirun.yaml`` once, without passwords.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the config and set up the launcher that it names."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run a training for each combination of the values that ``arguments`` list."""
        assert self.config is not None and self.launcher is not None and self.hydra_context is not None  # noqa: PT018
        folder = Path(self.config.hydra.sweep.dir)
        _check_folder(folder, self.config)
        jobs = _combinations(arguments, self.hydra_context)
        folder, jobs = _in_own_folder(folder, self.config, jobs)
        if not (folder / "multirun.yaml").exists():
            files.write_text(folder / "multirun.yaml", files.redact(OmegaConf.to_yaml(self.config)))
        self.validate_batch_is_legal(jobs)
        results = self.launcher.launch(jobs, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises what the job has raised
        return [results]


def _check_folder(folder: Path, config: DictConfig) -> None:
    with show_user_errors(debug=bool(config.hydra.verbose)):
        refuse_secrets(config.hydra)
        if (folder / "study.lock").exists():
            name = config.hyperopt.study_name
            raise UserError(f"{folder} is the folder of a search; fix: hyperopt.study_name={name}_2")
        if is_url(str(config.hyperopt.results_dir)):
            raise UserError("hyperopt.results_dir: only a search lies in a bucket; fix: hyperopt=combined")


def _in_own_folder(folder: Path, config: DictConfig, jobs: list[list[str]]) -> tuple[Path, list[list[str]]]:
    """Return a folder that no sweep of the same second has, and the jobs that write into it."""
    if not named_by_time(config) or folder.name != config.hyperopt.study_name:
        return folder, jobs
    folder = files.claim_folder(folder)
    return folder, [[*job, f"hyperopt.study_name={folder.name}"] for job in jobs]


def _combinations(arguments: list[str], context: HydraContext) -> list[list[str]]:
    """Return the overrides of each job; the last argument with several values changes fastest.

    Raises:
        HydraException: an argument is a range without steps.
    """
    choices: dict[str, list[str]] = {}
    for override in OverridesParser.create(config_loader=context.config_loader).parse_overrides(arguments):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            assert override.value_type is not None, "a sweep has a type"
            raise HydraException(f"BasicSweeper does not support sweep type : {override.value_type.name}")
    return [list(job) for job in itertools.product(*choices.values())]


ENGINES = (RayTuneSweeper.__name__, OptunaStudySweeper.__name__)


@dataclass
class _SweeperConf:
    """An engine needs no settings of its own: everything is in the composed config."""

    _target_: str


@functools.cache
def _claim_folder(wanted: str) -> str:
    """Create the folder of a run, once a process: two runs that start in the same second get different ones."""
    try:
        return str(files.claim_folder(Path(wanted)))
    except OSError:
        return wanted  # Hydra creates it next, and its error is explained


def register() -> None:
    """Make the engines and the resolvers of folders known to Hydra."""
    sweepers: dict[str, Any] = {"ray_tune": RayTuneSweeper, "optuna_study": OptunaStudySweeper, "basic": PlainSweeper}
    for name, engine in sweepers.items():
        Plugins.instance().register(engine)
        node = _SweeperConf(f"{__name__}.{engine.__name__}")
        ConfigStore.instance().store(group="hydra/sweeper", name=name, node=node, provider="mistral_ner", replace=True)
    # a job writes .hydra itself after its checks, so that a refused command leaves a used folder alone
    ConfigStore.instance().store(
        group="hydra", name="config", node=HydraConf(output_subdir=None), provider="mistral_ner", replace=True
    )
    OmegaConf.register_resolver("new_folder", _claim_folder, replace=True)
    OmegaConf.register_resolver("pad", lambda number: f"{int(number):04d}", replace=True)


register()
