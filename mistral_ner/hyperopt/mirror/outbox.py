"""What a bucket lacks of a study's folder, taken at one moment and in the order in which it can be sent.

A bucket must hold, at any moment, a study that resumes exactly: every report that its journal counts is in the folder
of its trial, with the checkpoint that the trial goes on from. So the journal is read before the folders are looked at,
and sent after them. A trial's ``checkpoint.json`` is sent after the files that it names. That of a trial which was
stopped, and whose checkpoints are deleted, is sent after the journal that says so. What has gone is deleted last, and
only what was gone before the journal was read.

Files are held by hard links, because a trial that goes on deletes its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from mistral_ner import files
from mistral_ner.hyperopt.study.storage import JOURNAL, read_whole_lines
from mistral_ner.training.checkpoint import CHECKPOINTS, STATE, named_files

Stamp = tuple[int, int, int]  # inode, time in ns and bytes

# Locks, and what no resumed search reads
_LEFT_OUT = (
    *("study.lock", "*.flock", "*.soft", "*.damaged", JOURNAL),
    *("experiment_state*", "search_gen_state*", "searcher-state*"),
)
_LOGS = (".log", "logs.txt")  # they only grow, and are long: sent less often
_TRIES = 20
_RECORD = "sent.json"


class ChangingError(OSError):
    """The folder changed each time that it was looked at."""


class _MovedOnError(Exception):
    """A trial went on while its files were held."""


@dataclass(frozen=True)
class Cargo:
    """What to send: files in stages, each of which needs those before it, the journal, files that need the journal.

    What to delete comes last.
    """

    stages: list[list[tuple[Path, str]]]
    journal: bytes
    late: list[tuple[Path, str]]
    gone: list[str]
    stamps: Mapping[str, Stamp]  # of all files that the bucket has afterwards

    @property
    def empty(self) -> bool:
        """Whether no file has changed."""
        return not any(self.stages) and not self.late and not self.gone


class Outbox:
    """Says what to send of a study's folder, and remembers what was sent.

    Args:
        folder: the study's.
        leader: who has led the study in the bucket before this process; None: nobody.
        sender: who does so now.
    """

    def __init__(self, folder: Path, leader: str | None, sender: str) -> None:
        self._folder, self._sender = folder, sender
        self._held = side_folder(folder) / "held"
        self._sent = _read_record(folder, leader)
        self._named: dict[str, tuple[Stamp, list[str]]] = {}  # the files that each checkpoint.json names

    def collect(self, logs: bool = True) -> Cargo:
        """Return what has changed since it was sent.

        Args:
            logs: whether logs are wanted, too.

        Raises:
            ChangingError: the folder does not stand still for the moment that this takes.
        """
        for _ in range(_TRIES):
            shutil.rmtree(self._held, ignore_errors=True)
            with suppress(FileNotFoundError, _MovedOnError):
                return self._collect(logs)
            time.sleep(0.02)
        raise ChangingError(f"{self._folder} changes too fast")

    def note(self, cargo: Cargo) -> None:
        """Note that the bucket has a cargo."""
        self._sent = dict(cargo.stamps)

    def forget(self, there: Iterable[str] = ()) -> None:
        """Note that nothing is known of the bucket, but for the names of what it holds.

        Checkpoints that no trial needs any more will be deleted; other names may be a person's own.
        """
        self._sent = {name: (0, 0, 0) for name in there if _is_checkpoint(name)}

    @property
    def sent(self) -> Collection[str]:
        """The paths of the files that the bucket has, as far as is known."""
        return self._sent.keys()

    def save(self) -> None:
        """Write down what was sent, for a process that goes on with this folder."""
        write_record(self._folder, self._sender, self._sent)

    def clear(self) -> None:
        """Let go of what is held."""
        shutil.rmtree(self._held, ignore_errors=True)

    def _collect(self, logs: bool) -> Cargo:
        before = look(self._folder)
        journal = read_whole_lines(self._folder / JOURNAL)
        now = look(self._folder)
        kept, late = self._choose(before, now, logs)
        new = [name for name, stamp in kept.items() if self._sent.get(name) != stamp]
        stages: list[list[tuple[Path, str]]] = [[], [], []]
        for name in new:
            held = self._hold(name)
            if _is_checkpoint(name) or _is_state(name):
                self._must_be(name, kept[name])
            stages[2 if name in late else _is_state(name)].append((held, name))
        gone = sorted(name for name in self._sent if name not in kept and name not in before)
        waits = {name: stamp for name, stamp in self._sent.items() if name not in kept and name in before}
        return Cargo(stages[:2], journal, stages[2], gone, {**kept, **waits})

    def _choose(
        self, before: Mapping[str, Stamp], now: Mapping[str, Stamp], logs: bool
    ) -> tuple[dict[str, Stamp], set[str]]:
        """Return the files that the bucket should have, and those of them that must wait for the journal.

        Of the checkpoints it has those that a ``checkpoint.json`` names.
        """
        late = set()
        kept = {name: stamp for name, stamp in now.items() if not _is_checkpoint(name)}
        if not logs:
            for name in [name for name in kept if name.endswith(_LOGS)]:
                del kept[name]
            kept |= {name: stamp for name, stamp in self._sent.items() if name.endswith(_LOGS)}
        for state in [name for name in now if _is_state(name)]:
            for name in self._files_of(state, now[state]):
                if name in now:
                    kept[name] = now[name]
                elif name in before or before.get(state) != now[state]:
                    raise _MovedOnError  # it went after the journal was read, perhaps
                else:
                    late.add(state)
        return kept, late

    def _files_of(self, state: str, stamp: Stamp) -> list[str]:
        known = self._named.get(state)
        if known is None or known[0] != stamp:
            held = self._hold(state)
            self._must_be(state, stamp)
            folder = PurePosixPath(state).parent
            self._named[state] = known = stamp, [(folder / name).as_posix() for name in named_files(held.parent)]
        return known[1]

    def _must_be(self, name: str, stamp: Stamp) -> None:
        """Check that a file that was just held is the one that was looked at."""
        if _stamp(self._folder / name) != stamp:
            raise _MovedOnError

    def _hold(self, name: str) -> Path:
        held = self._held / name
        held.parent.mkdir(parents=True, exist_ok=True)
        held.unlink(missing_ok=True)
        try:
            os.link(self._folder / name, held)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links
            shutil.copy2(self._folder / name, held)
        return held


def look(folder: Path) -> dict[str, Stamp]:
    """Return the stamps of the files to send, by path in the folder; a folder's own files are looked at before those
    in the folders below it.
    """
    # strings and no paths: a study of a thousand trials is looked at every few seconds
    found: dict[str, Stamp] = {}
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = where[len(str(folder)) + 1 :]
        for name in names:
            if name.startswith(".") or (not inner and any(fnmatch(name, pattern) for pattern in _LEFT_OUT)):
                continue
            with suppress(FileNotFoundError):
                found[f"{inner}/{name}" if inner else name] = _stamp(f"{where}/{name}")
    return found


def fold(gone: list[str], kept: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Return the folders of which nothing is kept, each the highest of its kind, and the files in other folders."""
    used = {parent.as_posix() for name in kept for parent in PurePosixPath(name).parents}
    folders, alone = set(), []
    for name in gone:
        unused = [parent.as_posix() for parent in PurePosixPath(name).parents if parent.as_posix() not in used | {"."}]
        if unused:
            folders.add(unused[-1])
        else:
            alone.append(name)
    return sorted(folders), alone


def side_folder(study: Path) -> Path:
    """Return the folder beside a study's that its mirror works in."""
    return study.with_name(f".{study.name}.mirror")


def write_record(study: Path, sender: str, sent: Mapping[str, Stamp]) -> None:
    """Write down which files the bucket has of a study's folder, and who sent them."""
    files.write_text(side_folder(study) / _RECORD, json.dumps({"sender": sender, "sent": sent}))


def _read_record(study: Path, leader: str | None) -> dict[str, Stamp]:
    """Return what the bucket has of a study's folder; nothing if another process than the last leader wrote it down."""
    try:
        record = json.loads((side_folder(study) / _RECORD).read_text(encoding="utf-8"))
        return {name: tuple(stamp) for name, stamp in record["sent"].items()} if record["sender"] == leader else {}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _stamp(path: str | Path) -> Stamp:
    stat = os.stat(path)  # noqa: PTH116
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _is_state(name: str) -> bool:
    return name.rpartition("/")[2] == STATE


def _is_checkpoint(name: str) -> bool:
    return f"/{CHECKPOINTS}/" in name
