"""What a prediction reads: a file, packed or not, standard input, or texts of the command line, line by line."""

from __future__ import annotations

import gzip
import io
import itertools
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from mistral_ner import files
from mistral_ner.config.data_keys import FORMAT_OF_SUFFIX
from mistral_ner.data.columns.conll import is_boundary, split_columns
from mistral_ner.data.columns.lines import looks_like_header
from mistral_ner.data.schemes import is_tag
from mistral_ner.data.source import fault, plain_suffix
from mistral_ner.data.spans.brat import find_texts, is_brat
from mistral_ner.errors import UserError

FORMATS = ("text", "conll", "csv", "jsonl", "brat")
Line = tuple[int, str]
_LOOKED_AT = 200  # lines that show whether a file has columns
_FEWEST = 5  # token lines; of fewer, a short text may look like them


@dataclass(frozen=True)
class Source:
    """What is read: ``where`` names it in messages, ``kind`` is its format, and ``path`` its file, if it has one."""

    stream: BinaryIO
    where: str
    kind: str
    lines: Iterator[Line]
    path: Path | None = None

    def count_lines(self) -> int | None:
        """Return how many lines the file has; None where it has none to count."""
        if self.path is None or self.kind == "brat" or not self.path.is_file():
            return None
        with open_input(self.path) as stream:
            return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(1 << 20), b""))


def open_source(texts: Sequence[str] | None, file: str | None, kind: str | None) -> Source:
    """Open the texts of the command line, a file, or standard input; ``kind`` is the format that was typed.

    Raises:
        UserError: it cannot be read, or is of a format that predict does not write.
    """
    if texts is not None:  # each is one text, line breaks included
        if kind not in (None, "text"):
            raise UserError(f"--text is plain text, found --format={kind}; give a file, or leave --format out")
        return Source(io.BytesIO(), "--text", "text", enumerate(texts, 1))
    if file is None or file == "-":
        if kind == "brat":
            raise UserError("--format=brat reads files, not standard input; type --file=FOLDER --output=ANOTHER_FOLDER")
        if sys.stdin.isatty():
            print("tagging what you type, a text a line; end with Ctrl-D", file=sys.stderr)
        stream = sys.stdin.buffer
        unpacked = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if _is_packed(stream) else stream
        return _look(unpacked, "standard input", kind, None)
    path = files.expand(file)
    kind = kind or ("brat" if is_brat(path) else FORMAT_OF_SUFFIX.get(plain_suffix(path)))
    if kind == "parquet":
        fix = f"python -m mistral_ner.data {path} --to {path.stem}.jsonl makes JSON lines of it"
        raise UserError(f"--file={path} is Parquet, and predict writes {', '.join(FORMATS)} only\n  fix: {fix}")
    if kind == "brat":
        found = find_texts(path)
        return Source(io.BytesIO(), str(path), kind, iter(()), path if path.is_dir() else found[0])
    return _look(open_input(path), str(path), kind, path)


def _look(stream: BinaryIO, where: str, kind: str | None, path: Path | None) -> Source:
    """Return the source of a stream, whose first lines say whether it has columns, where nothing else does."""
    lines = number_lines(stream, where)
    if kind is None:
        first = list(itertools.islice(lines, _LOOKED_AT))
        lines = itertools.chain(first, lines)
        kind = "text"
        if _has_tags(text for _, text in first):
            kind = "conll"
            print(f"{where}: read as conll, as every line has a tag; --format=text reads it as text", file=sys.stderr)
    return Source(stream, where, kind, lines, path)


def _has_tags(texts: Iterable[str]) -> bool:
    """Whether lines are those of a file of columns: all have as many cells, and one cell of each is a tag."""
    rows = [cells for text in texts if not is_boundary(cells := split_columns(text)) and not text.startswith("#")]
    if rows and looks_like_header(rows[0]):
        del rows[0]
    if len(rows) < _FEWEST or len({len(cells) for cells in rows}) > 1:
        return False
    return any(all(map(is_tag, cells)) for cells in list(zip(*rows, strict=True))[1:])


def open_input(path: Path) -> BinaryIO:
    """Open a file to read; one packed by gzip is unpacked while it is read.

    Raises:
        UserError: the file is missing, is a folder, or cannot be read.
    """
    if path.is_dir():
        raise UserError(
            f"--file must name a file, or a folder of brat's, found a folder without .ann files at {path}; "
            f"type --file={path}/FILE, or --format=brat for its .txt files"
        )
    try:
        stream = path.open("rb")
        if _is_packed(stream):
            stream.close()
            return cast(BinaryIO, gzip.open(path))
        return stream
    except OSError as error:
        raise UserError(f"--file={path} cannot be read: {error.strerror}; type --file=PATH") from None


def _is_packed(stream: BinaryIO) -> bool:
    return isinstance(stream, io.BufferedReader) and stream.peek(2)[:2] == b"\x1f\x8b"


def number_lines(stream: BinaryIO, where: str) -> Iterator[Line]:
    """Yield (line number, line without its end); only a newline ends a line.

    Raises:
        UserError: a line is not UTF-8, or a packed file is not whole.
    """
    with _name_damage(where):
        for number, raw in enumerate(stream, 1):
            yield number, decode(raw, where, number).removesuffix("\n").removesuffix("\r")


def read_whole(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UserError: it cannot be read, is not UTF-8, or is packed and not whole.
    """
    with open_input(path) as stream, _name_damage(str(path)):
        return decode(stream.read(), str(path), 1)


@contextmanager
def _name_damage(where: str) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{where}: a .gz file must be whole, found {error}\n  fix: pack it again with gzip") from None


def decode(raw: bytes, where: str, number: int) -> str:
    """Return the text of bytes that begin with line ``number``; a byte order mark at the start of a file is left out.

    Raises:
        UserError: they are not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        found = raw[max(0, error.start - 20) : error.start + 20]
        line = number + raw.count(b"\n", 0, error.start)
        raise fault(where, line, "text must be UTF-8", found, f"iconv -f {encoding} -t UTF-8 first") from None
