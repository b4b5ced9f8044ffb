"""Where the trials of the Hydra Optuna sweeper engine run: in this process, in Ray, or in a Hydra launcher."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from mistral_ner.config import Config
from mistral_ner.hyperopt.job import Ended, run_job
from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.storage import STORAGE_URL
from mistral_ner.hyperopt.study import WORKER_DIED, Asked
from mistral_ner.hyperopt.worker import Objective, described

log = logging.getLogger(__name__)


class Jobs(Protocol):
    """Runs trials; ``ended`` returns what has ended since the last call, and waits a moment if nothing has."""

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that have not ended."""

    @property
    def free(self) -> bool:
        """Whether another trial can start."""

    def start(self, asked: Asked) -> None:
        """Start a trial."""

    def ended(self) -> list[tuple[int, Ended]]:
        """Return the trials that have ended, and how."""


class InProcess:
    """One trial at a time, here."""

    def __init__(self, plan: Plan, objective: Objective | None) -> None:
        self.plan, self.objective = plan, objective
        self.running: list[int] = []
        self._waiting: list[Asked] = []

    @property
    def free(self) -> bool:
        return not self._waiting

    def start(self, asked: Asked) -> None:
        self._waiting.append(asked)

    def ended(self) -> list[tuple[int, Ended]]:
        waiting, self._waiting = self._waiting, []
        return [(one.number, _called(self.plan.config, one.number, self.objective)) for one in waiting]


def _called(config: Config, number: int, objective: Objective | None) -> Ended:
    try:
        return run_job(config, number, objective)
    except Exception as error:
        log.debug("trial %d failed", number, exc_info=True)
        return Ended(failure=described(error))


class InRay:
    """As many trials at once as the search allows, each a Ray task; a free slot is filled at once."""

    def __init__(
        self, plan: Plan, resources: dict[str, float], start: Callable[[Asked], Any], result: Callable[[Any], Ended]
    ) -> None:
        self.plan, self.resources, self._start, self._result = plan, resources, start, result
        self._refs: dict[Any, int] = {}

    @property
    def running(self) -> list[int]:
        return list(self._refs.values())

    @property
    def free(self) -> bool:
        return len(self._refs) < self.plan.at_once

    def start(self, asked: Asked) -> None:
        self._refs[self._start(asked)] = asked.number

    def ended(self) -> list[tuple[int, Ended]]:
        import ray

        # a short wait: the reports of those that run are looked at in between
        done, _ = ray.wait(list(self._refs), timeout=0.2) if self._refs else ([], [])
        return [(self._refs.pop(ref), self._ended(ref)) for ref in done]

    def _ended(self, ref: Any) -> Ended:
        import ray

        try:
            returned = ray.get(ref)
        except ray.exceptions.RayTaskError as error:  # before the trial began: a module that is not there, say
            return Ended(failure=described(error.cause or error))
        except ray.exceptions.RayError:
            return Ended(failure=WORKER_DIED)
        return self._result(returned)


def in_ray(plan: Plan, resources: dict[str, float], objective: Objective | None) -> InRay:
    """Return jobs that call the objective in Ray tasks, without a Hydra launcher."""
    import ray

    from mistral_ner.hyperopt.cluster import with_storage

    options: Any = {"num_cpus": resources["cpu"], "num_gpus": resources["gpu"], "max_retries": 0}

    def called(config: Config, number: int) -> Ended:
        return _called(config, number, objective)

    trial: Any = ray.remote(**options)(with_storage(plan, called))
    return InRay(
        plan, resources, lambda asked: trial.remote(_without_password(plan.config), asked.number), lambda ended: ended
    )


def _without_password(config: Config) -> Config:
    """A config may end in a log; the URL travels apart from it."""
    hyperopt = config.hyperopt
    return replace(config, hyperopt=replace(hyperopt, storage_url=hyperopt.storage_url and STORAGE_URL))
