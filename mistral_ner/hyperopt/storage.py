"""Where a study lies: a journal file by default, or any Optuna storage URL."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file

from mistral_ner.config import Config, UserError
from mistral_ner.files import redacted as redacted

STORAGE_URL = "MISTRAL_NER_STORAGE_URL"  # how workers get a URL that may hold a password: never through a file
JOURNAL = "study.journal"

log = logging.getLogger(__name__)


def storage(folder: Path, url: str | None) -> BaseStorage:
    """Return the storage of the study in ``folder``.

    Raises:
        UserError: the database does not answer, or its driver is not installed.
    """
    if url is None:
        return JournalStorage(Journal(folder / JOURNAL))
    try:
        return get_storage(url)
    except ImportError:
        raise UserError(
            f"hyperopt.storage_url={redacted(url)} needs its database's driver, which is not installed; "
            "fix: pip install 'mistral_ner[postgresql]', or hyperopt.storage_url=null for a file"
        ) from None
    except Exception as error:  # whatever SQLAlchemy and the driver raise
        raise UserError(
            f"hyperopt.storage_url={redacted(url)} must be a storage that Optuna can open, but: "
            f"{redacted(str(error).splitlines()[0])}; fix: start the database, or hyperopt.storage_url=null for a file"
        ) from None


def without_password(config: Config) -> Config:
    """Return a config that may end in a log: the storage's URL travels apart from it."""
    hyperopt = config.hyperopt
    return replace(config, hyperopt=replace(hyperopt, storage_url=hyperopt.storage_url and STORAGE_URL))


def settle(place: BaseStorage) -> None:
    """Bring what was written to a study so far onto the disk itself, where the end of the machine does not reach it."""
    backend = getattr(place, "_backend", None)
    if isinstance(backend, Journal):
        backend.settle()


class Journal(JournalFileBackend):
    """A journal file whose writers may be killed at any moment.

    Upstream's lock outlives a killed owner for half a minute, and what the owner had half written would garble the
    line after it. Upstream also waits for the disk after every line; a proposal is seven of them. Here a line is the
    system's when it is written, which outlives every process, and :meth:`settle` waits for the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path), lock_obj=_KernelLock(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines; what a killed writer left of one is cut off first."""
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs).encode()
        self._lock.acquire()
        try:
            with self.path.open("r+b", buffering=0) as file:
                end = file.seek(_whole_lines(file))
                file.truncate()
                try:
                    _write_all(file, lines)
                except OSError:  # a full disk may have taken some of them, and who wrote them is told that it took none
                    file.truncate(end)
                    raise
        finally:
            self._lock.release()

    def settle(self) -> None:
        """Wait until everything that any process has appended is on the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


def _write_all(file: Any, content: bytes) -> None:
    while content:
        content = content[file.write(content) :]


def _whole_lines(file: Any) -> int:
    """Return how many bytes of a file are whole lines."""
    position: int = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - 4096)
        file.seek(start)
        newline: int = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


class _KernelLock(BaseJournalFileLock):
    """A lock that the kernel takes from a process that dies."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.flock")
        self.handle: int | None = None

    def acquire(self) -> bool:
        self.handle = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        assert self.handle is not None
        os.close(self.handle)
        self.handle = None


def check_journal(path: Path) -> None:
    """Cut a damaged last line off a journal, which a crash can leave behind; what was there is kept beside it.

    Raises:
        UserError: the damage is not at the end, so that more than the last event would be lost.
    """
    with get_lock_file(_KernelLock(path)):  # a worker that outlives its killed leader may be writing
        _check(path)


def _check(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    bad = [number for number, line in enumerate(lines, 1) if not _is_whole(line)]
    if not bad:
        return
    if bad[0] < len(lines):
        raise UserError(
            f"{path} must hold one JSON object a line, but line {bad[0]} of {len(lines)} is damaged; "
            f"fix: restore it from a copy, or search anew under another hyperopt.study_name"
        )
    path.with_name(f"{path.name}.damaged").write_bytes(b"".join(lines))
    with path.open("r+b") as file:
        file.truncate(sum(len(line) for line in lines[:-1]))
        os.fsync(file.fileno())
    log.warning("%s: its last line was cut off by a crash and is dropped (kept in %s.damaged)", path, path.name)


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
