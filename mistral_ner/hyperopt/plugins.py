"""What Hydra is told about this project when it starts: light, so that ``--help`` and ``--cfg`` answer at once."""

from __future__ import annotations

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mistral_ner.errors import shown_to_the_user


class RayTuneSweeper(Sweeper):
    """The Ray Tune engine, as ``hydra/sweeper: ray_tune``."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the composed config; the engine itself starts in :meth:`sweep`."""
        self.composed = config

    def sweep(self, arguments: list[str]) -> None:
        """Check the search and run it; ``arguments`` are the command line's overrides, sweep syntax included."""
        with shown_to_the_user(debug=bool(self.composed.hydra.verbose)):
            from mistral_ner.hyperopt.plan import Plan

            plan = Plan.of(_task_config(self.composed), arguments)

            from mistral_ner.hyperopt import ray_tune

            ray_tune.search(plan)


@dataclass
class RayTuneSweeperConf:
    """``hydra/sweeper=ray_tune``: everything it needs is in the composed config."""

    _target_: str = "mistral_ner.hyperopt.plugins.RayTuneSweeper"


def register() -> None:
    """Make the engine and the resolvers known to Hydra."""
    Plugins.instance().register(RayTuneSweeper)
    ConfigStore.instance().store(
        group="hydra/sweeper", name="ray_tune", node=RayTuneSweeperConf, provider="mistral_ner"
    )
    OmegaConf.register_resolver("pad", lambda number: f"{int(number):04d}", replace=True)


def _task_config(config: DictConfig) -> DictConfig:
    """Return the part of a sweep's config that a run is made of; each trial sets its own output_dir."""
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    OmegaConf.set_struct(task, False)
    task.output_dir = config.hydra.sweep.dir
    return task


register()
