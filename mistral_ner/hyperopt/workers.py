"""Who does the work after a search: this process, or Ray's workers, as many at once as the search had trials.

Each worker lives through many pieces of work, as in the search, so imports, data and the base model are paid for once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mistral_ner.config import UserError
from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.study import WORKER_DIED

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failed:
    """Stands in a result's place and says why there is none."""

    reason: str


class Workers(Protocol):
    """Calls a function for many items."""

    at_once: int  # how many calls run side by side

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R | Failed]]:
        """Yield every item with its result, in the order in which they come.

        A UserError and the death of a worker are results; what else ``function`` raises is raised.
        """


class Here:
    """This process, one call after the other."""

    at_once = 1

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R | Failed]]:
        for item in items:
            yield item, _result(function, item)


class _InRay:
    """Ray actors that hold the resources of a trial each; one that died is replaced by another."""

    def __init__(self, plan: Plan, resources: dict[str, float]) -> None:
        import ray

        self.at_once = plan.at_once
        self._actor: Any = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"])(_Worker)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Any]] = {}  # future to item and actor

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R | Failed]]:
        import ray

        waiting = list(items)
        while waiting or self._busy:
            while waiting and len(self._busy) < self.at_once:
                actor, item = self._idle.pop() if self._idle else self._actor.remote(), waiting.pop(0)
                self._busy[actor.call.remote(function, item)] = item, actor
            done, _ = ray.wait(list(self._busy), timeout=1.0)  # not for ever: a signal is to be heard
            for future in done:
                item, actor = self._busy.pop(future)
                try:
                    result = ray.get(future)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause or error from None
                except ray.exceptions.RayError:
                    result = Failed(WORKER_DIED)
                else:
                    self._idle.append(actor)
                yield item, result

    def close(self) -> None:
        """End the workers, whatever they do."""
        import ray

        for actor in [*self._idle, *(actor for _, actor in self._busy.values())]:
            ray.kill(actor)
        self._idle, self._busy = [], {}


@contextmanager
def ray_workers(plan: Plan, resources: dict[str, float]) -> Iterator[Workers]:
    """Yield workers in the Ray that this process is in, which are gone afterwards; each starts when it is needed.

    Args:
        plan: the search.
        resources: CPUs (``cpu``) and GPUs (``gpu``) of a trial.
    """
    workers = _InRay(plan, resources)
    try:
        yield workers
    finally:
        workers.close()


class _Worker:
    def call(self, function: Callable[[T], R], item: T) -> R | Failed:
        return _result(function, item)


def _result(function: Callable[[T], R], item: T) -> R | Failed:
    try:
        return function(item)
    except UserError as error:
        return Failed(str(error))
