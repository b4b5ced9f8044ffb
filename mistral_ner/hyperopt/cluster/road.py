"""A worker's way to the folder of a training: the folder itself where its machine sees it, a copy where it does not.

What the copy lacks comes from the search's driver, and what a training makes goes back there before its report counts
(:mod:`mistral_ner.hyperopt.cluster.transport` is the other end).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mistral_ner.config.schema import Config, ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster import scratch
from mistral_ner.hyperopt.cluster.parcels import Part, Place, Sent, cut, write_parts

TOKEN = ".seen"  # in the study's folder while it is led: who reads the right content there sees the study
_PATIENCE = 1.0  # seconds in which a network disk shows it
_SMALL = 64 << 10  # bytes that travel in a message; more goes through Ray's object store
_STALL = 120.0  # seconds in which a driver that does not answer may come back

log = logging.getLogger(__name__)


class MovedError(Exception):
    """The training was given to another worker; what this one still makes does not count."""


@dataclass(frozen=True)
class Road:
    """How a process gets to the study, wherever it runs; small, because it travels with every call.

    Args:
        study: the study's folder on the driver's machine.
        token: the content of the file ``TOKEN`` there.
        post: the name of the Ray actor that passes questions on to the driver.
        ticket: of one training; the driver takes nothing from an earlier one's.
    """

    study: str
    token: str
    post: str
    ticket: int = 0

    def leads_to_folder(self) -> bool:
        """Tell whether this machine sees the study's folder itself."""
        return _sees(self.study, self.token)

    def ask(self, kind: str, *arguments: Any) -> Any:
        """Return the driver's answer, and wait for a driver that is cut off for a while.

        Raises:
            ConnectionError: it does not come back.
            Exception: what the driver found wrong.
        """
        import ray

        until = time.monotonic() + _STALL
        while True:
            try:
                answer, error = ray.get(_find(self.post).ask.remote(kind, arguments))
                break
            except ray.exceptions.ActorUnavailableError:
                if time.monotonic() > until:
                    raise ConnectionError("the search's driver does not answer") from None
                time.sleep(1.0)
            except (ray.exceptions.RayError, ValueError) as reason:
                raise ConnectionError(f"the search's driver is gone ({type(reason).__name__})") from None
        if error is not None:
            raise error
        return answer


@functools.cache
def _find(post: str) -> Any:
    import ray

    return ray.get_actor(post)


@functools.cache
def _sees(study: str, token: str) -> bool:
    until = time.monotonic() + _PATIENCE
    while True:
        with suppress(OSError):
            return Path(study, TOKEN).read_text(encoding="utf-8") == token
        if time.monotonic() > until:
            return False
        time.sleep(0.1)


@contextmanager
def work_in(folder: Path, road: Road | None) -> Iterator[Workplace]:
    """Lend the place of a training whose folder is ``folder`` for the driver.

    Args:
        folder: in the study.
        road: None in a process that surely sees it.

    Raises:
        ConnectionError, OSError: the driver does not answer; there is no room for a copy.
    """
    if road is None or road.leads_to_folder():
        yield Workplace(folder)
        return
    name = folder.relative_to(road.study).as_posix()
    with scratch.lend(scratch.of_search(road.token) / "visits") as visit:
        place = _Copy(visit / name, name, road)
        place.fetch()
        try:
            yield place
        except BaseException:
            with suppress(Exception):  # its log says why
                place.send(last=True)
            raise
        with suppress(MovedError):  # it was stopped, and goes on elsewhere
            place.send(last=True)


class Workplace:
    """A folder to train in, which the driver sees, too."""

    ask: Callable[..., Any] | None = None  # asks the driver about this training; None where the study can be asked

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self) -> None:
        """Return when the driver has all that is in the folder."""

    def settle(self, config: Config, trains: bool) -> None:
        """Let the config of a training name what this machine has, in place.

        Args:
            config: as the driver has written it.
            trains: whether its data and its model are needed.
        """
        config.output_dir = str(self.folder)


