"""What all file readers share: raw sentences, text by numbered lines, and the error for one place in a file."""

from __future__ import annotations

import codecs
import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_ner.errors import UserError

MAX_LINE = 1_000_000  # characters; more is a file of another kind
_MAX_BAD = 10  # lines that one message shows in full
_MAX_QUOTED = 100  # characters of a line that a message repeats


@dataclass(frozen=True)
class RawSentence:
    """Tokens and tags as a source has them; ``lines`` has the line (or row) of each token, for messages.

    Where the source is running text, ``text`` is the sentence's part of it, and ``places`` has each token's start and
    end in ``text``, in characters. ``begins``: it is the first of its document, as the only sentence of a record is.
    """

    tokens: list[str]
    tags: list[str]
    lines: list[int]
    text: str | None = None
    places: list[tuple[int, int]] | None = None
    begins: bool = True

    def part(self, start: int, end: int) -> RawSentence:
        """Return the tokens from ``start`` to ``end`` (not included) as a sentence of their own."""
        tokens, tags, lines = self.tokens[start:end], self.tags[start:end], self.lines[start:end]
        begins = self.begins and start == 0
        if self.text is None or self.places is None:
            return RawSentence(tokens, tags, lines, begins=begins)
        first = self.places[start][0]
        places = [(begin - first, stop - first) for begin, stop in self.places[start:end]]
        return RawSentence(tokens, tags, lines, self.text[first : self.places[end - 1][1]], places, begins)


@dataclass(frozen=True)
class FileRead:
    """What a file holds, the name of its format, and in words which columns were read; ``layout`` has their places.

    ``tagged``: it has tags of a scheme, not spans.
    """

    sentences: list[RawSentence]
    format: str
    columns: str = ""
    layout: Any = None
    tagged: bool = True


def fault(path: str | Path, line: int, rule: str, found: object, fix: str) -> UserError:
    """Return the error for one place of a source: where, the rule, what was found there, and the fix."""
    text = found if isinstance(found, str) else repr(found)
    text = text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}... ({len(text):,} characters)"
    return UserError(f"{path}:{line}: {rule}, found {text!r}\n  fix: {fix}")


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be read: the rule that it breaks, what stands there, and the fix."""

    number: int
    rule: str
    found: str
    fix: str


def faults(path: str | Path, bad: Sequence[BadLine]) -> UserError:
    """Return one error for all bad lines of a source: the first ten in full, then their count, and each fix once."""
    if len(bad) == 1:
        return fault(path, bad[0].number, bad[0].rule, bad[0].found, bad[0].fix)
    shown = [str(fault(path, line.number, line.rule, line.found, "")).partition("\n")[0] for line in bad[:_MAX_BAD]]
    more = [f"... and {len(bad) - _MAX_BAD:,} more"] if len(bad) > _MAX_BAD else []
    fixes = [f"  fix: {fix}" for fix in dict.fromkeys(line.fix for line in bad)]
    return UserError(
        "\n".join([f"{len(bad):,} lines cannot be read:", *(f"  {line}" for line in shown + more), *fixes])
    )


def join_errors(errors: Sequence[UserError]) -> UserError:
    """Return one error for the faults of several files."""
    texts = list(dict.fromkeys(map(str, errors)))
    if len(texts) == 1:
        return errors[0]
    return UserError("\n".join([f"{len(texts)} data files cannot be read:", *texts]))


def plain_suffix(path: Path) -> str:
    """Return a file's suffix in lower case, the one before ``.gz`` of a packed file."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of ``path`` without a byte order mark; a file packed by gzip is unpacked.

    Raises:
        UserError: the file cannot be read, or is not text in this encoding.
    """
    content = _read_bytes(path)
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise fault(
            path,
            content.count(b"\n", 0, error.start) + 1,
            f"text must be {_encoding_name(encoding)} (data.encoding)",
            content[max(0, error.start - 20) : error.start + 20],
            f"data.encoding={_guess_encoding(content)}",
        ) from None
    if (place := text.find("\0")) >= 0:
        fix = "data.encoding=utf-16-le if it is UTF-16, else give another file"
        found = text[max(0, place - 20) : place + 20]
        raise fault(path, text.count("\n", 0, place) + 1, "text must not hold NUL bytes", found, fix)
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})\n  fix: chmod a+r {path}") from None
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: a .gz file must be whole, found {error}\n  fix: pack it again with gzip") from None


def _encoding_name(encoding: str) -> str:
    return codecs.lookup(encoding).name.upper()


def _guess_encoding(content: bytes) -> str:
    """Return a likely encoding of bytes that are not UTF-8: UTF-16 begins with a mark, Windows' text needs none."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in content) else "latin-1"


def is_encodable(text: str) -> bool:
    """Whether text holds whole characters only, not half a surrogate pair, as JSON may have it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def keep_warnings() -> Iterator[list[str]]:
    """Lend a list that gets every warning about the data inside the block; each is logged all the same."""
    keeper, log = _Keeper(), logging.getLogger("mistral_ner.data")
    log.addHandler(keeper)
    try:
        yield keeper.said
    finally:
        log.removeHandler(keeper)


def numbered_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end). Only a newline ends a line: U+2028 and the like may be tokens."""
    for number, line in enumerate(read_text(path, encoding).split("\n"), 1):
        if len(line) > MAX_LINE:
            fix = "check that this is the right file; data.format=conll, jsonl or parquet names its format"
            raise fault(path, number, f"a line may have {MAX_LINE:,} characters at most", line, fix)
        yield number, line.rstrip("\r")
