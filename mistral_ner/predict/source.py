"""What a prediction reads: a file, packed or not, standard input, or texts of the command line, line by line."""

from __future__ import annotations

import gzip
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from mistral_ner import files
from mistral_ner.config.data_keys import FORMAT_OF_SUFFIX
from mistral_ner.data.columns.conll import is_boundary, split_columns
from mistral_ner.data.columns.lines import looks_like_header
from mistral_ner.data.records.json_lines import is_object
from mistral_ner.data.schemes import is_tag
from mistral_ner.data.source import Line, Text, is_packed, open_bytes, plain_suffix
from mistral_ner.data.spans.brat import find_texts, is_brat
from mistral_ner.errors import UserError

FORMATS = ("text", "conll", "csv", "jsonl", "brat")
KEY = "--encoding"  # what a person types to name the encoding of the input
_LOOKED_AT = 200  # lines that show whether a file has columns
_FEWEST = 5  # token lines; of fewer, a short text may look like them


@dataclass(frozen=True)
class Source:
    """What is read: ``where`` names it in messages, ``kind`` is its format, and ``path`` its file, if it has one.

    ``encoding`` is that of its text, in which the output is written, too.
    """

    where: str
    kind: str
    lines: Iterator[Line]
    path: Path | None = None
    encoding: str = "utf-8"
    close: Callable[[], None] = lambda: None

    def count_lines(self) -> int | None:
        """Return about how many lines the file has; None where it has none to count."""
        if self.path is None or self.kind == "brat" or not self.path.is_file():
            return None
        with open_bytes(self.path) as stream:
            return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(1 << 20), b""))


def open_source(
    texts: Sequence[str] | None, file: str | None, kind: str | None, find_encoding: Callable[[], str] = lambda: "utf-8"
) -> Source:
    """Open the texts of the command line, a file, or standard input.

    Args:
        texts: of the command line.
        file: its name; ``-`` or None is standard input.
        kind: the format that was typed.
        find_encoding: called once what is read is there, before it is read.

    Raises:
        UserError: it cannot be read, or is of a format that predict does not write.
    """
    if texts is not None:  # each is one text, line breaks included
        if kind not in (None, "text"):
            raise UserError(f"--text is plain text, found --format={kind}; give a file, or leave --format out")
        return Source("--text", "text", enumerate(texts, 1))
    if file is None or file == "-":
        if kind == "brat":
            raise UserError("--format=brat reads files, not standard input; type --file=FOLDER --output=ANOTHER_FOLDER")
        if sys.stdin.isatty():
            print("tagging what you type, a text a line; end with Ctrl-D", file=sys.stderr)
        stream = sys.stdin.buffer
        unpacked = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if is_packed(stream) else stream
        return _look(Text(unpacked, "standard input", find_encoding(), KEY), "standard input", kind, None)
    path = files.expand(file)
    kind = kind or ("brat" if is_brat(path) else FORMAT_OF_SUFFIX.get(plain_suffix(path)))
    if kind == "parquet":
        fix = f"python -m mistral_ner.data {path} --to {path.stem}.jsonl makes JSON lines of it"
        raise UserError(f"--file={path} is Parquet, and predict writes {', '.join(FORMATS)} only\n  fix: {fix}")
    if kind == "brat":
        found = find_texts(path)
        return Source(str(path), kind, iter(()), path if path.is_dir() else found[0], find_encoding())
    return _look(Text(_open_input(path), str(path), find_encoding(), KEY), str(path), kind, path)


def _look(text: Text, where: str, kind: str | None, path: Path | None) -> Source:
    """Return the source of a text, whose first lines say whether it has columns, where nothing else does."""
    lines = text.lines()
    if kind is None:
        try:
            first = list(itertools.islice(lines, _LOOKED_AT))
        except UserError:
            text.close()
            raise
        lines = itertools.chain(first, lines)
        kind, why = _find_kind([line for _, line in first if line.strip()])
        if why:
            print(f"{where}: read as {kind}, as {why}; --format=text reads it as text", file=sys.stderr)
    return Source(where, kind, lines, path, text.encoding, text.close)


def _find_kind(lines: Sequence[str]) -> tuple[str, str]:
    """Return the format that lines seem to have, and what they show, if that is not text."""
    if lines and all(map(is_object, lines)):
        return "jsonl", "every line is a JSON object"
    return ("conll", "every line has a tag") if _has_tags(lines) else ("text", "")


def _has_tags(texts: Iterable[str]) -> bool:
    """Whether lines are those of a file of columns: all have as many cells, and one cell of each is a tag."""
    rows = [cells for text in texts if not is_boundary(cells := split_columns(text)) and not text.startswith("#")]
    if rows and looks_like_header(rows[0]):
        del rows[0]
    if len(rows) < _FEWEST or len({len(cells) for cells in rows}) > 1:
        return False
    return any(all(map(is_tag, cells)) for cells in list(zip(*rows, strict=True))[1:])


def _open_input(path: Path) -> BinaryIO:
    if path.is_dir():
        raise UserError(
            f"--file must name a file, or a folder of brat's, found a folder without .ann files at {path}; "
            f"type --file={path}/FILE, or --format=brat for its .txt files"
        )
    try:
        return open_bytes(path)
    except OSError as error:
        raise UserError(f"--file={path} cannot be read: {error.strerror}; type --file=PATH") from None


def read_whole(path: Path, encoding: str) -> str:
    """Return the text of a file.

    Raises:
        UserError: it cannot be read, is not in this encoding, or is packed and not whole.
    """
    with closing(Text(_open_input(path), str(path), encoding, KEY)) as text:
        return text.read()