class _Copy(Workplace):
    """A copy of a training's folder, on a machine that does not see it."""

    def __init__(self, folder: Path, name: str, road: Road) -> None:
        super().__init__(folder)
        self.name, self._road, self._sent = name, road, Sent(folder)
        self._sets = 0  # of changes that were sent
        self.ask = self._ask

    def _ask(self, kind: str, *arguments: Any) -> Any:
        return self._road.ask(kind, self._road.ticket, self.name, *arguments)

    def fetch(self) -> None:
        """Get the files of the folder."""
        self.folder.mkdir(parents=True)
        names, *first = self._ask("open")
        _get(self._road, ("folder", self.name), names, self.folder, first)
        self._sent.note_all()

    def save(self) -> None:
        self.send()

    def send(self, last: bool = False) -> None:
        """Send what has changed; the driver has put it in its place when this returns.

        Args:
            last: whether the training is over here.

        Raises:
            MovedError: the training goes on elsewhere.
            ConnectionError: the driver does not answer.
            DiskFullError: the driver's disk is full.
        """
        changes, added = self._sent.changes(), self._sent.new_log()
        carried, start = _read(self.folder, changes.new, (0, 0))
        with ThreadPoolExecutor(1) as on_its_way:
            while start is not None:
                sent = on_its_way.submit(self._ask, "store", self._sets, carried)
                carried, start = _read(self.folder, changes.new, start)  # meanwhile
                sent.result()
        self._ask("commit", self._sets, carried, changes.gone, added, last)
        self._sets += 1
        self._sent.stamps = dict(changes.now)
        self._sent.logged += len(added)

    def settle(self, config: Config, trains: bool) -> None:
        super().settle(config, trains)
        if trains:
            root = scratch.of_search(self._road.token)
            _bring_model(self._road, config.model, root / "models")
            _bring_data(self._road, config, root / "data")


def _read(folder: Path, names: list[str], start: Place) -> tuple[Any, Place | None]:
    """Return what carries the next parts of some files, and where the parts after them begin."""
    parts, after = cut(folder, names, start)
    return wrap(parts), after


def wrap(parts: list[Part]) -> Any:
    """Return what carries parts of files in a message: themselves, or a reference into Ray's object store."""
    import ray

    return parts if sum(len(content) for *_, content in parts) < _SMALL else [ray.put(parts)]


def unwrap(carried: Any, seconds: float | None = None) -> Any:
    """Return what :func:`wrap` was given.

    Raises:
        ray.exceptions.RayError: it has not come in so many seconds, or will not come.
    """
    import ray

    if len(carried) == 1 and not isinstance(carried[0], tuple):
        return ray.get(carried[0], timeout=seconds)
    return carried


def _get(road: Road, what: tuple[Any, ...], names: list[str], folder: Path, first: list[Any]) -> None:
    """Write files of the driver's into ``folder``.

    Args:
        road: to the driver.
        what: which of its folders they are in.
        names: their paths there.
        folder: takes them.
        first: the first parts, and where to go on, if they have come with the names.
    """
    start: Place | None = (0, 0)
    if first:
        carried, start = first
        write_parts(folder, unwrap(carried))
    while start is not None and names:
        carried, start = road.ask("read", what, names, start)
        write_parts(folder, unwrap(carried))


def _bring_model(road: Road, model: ModelConfig, parent: Path) -> None:
    """Get the files of a base model that lies in a folder of the driver's, once a machine, unless they are here."""
    from mistral_ner.model.source import list_model_files, use_copy

    if model.random_init is not None:
        return
    wanted = road.ask("model", model)
    if wanted is None:
        return  # a hub's name
    with suppress(UserError):
        if list_model_files(model) == wanted:
            return
    key = hashlib.sha256(repr((model.model_name, wanted)).encode()).hexdigest()[:32]
    names = [name for name, _ in wanted]
    folder = scratch.once(parent / key, lambda new: _get(road, ("model", model), names, new, []))
    use_copy(model.model_name, folder)


def _bring_data(road: Road, config: Config, parent: Path) -> None:
    """Get the sentences, the tokenizer and the encoded rows, once a machine, and let this process train on them."""
    from mistral_ner.training.inputs.prepare import adopt, describe_needs

    key = hashlib.sha256(describe_needs(config).encode()).hexdigest()[:32]

    def fill(new: Path) -> None:
        given, fingerprint, names = road.ask("data", config)
        (new / _GIVEN).write_bytes(memoryview(unwrap(given)[0][2]))
        _get(road, ("data", config), names, new / "encoded" / fingerprint, [])

    folder = scratch.once(parent / key, fill)
    config.data = replace(config.data, cache_dir=str(folder))
    adopt(config, *_read_given(folder / _GIVEN))


_GIVEN = "given.pickle"


@functools.lru_cache(maxsize=1)
def _read_given(path: Path) -> tuple[Any, Any]:
    with path.open("rb") as file:
        splits, tokenizer = pickle.load(file)
    return splits, tokenizer
