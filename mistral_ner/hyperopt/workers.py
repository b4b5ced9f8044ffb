"""Who does the work: this process, or Ray's workers, as many at once as a search has trials.

Jobs of the Hydra Optuna sweeper engine run here (Ray Tune has workers of its own), and what follows the trials. A
worker lives through many pieces of work, so imports, data and the base model are paid for once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from mistral_ner.config import Config, UserError
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


class RayWorkers:
    """Ray actors that hold the resources of a trial each and live through many calls; one that died is replaced,
    and one that a call has broken.

    Actors and not tasks: Ray ends the process of a task that had a GPU, and a new one would pay for all again.

    Args:
        plan: the search.
        options: of the actors: ``num_cpus``, ``num_gpus``, and what else ``ray.remote`` takes.
        at_once: how many calls run side by side; left out, as many as the search has trials.
        ahead: whether :meth:`warm_up` does anything; not where there may be no room yet.

    Raises:
        ValueError: Ray knows no such option of an actor.
    """

    def __init__(self, plan: Plan, options: dict[str, Any], at_once: int | None = None, ahead: bool = False) -> None:
        self.at_once, self.ahead = at_once or plan.at_once, ahead
        # a config may end in a log, and a storage's URL may hold a password
        self._config = replace(plan.config, hyperopt=replace(plan.config.hyperopt, storage_url=None))
        self._actor = worker_class(options)
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}  # Ray's reference to a call's result, and the actor

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``function`` in a worker; returns Ray's reference to the result, for :meth:`result`."""
        actor = self._idle.pop() if self._idle else self._actor.remote()
        reference = actor.call.remote(function, *arguments)
        self._busy[reference] = actor
        return reference

    def ended(self, seconds: float) -> list[Any]:
        """Return the references of calls that have ended, after a wait for the next one."""
        import ray

        return ray.wait(list(self._busy), timeout=seconds)[0] if self._busy else []

    def result(self, reference: Any) -> Any:
        """Return what a call that has ended returned, or raise what it raised.

        Raises:
            WorkerDiedError: its process is gone.
        """
        import ray

        actor = self._busy.pop(reference)
        try:
            result, usable = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            ray.kill(actor)  # nobody knows in what state it is
            raise error.cause or error from None
        except ray.exceptions.RayError:
            raise WorkerDiedError(WORKER_DIED) from None
        if usable:
            self._idle.append(actor)
        else:
            ray.kill(actor)
        return result

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R | Failed]]:
        waiting, running = list(items), dict[Any, T]()
        while waiting or running:
            while waiting and len(running) < self.at_once:
                item = waiting.pop(0)
                running[self.start(_result, function, item)] = item
            for reference in self.ended(seconds=1.0):  # not for ever: a signal is to be heard
                item = running.pop(reference)
                try:
                    yield item, self.result(reference)
                except WorkerDiedError as error:
                    yield item, Failed(str(error))

    def warm_up(self, count: int) -> None:
        """Have ``count`` workers import, and read their data, ahead of their first call."""
        while self.ahead and len(self._idle) + len(self._busy) < min(count, self.at_once):
            actor = self._actor.remote()
            actor.call.remote(_warm_up, self._config)
            self._idle.append(actor)

    def close(self) -> None:
        """End the workers, whatever they do."""
        import ray

        for actor in [*self._idle, *self._busy.values()]:
            ray.kill(actor)
        self._idle, self._busy = [], {}


class WorkerDiedError(Exception):
    """The process of a call is gone: killed, or out of memory."""


@contextmanager
def ray_workers(
    plan: Plan, options: dict[str, Any], at_once: int | None = None, ahead: bool = False
) -> Iterator[RayWorkers]:
    """Yield :class:`RayWorkers` in the Ray that this process is in, which are gone afterwards."""
    workers = RayWorkers(plan, options, at_once, ahead)
    try:
        yield workers
    finally:
        workers.close()


def holding(resources: dict[str, float]) -> dict[str, Any]:
    """Return Ray's options of an actor that holds the CPUs (``cpu``) and GPUs (``gpu``) of a trial."""
    return {"num_cpus": resources["cpu"], "num_gpus": resources["gpu"]}


def worker_class(options: dict[str, Any]) -> Any:
    """Return the class of the workers, for ``.remote()``.

    Raises:
        ValueError: Ray knows no such option of an actor.
    """
    import ray

    return ray.remote(**options)(_Worker) if options else ray.remote(_Worker)


class _Worker:
    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, bool]:
        return function(*arguments), device_answers()


def _warm_up(config: Config) -> None:
    importlib.import_module("mistral_ner.score")
    importlib.import_module("mistral_ner.train")
    importlib.import_module("mistral_ner.prepare").prepare(config)


def _result(function: Callable[[T], R], item: T) -> R | Failed:
    try:
        return function(item)
    except UserError as error:
        return Failed(str(error))


def device_answers() -> bool:
    """Whether this process can go on computing: after some CUDA errors its GPU answers every call with that error."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
