"""Where predictions go: standard output, or a file or a folder that gets its name only when it is whole."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from mistral_ner import files
from mistral_ner.errors import UserError
from mistral_ner.predict.formats import Encoder, Tagged
from mistral_ner.predict.part import Done, grow
from mistral_ner.predict.source import Source


class Output(Protocol):
    """Takes what is tagged; ``done`` is what it has already."""

    done: Done

    def write(self, tagged: Tagged) -> None:
        """Write the lines that an item gave."""


@dataclass
class Stream:
    """An open stream; ``flush``: who reads it sees each item at once."""

    stream: BinaryIO
    encoder: Encoder
    flush: bool = True
    done: Done = field(default_factory=Done)

    def write(self, tagged: Tagged) -> None:
        """Write the lines that an item gave."""
        self.stream.write(self.encoder.encode(tagged))
        if self.flush:
            self.stream.flush()


class GrowingFile:
    """A file of lines; if its name ends in ``.gz``, it is packed in the end."""

    def __init__(self, whole: Path, source: Source) -> None:
        self.path = _part_of(whole)
        self._whole, self._source = whole, source

    def size(self) -> int:
        """Return its bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, size: int) -> None:
        """Open it, with its first ``size`` bytes only."""
        self._stream = self.path.open("ab")
        self._stream.truncate(size)
        self._encoder = Encoder(self._source, goes_on=size > 0)

    def write(self, tagged: Tagged) -> int:
        """Write the lines that an item gave, and return their bytes."""
        return self._stream.write(self._encoder.encode(tagged))

    def sync(self) -> None:
        """Have all that was written on disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def finish(self) -> None:
        """Give it its name, as it is whole."""
        self._stream.close()
        if not _is_packed(self._whole):
            self.path.replace(self._whole)
            return
        with self.path.open("rb") as content, _new_file(self._whole) as packed:
            shutil.copyfileobj(content, packed)
        self.path.unlink()

    def delete(self) -> None:
        """Leave nothing of it."""
        self._stream.close()
        self.path.unlink(missing_ok=True)


class GrowingFolder:
    """A folder that gets brat's pairs: the texts of another folder, with the annotations that were found."""

    def __init__(self, whole: Path, source: Source, texts: Path) -> None:
        self.path = _part_of(whole)
        self._whole, self._source, self._texts = whole, source, texts
        self._fresh: list[Path] = []  # written, but perhaps not on disk yet

    def size(self) -> int:
        """Return the bytes of the annotations."""
        return sum(file.stat().st_size for file in self.path.rglob("*.ann"))

    def begin(self, size: int) -> None:
        """Make it; pairs that are there stay, as what comes again takes their place."""
        if not size:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(exist_ok=True)

    def write(self, tagged: Tagged) -> int:
        """Write a file of annotations, copy its text, and return the bytes of the former."""
        own = cast(Path, tagged.file)
        text = self.path / own.relative_to(self._texts)
        text.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(own, text)
        annotations = text.with_name(re.sub(r"\.txt(\.gz)?$", ".ann", text.name, flags=re.I))
        content = Encoder(self._source).encode(tagged)
        annotations.write_bytes(content)
        self._fresh += [text, annotations]
        return len(content)

    def sync(self) -> None:
        """Have all that was written on disk."""
        for path in self._fresh:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self._fresh.clear()

    def finish(self) -> None:
        """Give it its name, as it is whole."""
        self.path.rename(self._whole)

    def delete(self) -> None:
        """Leave nothing of it."""
        shutil.rmtree(self.path, ignore_errors=True)


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
    if resume and (path is None or source.path is None):
        found = f"--file={source.path or '-'} and --output={name or '-'}"
        raise UserError(f"--resume goes on with a file or folder that is read and one that is written, found {found}")
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
        with grow(GrowingFolder(path, source, texts), run, resume) as part:
            yield part
    elif path is None:
        yield Stream(sys.stdout.buffer, Encoder(source))
    elif path.is_dir():
        raise UserError(f"--output must name a file, found a folder at {path}; type --output={path}/FILE")
    elif path.exists() and not path.is_file():  # a pipe or a device
        with path.open("wb") as device:
            yield Stream(device, Encoder(source))
    elif source.path is None:
        with files.name_full_disk(path.parent), _new_file(path) as stream:
            yield Stream(stream, Encoder(source), flush=False)
    else:
        with grow(GrowingFile(path, source), run, resume) as part:
            yield part


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Lend a file that becomes ``path`` when the block ends, packed if its name ends in ``.gz``."""
    with files.replace_bytes(path) as file:
        if not _is_packed(path):
            yield file
            return
        # without a time and a name: the same content gives the same bytes
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            yield cast(BinaryIO, packed)
