"""What Hydra is told about this project when it starts: light, so that ``--help`` and ``--cfg`` answer at once."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mistral_ner import files
from mistral_ner.composing import refuse_secrets
from mistral_ner.config import UserError
from mistral_ner.errors import shown_to_the_user


class _Engine(Sweeper):
    """Checks the whole search, then runs it or only says what it would do."""

    strategies: tuple[str, ...] = ()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; the engine itself starts in :meth:`sweep`."""
        self.composed, self.hydra_context, self.task_function = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Check the search and run it; ``arguments`` are the command line's overrides, sweep syntax included."""
        with shown_to_the_user(debug=bool(self.composed.hydra.verbose)):
            refuse_secrets(self.composed.hydra)
            from mistral_ner.hyperopt.plan import Plan

            plan = Plan.of(self._task(), arguments, self.strategies)
            if plan.config.hyperopt.dry_run:
                from mistral_ner.hyperopt.dry_run import describe

                return describe(plan)
            from mistral_ner.inputs import check_inputs

            check_inputs(plan.config)
            from mistral_ner.prepare import prepare

            prepare(plan.config)  # data or a model that cannot be read is found before a study exists
            summary = self.search(plan)
            files.write_text(plan.folder / "multirun.yaml", files.redacted(OmegaConf.to_yaml(self.composed)))
            return summary

    def _task(self) -> DictConfig:
        """Return the part of the sweep's config that a run is made of; each trial sets its own output_dir."""
        config = self.composed
        task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        OmegaConf.set_struct(task, False)
        task.output_dir = config.hydra.sweep.dir
        return task

    @abstractmethod
    def search(self, plan: Any) -> Any:
        """Run the checked search."""


class RayTuneSweeper(_Engine):
    """The Ray Tune engine, as ``hydra/sweeper: ray_tune``."""

    strategies = ("combined", "asha")

    def search(self, plan: Any) -> Any:
        """Run the trials in Ray Tune."""
        from mistral_ner.hyperopt import ray_tune

        return ray_tune.search(plan)


class OptunaStudySweeper(_Engine):
    """The Hydra Optuna sweeper engine, as ``hydra/sweeper: optuna_study``; works with any Hydra launcher."""

    strategies = ("optuna", "random")

    def _task(self) -> DictConfig:
        task = super()._task()
        # Hydra's own launcher runs one job after the other: each has the machine
        if task.hyperopt.max_concurrent is None and "BasicLauncher" in self.composed.hydra.launcher._target_:
            task.hyperopt.max_concurrent = 1
        return task

    def search(self, plan: Any) -> Any:
        """Run the trials as Hydra jobs."""
        from mistral_ner.hyperopt.optuna_sweep import StudySweeper

        sweeper = StudySweeper(plan)
        sweeper.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.composed)
        return sweeper.search()


class PlainSweeper(BasicSweeper):
    """Hydra's own sweeper for a few trainings side by side, in the place of ``hydra/sweeper: basic``.

    It keeps off the folder of a search, and what it saves there it saves once and without passwords.
    """

    def __init__(self) -> None:
        super().__init__(max_batch_size=None)

    def sweep(self, arguments: list[str]) -> Any:
        """Run a training for each combination of the values that ``arguments`` list."""
        assert self.config is not None and self.launcher is not None and self.hydra_context is not None  # noqa: PT018
        with shown_to_the_user(debug=bool(self.config.hydra.verbose)):
            refuse_secrets(self.config.hydra)
            folder = Path(self.config.hydra.sweep.dir)
            if (folder / "study.lock").exists():
                name = self.config.hyperopt.study_name
                raise UserError(f"{folder} is the folder of a search; fix: hyperopt.study_name={name}_2")
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        self.overrides = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)
        if not (folder / "multirun.yaml").exists():
            files.write_text(folder / "multirun.yaml", files.redacted(OmegaConf.to_yaml(self.config)))
        jobs = self.get_job_batch()
        self.validate_batch_is_legal(jobs)
        results = self.launcher.launch(jobs, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises what the job has raised
        return [results]


ENGINES = (RayTuneSweeper.__name__, OptunaStudySweeper.__name__)


@dataclass
class _SweeperConf:
    """An engine needs no settings of its own: everything is in the composed config."""

    _target_: str


def register() -> None:
    """Make the engines and the resolver of trial folders known to Hydra."""
    sweepers: dict[str, Any] = {"ray_tune": RayTuneSweeper, "optuna_study": OptunaStudySweeper, "basic": PlainSweeper}
    for name, engine in sweepers.items():
        Plugins.instance().register(engine)
        node = _SweeperConf(f"{__name__}.{engine.__name__}")
        ConfigStore.instance().store(group="hydra/sweeper", name=name, node=node, provider="mistral_ner", replace=True)
    # a job writes .hydra itself, once nothing is wrong with it: a command that is refused leaves a used folder alone
    ConfigStore.instance().store(
        group="hydra", name="config", node=HydraConf(output_subdir=None), provider="mistral_ner", replace=True
    )
    OmegaConf.register_resolver("pad", lambda number: f"{int(number):04d}", replace=True)


register()
