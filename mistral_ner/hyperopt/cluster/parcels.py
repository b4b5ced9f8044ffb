"""What has changed in a folder, as pieces that travel, and a copy of the folder that the pieces keep up to date.

Nothing here knows Ray. A copy takes a set of changes in such an order that a crash leaves a folder which a training can
continue from, as :mod:`mistral_ner.training.checkpoint` leaves its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mistral_ner.training.checkpoint import STATE

PIECE = 32 << 20  # bytes at once, in the memory of both sides
LOG = "logs.txt"  # it only grows: what has been added travels, and is added
CONFIG = "config.yaml"  # of a training's own folder: the study writes it, and nobody else

Bytes = npt.NDArray[np.uint8]  # Ray passes arrays on without a copy
Part = tuple[str, int, Bytes]  # a file's path in the folder, where in the file, and what
Place = tuple[int, int]  # in a list of files: which, and where in it


def list_files(folder: Path) -> list[str]:
    """Return the paths of the files in a folder, relative to it; names that begin with a dot are temporary or locks."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name).relative_to(folder).as_posix() for name in names if not name.startswith(".")]
    return sorted(found)


def cut(folder: Path, names: list[str], start: Place = (0, 0), most: int = PIECE) -> tuple[list[Part], Place | None]:
    """Return the next parts of some files, at most so many bytes, and where the parts after them begin.

    Args:
        folder: where the files are.
        names: their paths in it.
        start: where to begin.
        most: bytes.

    Returns:
        The parts, and the next start: None if these were the last.
    """
    parts: list[Part] = []
    number, offset = start
    while number < len(names):
        with (folder / names[number]).open("rb") as file:
            file.seek(offset)
            content = np.frombuffer(file.read(most), np.uint8)
            over = file.tell() >= os.fstat(file.fileno()).st_size
        parts.append((names[number], offset, content))
        most -= len(content)
        number, offset = (number + 1, 0) if over else (number, offset + len(content))
        if most <= 0 and number < len(names):
            return parts, (number, offset)
    return parts, None


def write_parts(folder: Path, parts: Iterable[Part], through: bool = False) -> None:
    """Write parts of files into a folder; ``through`` waits until they are on the disk."""
    for name, offset, content in parts:
        path = folder / inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(content.data)
            if through:
                file.flush()
                os.fsync(file.fileno())


def inside(name: str) -> str:
    """Return a relative path that stays in its folder.

    Raises:
        ValueError: it does not.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name} leaves its folder")
    return name


@dataclass
class Sent:
    """What the other side has of a folder: it says which files to send next."""

    folder: Path
    stamps: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # inode, time in ns and bytes, by path
    logged: int = 0  # bytes of the log

    def note_all(self) -> None:
        """Note that the other side has the folder as it is."""
        self.stamps = self._look()

    def changes(self) -> Changes:
        """Return what has changed since it was noted last."""
        now = self._look()
        new = [name for name, stamp in now.items() if self.stamps.get(name) != stamp]
        return Changes(new, sorted(set(self.stamps) - set(now)), now)

    def _look(self) -> dict[str, tuple[int, int, int]]:
        names = [name for name in list_files(self.folder) if name not in (CONFIG, LOG)]
        found = {name: (self.folder / name).stat() for name in names}
        return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}

    def new_log(self) -> bytes:
        """Return what was added to the log since it was sent last."""
        path = self.folder / LOG
        if not path.exists():
            return b""
        with path.open("rb") as file:
            file.seek(self.logged)
            return file.read()


@dataclass(frozen=True)
class Changes:
    """The files of a folder that are new or other, those that are gone, and all that are there, with their stamps."""

    new: list[str]
    gone: list[str]
    now: Mapping[str, tuple[int, int, int]]


def apply(incoming: Path, folder: Path, gone: Iterable[str], log: bytes = b"") -> None:
    """Move what has come into a folder: the files that others name first, then the one that names them, then the rest.

    A folder that is new appears in one step. What a crash leaves undone is done again with the next changes, which a
    continued training makes.

    Args:
        incoming: holds the new files; it is empty afterwards.
        folder: takes them.
        gone: paths of files to delete, last of all.
        log: added to the log.
    """
    state = incoming / STATE
    _flush(incoming)
    _merge(incoming, folder, last=state)
    if state.exists():
        _flush_folder(folder)
        state.replace(folder / STATE)
    for name in gone:
        path = folder / inside(name)
        path.unlink(missing_ok=True)
        for parent in path.relative_to(folder).parents[:-1]:
            with suppress(OSError):  # it holds more
                (folder / parent).rmdir()
    if log:
        with (folder / LOG).open("ab") as file:
            file.write(log)
    shutil.rmtree(incoming, ignore_errors=True)


def _merge(incoming: Path, folder: Path, last: Path) -> None:
    for path in sorted(incoming.iterdir()):
        target = folder / path.name
        if path == last:
            continue
        if path.is_dir() and target.is_dir():
            _merge(path, target, last)
        else:
            path.replace(target)


def _flush(folder: Path) -> None:
    """Wait until the files in a folder are on the disk."""
    for path in _walk(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
