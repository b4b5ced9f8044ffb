"""The driver's end of the road to machines that do not see the study: it gives files out, and takes what they make.

The study's folder is the truth. Workers ask through a mailbox, a Ray actor beside the driver, so that a driver outside
of the cluster (``ray://``) is reached like any other. Files travel through Ray's object store in pieces, and a set of
changes is on the driver's disk before the report that came with it counts.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import shutil
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from mistral_ner import files
from mistral_ner.config.schema import Config, ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster import scratch
from mistral_ner.hyperopt.cluster.machines import node_of_driver, on_node, tell_every_machine
from mistral_ner.hyperopt.cluster.parcels import LOG, Part, Place, apply, cut, list_files, write_parts
from mistral_ner.hyperopt.cluster.road import TOKEN, MovedError, Road, unwrap, wrap
from mistral_ner.hyperopt.cluster.workers import worker_class
from mistral_ner.hyperopt.spec.plan import Plan

# What judges a report of a trial, by its number and the trial's: whether the trial ends, and whether it was stopped.
Judge = Callable[[int, dict[str, float]], tuple[bool, bool]]

_INCOMING = ".incoming"  # in a training's folder: what has come of a set of changes
_AT_ONCE = 4  # questions that are answered side by side
_LOOK = 5.0  # seconds that an empty mailbox is waited at
_SWEEP = 20.0  # seconds in which every machine starts a process that removes what is left there
_LOST = 600.0  # seconds in which a piece must have come

log = logging.getLogger(__name__)


@contextmanager
def open_office(plan: Plan, judge: Callable[[int], Judge] | None = None) -> Iterator[Office | None]:
    """Answer the machines of a joined Ray for as long as a search runs; a private Ray's sees the study.

    Args:
        plan: the search, whose study exists.
        judge: returns what judges a trial's reports; None where the engine does so itself.
    """
    if plan.config.hyperopt.ray_address is None:
        yield None
        return
    office = Office(plan.folder, judge)
    try:
        yield office
    finally:
        office.close()


class Office:
    """Answers the workers' questions in threads of its own.

    Args:
        study: the study's folder.
        judge: as for :func:`open_office`.
    """

    def __init__(self, study: Path, judge: Callable[[int], Judge] | None = None) -> None:
        self._study, self._judge = study, judge
        self._road = Road(str(study), uuid.uuid4().hex, f"post-{uuid.uuid4().hex[:12]}")
        self._tickets = itertools.count(time.time_ns())
        self._latest: dict[str, int] = {}  # the ticket of each training's folder
        self._judges: dict[int, Judge] = {}  # by ticket
        self._sets: dict[int, int] = {}  # how many sets of changes have come, by ticket
        self._one_set = threading.Lock()  # data is prepared for one at a time
        self._one_folder: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        files.write_text(study / TOKEN, self._road.token)
        # a question that a broken connection has swallowed is asked again: each may be answered twice
        options = {"num_cpus": 0, "max_concurrency": 10_000, "max_task_retries": -1}
        actor = worker_class(options, _Post).options(
            name=self._road.post, scheduling_strategy=on_node(node_of_driver())
        )
        self._post: Any = actor.remote()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="office")
        self._disk = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="disk")
        self._writing: dict[str, Future[None]] = {}  # what is being written of a set of changes, by folder
        self._thread = threading.Thread(target=self._serve, name="office", daemon=True)
        self._thread.start()

    def issue(self, folder: Path) -> Road:
        """Return the road for one training in ``folder``; whoever has an earlier one is refused from now on."""
        ticket, name = next(self._tickets), folder.relative_to(self._study).as_posix()
        self._judges.pop(self._latest.get(name, 0), None)  # of a worker that died
        self._latest[name] = ticket
        return replace(self._road, ticket=ticket)

    def close(self) -> None:
        """Stop answering, and remove what is left on the machines; their workers must have ended."""
        with suppress(Exception):  # Ray's client raises just that when its server is gone
            ray.get(self._post.close.remote(), timeout=_LOOK)
        self._thread.join(2 * _LOOK)
        for pool in (self._pool, self._disk):
            pool.shutdown(wait=False, cancel_futures=True)
        with suppress(Exception):
            ray.kill(self._post)
        (self._study / TOKEN).unlink(missing_ok=True)
        for name in self._latest:  # of machines that died
            shutil.rmtree(self._study / name / _INCOMING, ignore_errors=True)
        with suppress(Exception):
            token = self._road.token
            tell_every_machine(lambda: scratch.sweep_machine(token), _SWEEP)

    def _serve(self) -> None:
        last = 0
        try:
            while (asked := ray.get(self._post.take.remote(last, _LOOK))) is not None:
                for number, kind, arguments in asked:
                    self._pool.submit(self._answer, number, kind, arguments)
                    last = max(last, number)
        except (ray.exceptions.RayError, OSError) as error:
            log.warning("machines without the study's folder are not served any more (%s)", type(error).__name__)

    def _answer(self, number: int, kind: str, arguments: Any) -> None:
        answer: tuple[Any, Exception | None]
        try:
            with files.name_full_disk(self._study):
                answer = _KINDS[kind](self, *arguments), None
        except Exception as error:
            log.debug("no answer to %s", kind, exc_info=True)
            answer = None, _plain(error)
        self._post.answer.remote(number, answer)

    def _check(self, ticket: int, name: str) -> Path:
        """Return a training's folder, if nobody else has it.

        Raises:
            MovedError: somebody else has.
        """
        if self._latest.get(name) != ticket:
            raise MovedError(f"{name} goes on elsewhere")
        return self._study / name

    def _open(self, ticket: int, name: str) -> tuple[Any, ...]:
        with self._one_folder[name]:
            folder = self._check(ticket, name)
            with suppress(OSError):
                self._finish_writing(name)
            if ticket not in self._sets:
                shutil.rmtree(folder / _INCOMING, ignore_errors=True)  # of a machine that died
                self._sets[ticket] = 0
            names = [one for one in list_files(folder) if one != LOG]
        return names, *self._read(("folder", name), names, (0, 0))

    def _read(self, what: tuple[Any, ...], names: list[str], start: Place) -> tuple[Any, Place | None]:
        parts, after = cut(self._folder_of(*what), names, start)
        return wrap(parts), after

    def _folder_of(self, kind: str, which: Any) -> Path:
        if kind == "folder":
            return self._study / str(which)
        if kind == "model":
            from mistral_ner.model.source import locate

            return Path(locate(which))
        return self._prepare(which)[1]

    def _model(self, model: ModelConfig) -> list[tuple[str, int]] | None:
        from mistral_ner.model.source import list_model_files

        return list_model_files(model)

    def _data(self, config: Config) -> tuple[Any, str, list[str]]:
        from mistral_ner.training.predictions import read_again

        tokenizer, folder = self._prepare(config)
        given = pickle.dumps((read_again(config.data), tokenizer))
        return wrap([("", 0, np.frombuffer(given, np.uint8))]), folder.name, list_files(folder)

    def _prepare(self, config: Config) -> tuple[Any, Path]:
        from mistral_ner.training.inputs.prepare import prepare

        with self._one_set:
            tokenizer, encoded = prepare(config)
        return tokenizer, encoded.folder

    def _store(self, ticket: int, name: str, number: int, carried: Any) -> None:
        parts = unwrap(carried, _LOST)
        with self._one_folder[name]:
            folder = self._check(ticket, name)
            if number == self._sets[ticket]:  # else it is asked again, and the set has come
                self._write(name, folder / _INCOMING, parts)

    def _write(self, name: str, incoming: Path, parts: list[Part]) -> None:
        """Begin to write parts once those before them are on the disk; meanwhile the next ones may come."""
        self._finish_writing(name)
        self._writing[name] = self._disk.submit(write_parts, incoming, parts, through=True)

    def _finish_writing(self, name: str) -> None:
        if (writing := self._writing.pop(name, None)) is not None:
            writing.result()

    def _commit(
        self, ticket: int, name: str, number: int, carried: Any, gone: list[str], log: bytes, last: bool
    ) -> None:
        parts = unwrap(carried, _LOST)
        with self._one_folder[name]:
            folder = self._check(ticket, name)
            if number == self._sets[ticket]:
                incoming = folder / _INCOMING
                incoming.mkdir(parents=True, exist_ok=True)
                self._write(name, incoming, parts)
                self._finish_writing(name)
                apply(incoming, folder, gone, log)
                self._sets[ticket] = number + 1
        if last:
            self._judges.pop(ticket, None)

    def _report(self, ticket: int, name: str, report: int, metrics: dict[str, float]) -> tuple[bool, bool]:
        self._check(ticket, name)
        assert self._judge is not None, "this engine's trials report to the study"
        if ticket not in self._judges:
            self._judges[ticket] = self._judge(int(name.rpartition("_")[2]))
        return self._judges[ticket](report, metrics)


_KINDS: dict[str, Callable[..., Any]] = {
    "open": Office._open,
    "read": Office._read,
    "store": Office._store,
    "commit": Office._commit,
    "model": Office._model,
    "data": Office._data,
    "report": Office._report,
}


def _plain(error: Exception) -> Exception:
    """Return an error that any process can unpickle, of a kind that a study tells apart."""
    if isinstance(error, files.DiskFullError | MovedError):
        return error
    if isinstance(error, UserError):
        return UserError(str(error))
    if isinstance(error, ray.exceptions.RayError):
        return OSError(f"what was sent has not arrived ({type(error).__name__})")
    return OSError(str(error)) if isinstance(error, OSError) else RuntimeError(f"{type(error).__name__}: {error}")


class _Post:
    """The mailbox, in a Ray actor: keeps questions until they are answered, and who asks waits meanwhile."""

    def __init__(self) -> None:
        self._asked: dict[int, tuple[str, Any, asyncio.Future[Any]]] = {}
        self._numbers = itertools.count(1)
        self._news = asyncio.Event()
        self._closed = False

    async def ask(self, kind: str, arguments: Any) -> Any:
        """Return the driver's answer and None, or None and an error."""
        if self._closed:
            return _ENDED
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._asked[number] = kind, arguments, answer
        self._news.set()
        try:
            return await answer
        finally:
            del self._asked[number]

    async def take(self, after: int, seconds: float) -> list[tuple[int, str, Any]] | None:
        """Return the questions after a number, as soon as there is one; None if the mailbox is closed."""
        if not any(number > after for number in self._asked):
            self._news.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)
        if self._closed:
            return None
        return [(number, kind, what) for number, (kind, what, _) in self._asked.items() if number > after]

    async def answer(self, number: int, answer: Any) -> None:
        """Send an answer to who has asked."""
        if number in self._asked and not (waiting := self._asked[number][2]).done():
            waiting.set_result(answer)

    async def close(self) -> None:
        """Take no more questions."""
        self._closed = True
        self._news.set()
        for _, _, waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result(_ENDED)


_ENDED = None, MovedError("the search has ended")
