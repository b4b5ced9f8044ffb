"""A file that grows as ``NAME.part``; ``NAME.part.json`` says how far it is, so that a run that was killed can go on.

Sentences go through the model in buffers, and a buffer follows from the sentences before it. A run that goes on reads
all sentences and computes the buffers from the first unfinished sentence on, so that its file is the very file that an
unbroken run writes.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mistral_ner import files
from mistral_ner.errors import UserError
from mistral_ner.predict.formats import Tagged, as_bytes

_SECONDS = 2.0  # between two records of how far a file is


@dataclass
class Done:
    """How far a file is: sentences that were tagged, and the lines and bytes that they gave."""

    sentences: int = 0
    lines: int = 0
    size: int = 0


@dataclass
class Part:
    """A file that is not whole yet, with the record of how far it is."""

    stream: BinaryIO
    record: Path
    run: Mapping[str, Any]
    done: Done
    recorded: float = 0.0

    def write(self, tagged: Tagged) -> None:
        """Write the lines that an item gave, and from time to time how far the file is."""
        content = as_bytes(tagged)
        self.stream.write(content)
        self.done.sentences += tagged.sentences
        self.done.lines += content.count(b"\n")
        self.done.size += len(content)
        if time.monotonic() - self.recorded > _SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write how far the file is, once its content is on disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        files.write_json(self.record, {"done": asdict(self.done), "run": self.run})
        self.recorded = time.monotonic()


@contextmanager
def grow(path: Path, run: Mapping[str, Any], resume: bool) -> Iterator[Part]:
    """Lend a file that becomes ``path`` when the block ends; what is done is kept if the block is stopped.

    Args:
        path: the whole file; if it ends in ``.gz``, it is packed in the end.
        run: what decides the content, by the words of a message; a run with another value cannot go on.
        resume: go on with what a stopped run left.

    Raises:
        UserError: a stopped run left something and ``resume`` is not set, it cannot be gone on with, or another process
            writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, record = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    with part.open("ab") as stream:
        _lock(stream, part)
        done = _find_done(part, record, run, resume)
        before = done.sentences
        stream.truncate(done.size)
        growing = Part(stream, record, run, done)
        try:
            with files.name_full_disk(path.parent, "type the same command with --resume"):
                yield growing
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException as error:
            if not done.sentences or (not before and _is_of_input(error)):
                _forget(part, record)
            else:
                with suppress(OSError):
                    growing.keep()
                _say_kept(done, part)
            raise
        record.unlink(missing_ok=True)
        with files.name_full_disk(path.parent, "type the same command again"):
            pack(part, path)


def pack(plain: Path, path: Path) -> None:
    """Move a file to ``path``, packed by gzip if this ends in ``.gz``: the same content gives the same bytes."""
    if path.suffix.lower() == ".gz":
        packed = plain.with_name(f"{plain.name}.gz")
        with (
            plain.open("rb") as content,
            packed.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream,
        ):
            shutil.copyfileobj(content, stream)
        plain.unlink()
        plain = packed
    plain.replace(path)


def _lock(stream: BinaryIO, part: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process writes {part}; wait for its end, or type another --output") from None
    except OSError:
        pass  # a file system without locks


def _find_done(part: Path, record: Path, run: Mapping[str, Any], resume: bool) -> Done:
    """Return what a stopped run left.

    Raises:
        UserError: it left something, but ``resume`` is not set, or this is another run.
    """
    try:
        saved = json.loads(record.read_text(encoding="utf-8"))
        done, before = Done(**saved["done"]), dict(saved["run"])
    except (OSError, ValueError, TypeError, KeyError):
        if resume:
            print(f"--resume: no run was stopped that writes {part}: beginning anew", file=sys.stderr)
        return Done()
    if not resume:
        raise UserError(
            f"{part} has {done.sentences:,} sentences of a run that was stopped\n"
            f"  fix: type --resume to go on with it, or rm {part} {record} to begin anew"
        )
    other = [f"{name} was {before.get(name)}, is {run[name]}" for name in run if before.get(name) != run[name]]
    if other or part.stat().st_size < done.size:
        what = "; ".join(other) or f"it has {part.stat().st_size:,} bytes, fewer than the {done.size:,} written"
        raise UserError(
            f"--resume cannot go on with {part}: {what}\n"
            f"  fix: give what the stopped run had, or rm {part} {record} to begin anew"
        )
    return done


def _is_of_input(error: BaseException) -> bool:
    """Whether an error is the input's: to mend it makes it another input."""
    from mistral_ner.training.memory import OutOfMemoryError  # late, because it imports torch

    return isinstance(error, UserError) and not isinstance(error, files.DiskFullError | OutOfMemoryError)


def _forget(part: Path, record: Path) -> None:
    record.unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _say_kept(done: Done, part: Path) -> None:
    kept = f"{done.sentences:,} sentences are kept in {part}"
    print(f"{kept}; the same command with --resume goes on with them", file=sys.stderr)
