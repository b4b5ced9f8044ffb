"""Runs functions in this process or in Ray's workers, as many at once as the search runs trials.

The Hydra Optuna sweeper engine runs its trials here (Ray Tune has workers of its own), and every search its final
trainings. A worker serves many calls, so imports, data and the base model are loaded once.
"""

from __future__ import annotations

import importlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mistral_ner.config.schema import Config
from mistral_ner.errors import UserError
from mistral_ner.garbage import collect_rarely
from mistral_ner.hyperopt.cluster.road import Road
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.storage import hide_password
from mistral_ner.hyperopt.study.study import WORKER_DIED
from mistral_ner.training.gpu import device_works
from mistral_ner.versions import describe_differences, find_versions

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failed:
    """Takes the place of a result and says why there is none."""

    reason: str


class Issues(Protocol):
    """Issues roads to the folders of trainings."""

    def issue(self, folder: Path) -> Road:
        """Return the road for one training in ``folder``."""


class Workers(Protocol):
    """Calls a function for many items."""

    at_once: int  # how many calls run side by side
    elsewhere: bool  # whether each call has CPUs of its own, so that they do not share this machine's
    office: Issues | None  # serves those calls whose machines do not see the study; None: all see it

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R | Failed]]:
        """Yield every item with its result, in the order in which they come.

        A UserError and the death of a worker become :class:`Failed`; any other exception is raised.
        """


class Here:
    """Calls the function in this process, one item after the other."""

    at_once = 1
    elsewhere = False
    office: Issues | None = None

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R | Failed]]:
        for item in items:
            yield item, _result(function, item)


