"""Where a study lies: a journal file by default, or any Optuna storage URL."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import BaseJournalBackend

from mistral_ner import locks
from mistral_ner.config.schema import Config
from mistral_ner.errors import UserError
from mistral_ner.files import redact

STORAGE_URL = "MISTRAL_NER_STORAGE_URL"  # gives workers a URL that may hold a password, which must not be in a file
JOURNAL = "study.journal"

log = logging.getLogger(__name__)


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Return the storage of the study in ``folder``, which is a journal file if ``url`` is None.

    Raises:
        UserError: the database does not answer, or its driver is not installed.
    """
    if url is None:
        return JournalFile(folder / JOURNAL)
    try:
        return get_storage(url)
    except ImportError:
        raise UserError(
            f"hyperopt.storage_url={redact(url)} needs its database's driver, which is not installed; "
            "fix: pip install 'mistral_ner[postgresql]', or hyperopt.storage_url=null for a file"
        ) from None
    except Exception as error:  # whatever SQLAlchemy and the driver raise
        raise UserError(
            f"hyperopt.storage_url={redact(url)} must be a storage that Optuna can open, but: "
            f"{redact(str(error).splitlines()[0])}; fix: start the database, or hyperopt.storage_url=null for a file"
        ) from None


def hide_password(config: Config) -> Config:
    """Return a config that may be logged: without the storage's URL, which may hold a password."""
    hyperopt = config.hyperopt
    return replace(config, hyperopt=replace(hyperopt, storage_url=hyperopt.storage_url and STORAGE_URL))


def settle(storage: BaseStorage) -> None:
    """Wait until what was written to a study is on the disk itself, where it survives the end of the machine."""
    if isinstance(storage, JournalFile):
        storage.journal.settle()


class JournalFile(JournalStorage):
    """The storage of a study that lies in a journal file of its own."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        super().__init__(self.journal)


class Journal(BaseJournalBackend):
    """A journal file whose writers may be killed at any moment; Optuna's own file backend can read it.

    Optuna's lock outlives a killed owner for half a minute, and the line that the owner had half written would garble
    the next one. Optuna also waits for the disk after every line, and a proposal takes seven of them. Here a line
    belongs to the operating system once it is written, which outlives every process; :meth:`settle` waits for the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()
        self._read_up_to = (0, 0)  # lines and bytes

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return the entries from a number on, which counts from 0; an unfinished last line is not one yet.

        Raises:
            ValueError: a line before the last is damaged.
        """
        number, offset = self._read_up_to if self._read_up_to[0] <= log_number_from else (0, 0)
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(offset)
            *lines, _ = file.read(size - offset).split(b"\n")
        for left, line in zip(range(len(lines) - 1, -1, -1), lines, strict=True):
            try:
                entry = json.loads(line)
            except ValueError:
                if not left:
                    return
                raise
            number, offset = number + 1, offset + len(line) + 1
            self._read_up_to = (number, offset)
            if number > log_number_from:
                yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines, after cutting off what a killed writer left of one."""
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs).encode()
        with locks.hold_for_a_write(_lock(self.path)), self.path.open("r+b", buffering=0) as file:
            end = file.seek(_whole_lines(file))
            file.truncate()
            try:
                _write_all(file, lines)
            except OSError:  # a full disk may have taken some of the lines, but the writer is told that it took none
                file.truncate(end)
                raise

    def settle(self) -> None:
        """Wait until everything that any process has appended is on the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


def read_whole_lines(journal: Path) -> bytes:
    """Return what a journal holds, without a line that is half written; nothing if there is no journal."""
    if not journal.exists():
        return b""
    with locks.hold_for_a_write(_lock(journal)):
        content = journal.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _lock(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.flock")


def _write_all(file: Any, content: bytes) -> None:
    while content:
        content = content[file.write(content) :]


def _whole_lines(file: Any) -> int:
    """Return the number of bytes at the start of a file that are whole lines."""
    position: int = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - 4096)
        file.seek(start)
        newline: int = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def check_journal(path: Path) -> None:
    """Cut off a damaged last line, which a crash can leave behind; the whole file is kept as ``.damaged``.

    Raises:
        UserError: an earlier line is damaged, so that more than the last event would be lost.
    """
    with locks.hold_for_a_write(_lock(path)):  # a worker that outlives its killed leader may be writing
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
