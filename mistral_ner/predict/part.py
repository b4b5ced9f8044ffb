"""An output that grows as ``NAME.part``; ``NAME.part.json`` says how far it is, so that a killed run can go on.

Sentences go through the model in buffers, and a buffer follows from the sentences before it. A run that goes on reads
all sentences and computes the buffers from the first unfinished sentence on, so that its output is the very one that an
unbroken run writes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import Timeout

from mistral_ner import files, locks
from mistral_ner.errors import UserError
from mistral_ner.predict.formats import Tagged

_SECONDS = 2.0  # between two records of how far an output is


@dataclass
class Done:
    """How far an output is: sentences that were tagged, and the lines and bytes that they gave."""

    sentences: int = 0
    lines: int = 0
    size: int = 0


class Growing(Protocol):
    """A file or a folder that is not whole yet, at ``path``."""

    path: Path

    def size(self) -> int:
        """Return the bytes of the lines that are there."""

    def begin(self, size: int) -> None:
        """Make it ready for what comes after the first ``size`` bytes, and forget what else there is."""

    def write(self, tagged: Tagged) -> int:
        """Write the lines that an item gave, and return their bytes."""

    def sync(self) -> None:
        """Have all that was written on disk."""

    def finish(self) -> None:
        """Give it its name, as it is whole."""

    def delete(self) -> None:
        """Leave nothing of it."""


@dataclass
class Part:
    """An output that is not whole yet, with the record of how far it is."""

    content: Growing
    record: Path
    run: Mapping[str, Any]
    done: Done
    recorded: float = 0.0

    def write(self, tagged: Tagged) -> None:
        """Write the lines that an item gave, and from time to time how far the output is."""
        self.done.size += self.content.write(tagged)
        self.done.sentences += tagged.sentences
        self.done.lines += len(tagged.lines)
        if time.monotonic() - self.recorded > _SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write how far the output is, once its content is on disk."""
        self.content.sync()
        files.write_json(self.record, {"done": asdict(self.done), "run": self.run})
        self.recorded = time.monotonic()


@contextmanager
def grow(content: Growing, run: Mapping[str, Any], resume: bool) -> Iterator[Part]:
    """Lend an output that gets its name when the block ends; what is done is kept if the block is stopped.

    Args:
        content: what grows.
        run: what decides the content, by the words of a message; a run with another value cannot go on.
        resume: go on with what a stopped run left.

    Raises:
        UserError: a stopped run left something and ``resume`` is not set, it cannot be gone on with, or another process
            writes it.
    """
    part = content.path
    part.parent.mkdir(parents=True, exist_ok=True)
    with files.name_full_disk(part.parent, "type the same command with --resume"), _alone(part):
        record = part.with_name(f"{part.name}.json")
        done = _find_done(content, record, run, resume)
        before = done.sentences
        content.begin(done.size)
        growing = Part(content, record, run, done)
        try:
            yield growing
            content.sync()
        except BaseException as error:
            if not done.sentences or (not before and _is_of_input(error)):
                record.unlink(missing_ok=True)
                content.delete()
            else:
                with suppress(OSError):
                    growing.keep()
                kept = f"{done.sentences:,} sentences are kept in {part}"
                print(f"{kept}; the same command with --resume goes on with them", file=sys.stderr)
            raise
        content.finish()
        record.unlink(missing_ok=True)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep other processes from writing the same output."""
    try:
        with locks.hold(part.with_name(f"{part.name}.lock"), 0, keep=False):
            yield
    except Timeout:
        raise UserError(f"another process writes {part}; wait for its end, or type another --output") from None


def _find_done(content: Growing, record: Path, run: Mapping[str, Any], resume: bool) -> Done:
    """Return what a stopped run left.

    Raises:
        UserError: it left something, but ``resume`` is not set, or this is another run.
    """
    part = content.path
    try:
        saved = json.loads(record.read_text(encoding="utf-8"))
        done, before = Done(**saved["done"]), dict(saved["run"])
    except (OSError, ValueError, TypeError, KeyError):
        done, before = Done(), {}
    if not done.sentences or not part.exists():  # without it, the output was given its name a moment before the kill
        if resume:
            print(f"--resume: no run was stopped that writes {part}: beginning anew", file=sys.stderr)
        return Done()
    anew = f"rm -r {part} {record} to begin anew"
    if not resume:
        raise UserError(
            f"{part} has {done.sentences:,} sentences of a run that was stopped\n"
            f"  fix: type --resume to go on with it, or {anew}"
        )
    other = [f"{name} was {before.get(name)}, is {run[name]}" for name in run if before.get(name) != run[name]]
    if other or content.size() < done.size:
        what = "; ".join(other) or f"it has {content.size():,} bytes, fewer than the {done.size:,} written"
        raise UserError(f"--resume cannot go on with {part}: {what}\n  fix: give what the stopped run had, or {anew}")
    return done


def _is_of_input(error: BaseException) -> bool:
    """Whether an error is the input's: to mend it makes it another input."""
    from mistral_ner.training.memory import OutOfMemoryError  # late, because it imports torch

    return isinstance(error, UserError) and not isinstance(error, files.DiskFullError | OutOfMemoryError)