@dataclass(eq=False)
class Call:
    """A call of a function in another process: a handle on what it returns or raises."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: Any = None
    error: BaseException | None = None


class Remote(ABC):
    """Calls functions in other processes."""

    at_once: int
    elsewhere = False
    office: Issues | None = None

    @abstractmethod
    def start(self, function: Callable[..., Any], *arguments: Any) -> Call:
        """Call ``function`` as soon as there is room; return a handle that :meth:`ended` returns again."""

    @abstractmethod
    def ended(self, seconds: float) -> list[Call]:
        """Wait up to ``seconds`` for a call to end; return all that have ended."""

    @abstractmethod
    def close(self) -> None:
        """End every call, whatever it is doing."""

    def result(self, call: Call) -> Any:
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
            for call in self.ended(seconds=1.0):  # not for ever, so that signals are handled
                item = running.pop(call)
                try:
                    yield item, self.result(call)
                except WorkerDiedError as error:
                    yield item, Failed(str(error))


class Starts:
    """Counts workers that die while they start: Ray places them on a dead machine until it notices."""

    def __init__(self) -> None:
        self._died = 0  # since the last one that has started

    def succeed(self) -> None:
        """Note that a worker has started."""
        self._died = 0

    def may_die(self, at_once: int) -> bool:
        """Note a death; return whether no more have died than run at once, so that another one should be started."""
        self._died += 1
        return self._died <= at_once


class RayWorkers(Remote):
    """Ray actors that serve many calls until :meth:`close`; one that died or that a call broke is replaced.

    They are actors because Ray ends the process of a task that had a GPU, and the next one would load all again.

    Args:
        plan: the search.
        options: of the actors: ``num_cpus``, ``num_gpus``, or any other that ``ray.remote`` takes.
        at_once: how many calls run side by side; left out, as many as the search runs trials, which may grow.
        ahead: whether :meth:`warm_up` starts workers; False if Ray may have no room for them yet.
        each: how many of them one worker runs, in threads.
        office: serves the workers of machines that do not see the study.

    Raises:
        ValueError: Ray knows no such option of an actor.
    """

    def __init__(
        self,
        plan: Plan,
        options: dict[str, Any],
        at_once: int | None = None,
        ahead: bool = False,
        each: int = 1,
        office: Issues | None = None,
    ) -> None:
        self.at_once, self.ahead, self._each, self.office = at_once or plan.at_once, ahead, each, office
        self._plan, self._grows = plan, plan.grows and at_once is None
        self._config = hide_password(plan.config)
        self._actor = worker_class({**options, "max_concurrency": each} if each > 1 else options)
        self._waiting: list[Call] = []
        self._outside: list[Any] = []  # actors of machines that get no calls: each keeps its place taken
        self._starting: dict[Any, Any] = {}  # Ray's reference to its first call, and the actor
        self._starts = Starts()
        self._idle: list[Any] = []  # an actor for each call that it has room for
        self._busy: dict[Any, tuple[Call, Any]] = {}  # Ray's reference to a result, the call, and the actor

    def start(self, function: Callable[..., Any], *arguments: Any) -> Call:
        """Call ``function`` in a worker as soon as one is free; return a handle that :meth:`ended` returns again."""
        call = Call(function, arguments)
        self._waiting.append(call)
        self._assign()
        return call

    def _assign(self) -> None:
        """Give calls to idle workers, and start more workers if calls are left; Ray may not have room for all yet."""
        if self._grows:
            self.at_once = self._plan.passes * self._each
        while self._waiting and self._idle:
            call, actor = self._waiting.pop(0), max(self._idle, key=self._idle.count)
            self._idle.remove(actor)
            self._busy[actor.call.remote(call.function, *call.arguments)] = call, actor
        while len(self._starting) * self._each < len(self._waiting) and self._there < self.at_once:
            self._begin(introduce)

    @property
    def _there(self) -> int:
        return len(self._starting) * self._each + len(self._idle) + len(self._busy)

    def _begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        actor = self._actor.remote()
        self._starting[actor.call.remote(function, *arguments)] = actor

    def ended(self, seconds: float) -> list[Call]:
        """Wait up to ``seconds`` for a call to end; return all that have ended."""
        import ray

        waited_for = [*self._busy, *self._starting]
        done = ray.wait(waited_for, timeout=seconds)[0] if waited_for else []
        calls = [self._end(reference) for reference in done if reference in self._busy]
        for reference in done:
            if reference in self._starting and (died := self._join(reference)) is not None:
                calls.append(died)
        self._assign()
        return calls

    def _end(self, reference: Any) -> Call:
        import ray

        call, actor = self._busy.pop(reference)
        try:
            call.result, usable = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            call.error, usable = error.cause or error, False  # the worker's state is unknown
        except ray.exceptions.RayError:
            call.error, usable = WorkerDiedError(WORKER_DIED), False
        if usable:
            self._idle.append(actor)
        else:
            self._idle = [one for one in self._idle if one is not actor]
            ray.kill(actor)
        return call

    def _join(self, reference: Any) -> Call | None:
        """Add a worker that has started; where too many die, return a call that fails, so that none waits for ever."""
        import ray

        actor, machine = self._starting.pop(reference), None
        try:
            machine, _ = ray.get(reference)
        except ray.exceptions.RayTaskError:  # of a warm-up; the first call will raise it again, and be heard
            pass
        except ray.exceptions.RayError:
            if self._starts.may_die(self.at_once) or not self._waiting:
                return None
            call = self._waiting.pop(0)
            call.error = WorkerDiedError(WORKER_DIED)
            return call
        self._starts.succeed()
        if machine is not None and is_stranger(self._plan, machine):
            self._outside.append(actor)
        else:
            self._idle += [actor] * self._each
        return None

    def serve_singly(self) -> None:
        """Let each worker run one call at a time from now on; no call may be running."""
        self._idle = list(dict.fromkeys(self._idle))
        self.at_once, self._each = math.ceil(self.at_once / self._each), 1

    def warm_up(self, count: int) -> None:
        """Start workers until there are ``count``; they import and read their data before their first call."""
        while self.ahead and self._there < min(count, self.at_once):
            self._begin(_warm_up, self._config)

    def close(self) -> None:
        """Kill the workers, whatever they are doing."""
        import ray

        busy = [actor for _, actor in self._busy.values()]
        for actor in [*self._starting.values(), *self._idle, *self._outside, *busy]:
            ray.kill(actor)
        self._waiting, self._starting, self._idle, self._outside, self._busy = [], {}, [], [], {}


class WorkerDiedError(Exception):
    """The process of a call is gone: killed, or out of memory."""


def actor_options(resources: dict[str, float]) -> dict[str, Any]:
    """Return Ray's options of an actor that holds the CPUs (``cpu``) and GPUs (``gpu``) of a trial."""
    return {"num_cpus": resources["cpu"], "num_gpus": resources["gpu"]}


def worker_class(options: dict[str, Any], kind: type | None = None) -> Any:
    """Return the class of the workers, or another one, as Ray's: for ``.remote()``.

    Raises:
        ValueError: Ray knows no such option of an actor.
    """
    import ray

    return ray.remote(**options)(kind or _Worker)


class _Worker:
    def __init__(self) -> None:
        collect_rarely()

    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, bool]:
        return function(*arguments), device_works()


Machine = tuple[str, dict[str, str]]  # its address, and the versions that it has


def introduce() -> Machine:
    """Return the machine of this worker of Ray, which shows that it has started."""
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address, find_versions()


def is_stranger(plan: Plan, machine: Machine) -> bool:
    """Tell whether a machine gets no trials, because it has joined Ray with other versions than this one's.

    Whatever has begun there should stay, idle, until the search ends: Ray would give the place to the next one.
    """
    address, versions = machine
    if plan.config.hyperopt.ray_address is None:
        return False
    if address not in plan.room.strangers:
        if (wrong := describe_differences({address: versions})) is None:
            return False
        plan.room.strangers.add(address)
        log.warning("%s has joined and gets no trials: %s", address, wrong)
    return True


def _warm_up(config: Config) -> None:
    importlib.import_module("mistral_ner.training.evaluate")
    importlib.import_module("mistral_ner.training.fit")
    importlib.import_module("mistral_ner.training.inputs.prepare").prepare(config)


def _result(function: Callable[[T], R], item: T) -> R | Failed:
    try:
        return function(item)
    except UserError as error:
        return Failed(str(error))
