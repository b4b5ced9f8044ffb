"""The scratch folder of a machine that does not see the study: what workers need, and what they make until it is sent.

A folder in use is locked by the processes that use it, and the kernel gives the lock back when they die, however. So
whatever is not locked is left over, and the next worker removes it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from mistral_ner import locks

_IN_USE = ".in-use"
_ENDING = 10.0  # seconds in which a killed worker gives its locks back; an idle machine needs a tenth of one
_PATIENCE = 3600.0  # seconds in which another worker of this machine may get the files of a large model


@functools.cache
def of_search(token: str) -> Path:
    """Return this machine's scratch folder of a search, in use for as long as this process lives."""
    base = _base()
    sweep(base)
    folder = base / token
    _kept.append(_use(folder))
    return folder


_kept: list[BufferedRandom] = []  # open files that hold locks


def _base() -> Path:
    base = Path(tempfile.gettempdir()) / f"mistral_ner-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise PermissionError(f"{base} belongs to another user")
    return base


@contextmanager
def lend(parent: Path) -> Iterator[Path]:
    """Lend a new folder in ``parent``; it is removed afterwards, and those that dead processes left in ``parent``."""
    sweep(parent)
    folder = parent / uuid.uuid4().hex
    lock = _use(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):
            _remove(folder)
        lock.close()


def _use(folder: Path) -> BufferedRandom:
    """Create a folder, unless it is there, and lock it with others."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # it has just been swept away
            file = (folder / _IN_USE).open("a+b")
            fcntl.flock(file, fcntl.LOCK_SH)
            if (folder / _IN_USE).exists():
                return file
            file.close()


def sweep(parent: Path) -> None:
    """Remove the folders in ``parent`` that no process uses."""
    for folder in parent.iterdir() if parent.is_dir() else ():
        with suppress(OSError), (folder / _IN_USE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock file last: whoever is killed meanwhile leaves a folder that can be swept away."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _IN_USE:
            path.unlink()
    (folder / _IN_USE).unlink()
    folder.rmdir()


def sweep_machine(token: str) -> None:
    """Remove what the searches that have ended left on this machine; the workers of this one have been told to end."""
    latest = time.monotonic() + _ENDING
    with suppress(OSError):
        sweep(base := _base())
        while (base / token).exists() and time.monotonic() < latest:
            time.sleep(0.1)
            sweep(base)


def once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return ``folder``, which ``fill`` has filled: in this process or in another one of this machine."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.hold(folder.with_name(f"{folder.name}.lock"), _PATIENCE):
        if not folder.exists():
            temporary = folder.with_name(f".{folder.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            fill(temporary)
            temporary.rename(folder)
    return folder
