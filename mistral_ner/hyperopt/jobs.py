"""Where the trials of the Hydra Optuna sweeper engine run: in this process, in Ray, or in a Hydra launcher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Protocol

from mistral_ner.config import Config
from mistral_ner.hyperopt.job import Ended, run_job
from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.storage import without_password
from mistral_ner.hyperopt.study import Asked
from mistral_ner.hyperopt.worker import Objective, described
from mistral_ner.hyperopt.workers import RayWorkers, WorkerDiedError, holding

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
    """As many trials at once as the search allows, each in a worker that outlives it; a free slot is filled at once.

    Args:
        workers: where the trials run.
        call: returns a trial's function, and what it is called with.
        result: makes of what the function returned how the trial ended.
    """

    def __init__(
        self, workers: RayWorkers, call: Callable[[Asked], Sequence[Any]], result: Callable[[Any], Ended]
    ) -> None:
        self.workers, self._call, self._result = workers, call, result
        self._trials: dict[Any, int] = {}  # by the call that runs it

    @property
    def running(self) -> list[int]:
        return list(self._trials.values())

    @property
    def free(self) -> bool:
        return len(self._trials) < self.workers.at_once

    def start(self, asked: Asked) -> None:
        self._trials[self.workers.start(*self._call(asked))] = asked.number

    def ended(self) -> list[tuple[int, Ended]]:
        # a short wait: the reports of those that run are looked at in between
        return [(self._trials.pop(done), self._ended(done)) for done in self.workers.ended(seconds=0.2)]

    def _ended(self, call: Any) -> Ended:
        try:
            returned = self.workers.result(call)
        except WorkerDiedError as error:
            return Ended(failure=str(error))
        except Exception as error:  # before the trial began: a module that is not there, say
            return Ended(failure=described(error))
        return self._result(returned)


@contextmanager
def in_ray(plan: Plan, resources: dict[str, float], objective: Objective | None) -> Iterator[InRay]:
    """Yield jobs that call the objective in Ray's workers, without a Hydra launcher."""
    from mistral_ner.hyperopt.cluster import with_storage

    def called(config: Config, number: int) -> Ended:
        return _called(config, number, objective)

    trial, config = with_storage(plan, called), without_password(plan.config)
    with closing(RayWorkers(plan, holding(resources))) as workers:
        yield InRay(workers, lambda asked: (trial, config, asked.number), lambda ended: ended)
