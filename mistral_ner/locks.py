"""Locks: of a study, of a trial's folder, of a file that grows. A crash leaves none held."""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from mistral_ner.errors import UserError
from mistral_ner.files import open_mode

log = logging.getLogger(__name__)


@contextmanager
def hold(path: Path, timeout: float, keep: bool = True) -> Iterator[None]:
    """Hold the lock file at ``path``; the kernel releases it if the process dies. A thread may hold it twice.

    A file system without locks gets a lock file that says who holds it; one of a dead process of this machine is taken.

    Args:
        path: the lock file.
        timeout: seconds to wait for another process; 0 tries once.
        keep: leave the lock file there. Without it, it is deleted by who holds it; filelock begins again where the
            file that it has locked has no name any more, so that nobody locks another file than the others.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the lock file cannot be created.
    """
    lock: BaseFileLock = FileLock(path, mode=open_mode(0o666), is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire(timeout)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _NO_LOCKS:
            raise
        lock = _soft_lock(path, error)
        lock.acquire(timeout)
    try:
        yield
    finally:
        if not keep:
            path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def hold_for_a_write(path: Path) -> Iterator[None]:
    """Hold the lock file at ``path`` for a write of microseconds; the kernel releases it if the process dies.

    :func:`hold` takes 0.2 ms, six times as long as an append to a journal.

    Raises:
        OSError: the lock file cannot be created.
    """
    with path.open("ab") as file, ExitStack() as held:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            held.enter_context(_soft_lock(path, error))
        yield


_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre without flock, NFS without its lock daemon, …


def _soft_lock(path: Path, error: OSError) -> SoftFileLock:
    """Return the lock of a file system without locks: a file beside ``path`` that only one process can create."""
    _say_once(f"no file locks on this file system ({os.strerror(error.errno or 0)}): lock files take their place")
    soft = path.with_name(f"{path.name}.soft")
    return SoftFileLock(soft, mode=open_mode(0o666), is_singleton=True, poll_interval=0.01)


@functools.cache
def _say_once(text: str) -> None:
    log.warning(text)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold the folder of a training.

    A worker outlives a killed driver by some seconds; the process that continues its trial waits for it to end.

    Raises:
        UserError: another process holds the folder and does not end.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold(folder / LOCK, _PATIENCE))
        except Timeout:
            raise UserError(
                f"another process trains in {folder}; fix: wait for its end, or output_dir=ANOTHER_FOLDER"
            ) from None
        except OSError:
            pass  # the next read or write in the folder says what is wrong with it
        yield


LOCK = ".lock"
_PATIENCE = 30.0  # seconds
