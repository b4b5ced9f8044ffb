"""Who does the work: this process, or Ray's workers, as many at once as a search has trials.

Jobs of the Hydra Optuna sweeper engine run here (Ray Tune has workers of its own), and what follows the trials. A
worker lives through many pieces of work, so imports, data and the base model are paid for once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mistral_ner.config import Config, UserError
from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.storage import without_password
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


@dataclass(eq=False)
class _Call:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: Any = None
    error: BaseException | None = None


class RayWorkers:
    """Ray actors that live through many calls, until :meth:`close`; one that died or was broken by a call is replaced.

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
        self._config = without_password(plan.config)
        self._actor = worker_class(options)
        self._waiting: list[_Call] = []
        self._starting: dict[Any, Any] = {}  # Ray's reference to a sign of life, and the actor
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[_Call, Any]] = {}  # Ray's reference to a result, the call, and the actor

    def start(self, function: Callable[..., Any], *arguments: Any) -> _Call:
        """Call ``function`` in a worker as soon as one is free; returns the call, which :meth:`ended` returns again."""
        call = _Call(function, arguments)
        self._waiting.append(call)
        self._assign()
        return call

    def _assign(self) -> None:
        """Give calls to idle workers, and start more of them; Ray may have no room for all, or not yet."""
        while self._waiting and self._idle:
            call, actor = self._waiting.pop(0), self._idle.pop()
            self._busy[actor.call.remote(call.function, *call.arguments)] = call, actor
        while len(self._starting) < len(self._waiting) and self._there < self.at_once:
            self._begin(_alive)

    @property
    def _there(self) -> int:
        return len(self._starting) + len(self._idle) + len(self._busy)

    def _begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        actor = self._actor.remote()
        self._starting[actor.call.remote(function, *arguments)] = actor

    def ended(self, seconds: float) -> list[_Call]:
        """Return the calls that have ended, after a wait for the next one, which may be in vain."""
        import ray

        waited_for = [*self._busy, *self._starting]
        done = ray.wait(waited_for, timeout=seconds)[0] if waited_for else []
        calls = [self._end(reference) for reference in done if reference in self._busy]
        for reference in done:
            if reference in self._starting and (died := self._join(reference)) is not None:
                calls.append(died)
        self._assign()
        return calls

    def _end(self, reference: Any) -> _Call:
        import ray

        call, actor = self._busy.pop(reference)
        try:
            call.result, usable = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            call.error, usable = error.cause or error, False  # nobody knows in what state it is
        except ray.exceptions.RayError:
            call.error, usable = WorkerDiedError(WORKER_DIED), False
        if usable:
            self._idle.append(actor)
        else:
            ray.kill(actor)
        return call

    def _join(self, reference: Any) -> _Call | None:
        """Take a worker that has started; if it died instead, return a call that fails by it: none waits for ever."""
        import ray

        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError:  # a warm-up; the call itself will say it, where somebody hears it
            pass
        except ray.exceptions.RayError:
            if not self._waiting:
                return None
            call = self._waiting.pop(0)
            call.error = WorkerDiedError(WORKER_DIED)
            return call
        self._idle.append(actor)
        return None

    def result(self, call: _Call) -> Any:
        """Return what a call that has ended returned, or raise what it raised.

        Raises:
            WorkerDiedError: its process is gone.
        """
        if call.error is not None:
            raise call.error
        return call.result

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R | Failed]]:
        running = {self.start(_result, function, item): item for item in items}
        while running:
            for call in self.ended(seconds=1.0):  # not for ever: a signal is to be heard
                item = running.pop(call)
                try:
                    yield item, self.result(call)
                except WorkerDiedError as error:
                    yield item, Failed(str(error))

    def warm_up(self, count: int) -> None:
        """Have ``count`` workers import, and read their data, ahead of their first call."""
        while self.ahead and self._there < min(count, self.at_once):
            self._begin(_warm_up, self._config)

    def close(self) -> None:
        """End the workers, whatever they do."""
        import ray

        for actor in [*self._starting.values(), *self._idle, *(actor for _, actor in self._busy.values())]:
            ray.kill(actor)
        self._waiting, self._starting, self._idle, self._busy = [], {}, [], {}


class WorkerDiedError(Exception):
    """The process of a call is gone: killed, or out of memory."""


def holding(resources: dict[str, float]) -> dict[str, Any]:
    """Return Ray's options of an actor that holds the CPUs (``cpu``) and GPUs (``gpu``) of a trial."""
    return {"num_cpus": resources["cpu"], "num_gpus": resources["gpu"]}


def worker_class(options: dict[str, Any]) -> Any:
    """Return the class of the workers, for ``.remote()``.

    Raises:
        ValueError: Ray knows no such option of an actor.
    """
    import ray

    return ray.remote(**options)(_Worker)


class _Worker:
    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, bool]:
        return function(*arguments), device_answers()


def _alive() -> None:
    """Nothing: that it returns is the news."""


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
