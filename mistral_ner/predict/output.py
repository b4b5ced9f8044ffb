"""Where predictions go: standard output, a folder of files, or a file that appears only when it is whole."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from mistral_ner import files
from mistral_ner.errors import UserError
from mistral_ner.predict.formats import Tagged, as_bytes
from mistral_ner.predict.part import Done, grow, pack
from mistral_ner.predict.source import Source


class Output(Protocol):
    """Takes what is tagged; ``done`` is what it has already."""

    done: Done

    def write(self, tagged: Tagged) -> None:
        """Write the lines that an item gave."""


@dataclass
class Stream:
    """An open stream."""

    stream: BinaryIO
    done: Done = field(default_factory=Done)

    def write(self, tagged: Tagged) -> None:
        """Write the lines that an item gave."""
        self.stream.write(as_bytes(tagged))
        self.stream.flush()


@dataclass
class Folder:
    """A new folder that gets brat's pairs: the texts of another folder, with the annotations that were found."""

    path: Path
    texts: Path
    done: Done = field(default_factory=Done)

    def write(self, tagged: Tagged) -> None:
        """Write a file of annotations, and copy its text."""
        if tagged.file is not None:
            text = self.path / tagged.file.relative_to(self.texts)
            text.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tagged.file, text)
            text.with_name(re.sub(r"\.txt(\.gz)?$", ".ann", text.name, flags=re.I)).write_bytes(as_bytes(tagged))


@contextmanager
def open_output(name: str | None, source: Source, run: Mapping[str, Any], resume: bool) -> Iterator[Output]:
    """Lend what takes the predictions.

    Args:
        name: a file, or for a folder of brat's a new folder; None: standard output.
        source: what is read.
        run: what decides the predictions; see :func:`mistral_ner.predict.part.grow`.
        resume: go on with what a stopped run left.

    Raises:
        UserError: it cannot be written.
    """
    path = files.expand(name) if name is not None else None
    of_folder = source.kind == "brat" and source.path is not None and source.path.is_dir()
    if resume and (path is None or source.path is None or of_folder):
        found = "a folder of brat's" if of_folder else f"--file={source.path or '-'} and --output={name or '-'}"
        raise UserError(f"--resume goes on with one file that is read and one that is written, found {found}")
    try:
        with _choose(path, source, run, resume) as output:
            yield output
    except PermissionError as error:
        raise UserError(f"--output={name} cannot be written: {error.strerror}; type --output=PATH") from None


@contextmanager
def _choose(path: Path | None, source: Source, run: Mapping[str, Any], resume: bool) -> Iterator[Output]:
    texts = source.path if source.kind == "brat" else None
    if texts is not None and (texts.is_dir() or (path is not None and path.exists())):
        if path is None or path.exists():
            what = "a new folder" if texts.is_dir() else "a new file"
            raise UserError(f"--output must name {what} for brat's annotations, found {path}; type --output=NEW")
        with _new_folder(path) as folder:
            yield Folder(folder, texts)
    elif path is None:
        yield Stream(sys.stdout.buffer)
    elif path.is_dir():
        raise UserError(f"--output must name a file, found a folder at {path}; type --output={path}/FILE")
    elif path.exists() and not path.is_file():  # a pipe or a device
        with path.open("wb") as device:
            yield Stream(device)
    elif source.path is None:
        with _whole_file(path) as stream:
            yield Stream(stream)
    else:
        with grow(path, run, resume) as part:
            yield part


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Lend a folder that becomes ``path`` when the block ends, and is deleted if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(files.open_mode(0o777))  # mkdtemp makes it private to the user
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Lend a file that becomes ``path`` when the block ends, and is deleted if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)[1])
    try:
        with files.name_full_disk(path.parent), temporary.open("wb") as stream:
            yield stream
        temporary.chmod(files.open_mode(0o666))  # mkstemp makes it private to the user
        pack(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
