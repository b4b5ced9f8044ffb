"""What all file readers share: raw sentences, text by numbered lines, and the error for one place in a file."""

from __future__ import annotations

import codecs
import gzip
import io
import logging
import string
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from mistral_ner.errors import UserError

log = logging.getLogger(__name__)

Line = tuple[int, str]

_MAX_BAD = 10  # lines that one message shows in full
_MAX_QUOTED = 100  # characters of a line that a message repeats
_PIECE = 1 << 16  # bytes that are read at once


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


class Text:
    """The text of a stream of bytes, read at once or line by line, without its byte order mark.

    Args:
        stream: open, and unpacked.
        where: names it in messages.
        encoding: by Python's name.
        key: what the person sets to name another encoding.
    """

    def __init__(self, stream: BinaryIO, where: str, encoding: str = "utf-8", key: str = "data.encoding") -> None:
        self._stream, self._where, self._key = stream, where, key
        self.encoding = encoding
        self._text = io.TextIOWrapper(stream, encoding, newline="\n")

    def read(self) -> str:
        """Return all of it.

        Raises:
            UserError: it is not in this encoding, or a packed file is not whole.
        """
        with self._name_damage(0):
            self._compare_with_utf8()
            return self._text.read().removeprefix("\ufeff")

    def lines(self) -> Iterator[Line]:
        """Yield (line number, line without its end). Only a newline ends a line: U+2028 and the like may be tokens.

        Raises:
            UserError: as :func:`read`; the lines before that place are yielded, save those near it.
        """
        with self._name_damage(0):
            self._compare_with_utf8()
        number = 0
        while True:
            with self._name_damage(number):
                line = self._text.readline()
            if not line:
                return
            number += 1
            if number == 1:
                line = line.removeprefix("\ufeff")
                self._refuse_old_ends(line)
            yield number, line.removesuffix("\n").rstrip("\r")

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def _refuse_old_ends(self, line: str) -> None:
        """Refuse a file without a newline whose lines end with carriage returns, which would be one line."""
        if not line.endswith("\n") and "\r" in line.rstrip("\r"):
            rule, fix = "lines must end with a newline, not with a carriage return alone", "tr '\\r' '\\n' < OLD > NEW"
            raise fault(self._where, 1, rule, line[: line.rindex("\r")], fix)

    @contextmanager
    def _name_damage(self, read: int) -> Iterator[None]:
        """Raise a UserError for what cannot be decoded; ``read`` is how many lines were read before."""
        try:
            yield
        except UnicodeError as error:
            raise self._fault(error, read) from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            rule, fix = f"a .gz file must be whole, found {error}", "pack it again with gzip"
            raise UserError(f"{self._where}: {rule}\n  fix: {fix}") from None

    def _fault(self, error: UnicodeError, read: int) -> UserError:
        rule = f"text must be {codecs.lookup(self.encoding).name.upper()} ({self._key})"
        if not isinstance(error, UnicodeDecodeError):  # UTF-16 without a byte order mark
            return fault(self._where, read + 1, rule, str(error), self._fix(b""))
        before, here = error.object[: error.start], error.object[max(0, error.start - 20) : error.start + 20]
        line = read + before.decode(self.encoding, "ignore").count("\n") + 1
        return fault(self._where, line, rule, here.decode(self.encoding, "replace"), self._fix(error.object))

    def _fix(self, piece: bytes) -> str:
        pieces: Iterable[bytes] = [piece]
        if self._stream.seekable():
            self._stream.seek(0)
            pieces = iter(lambda: self._stream.read(_PIECE), b"")
        guess = _guess_encoding(pieces)
        if guess is None or codecs.lookup(guess) == codecs.lookup(self.encoding):
            return (
                f"{self._key}=NAME of the encoding in which it was written, such as cp1251, gb18030 or shift_jis; "
                "where only this line is wrong, mend it; a file that is not text has to be saved as one"
            )
        return f"{self._key}={guess}"

    def _compare_with_utf8(self) -> None:
        """Warn where another encoding would read UTF-8, which each of them can, as other letters."""
        peek = getattr(self._stream, "peek", None)
        if peek is None or codecs.lookup(self.encoding).name.startswith("utf-8"):
            return
        start = peek(_PIECE)
        try:
            if codecs.getincrementaldecoder("utf-8")().decode(start).isascii():
                return
        except UnicodeDecodeError:
            return
        rule = "%s: read as %s (%s), though what it holds beyond ASCII is UTF-8: wrong letters, unless you set %s=utf-8"
        log.warning(rule, self._where, codecs.lookup(self.encoding).name.upper(), self._key, self._key)


def open_bytes(path: Path) -> BinaryIO:
    """Open a file to read; one that is packed by gzip is unpacked while it is read.

    Raises:
        OSError: it cannot be read.
    """
    stream = path.open("rb", _PIECE)
    if not is_packed(stream):
        return stream
    stream.close()
    return cast(BinaryIO, gzip.open(path))


def is_packed(stream: BinaryIO) -> bool:
    """Whether a stream begins as gzip does; nothing is taken from it."""
    return isinstance(stream, io.BufferedReader) and stream.peek(2)[:2] == b"\x1f\x8b"


@contextmanager
def _open_text(path: Path, encoding: str) -> Iterator[Text]:
    try:
        with closing(open_bytes(path)) as stream:
            yield Text(stream, str(path), encoding)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})\n  fix: chmod a+r {path}") from None


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of ``path`` without a byte order mark; a file packed by gzip is unpacked.

    Raises:
        UserError: the file cannot be read, or is not text in this encoding.
    """
    with _open_text(path, encoding) as text:
        content = text.read()
    if (place := content.find("\0")) >= 0:
        raise _holds_nul(path, content.count("\n", 0, place) + 1, content, place)
    return content


def numbered_lines(path: Path, encoding: str = "utf-8") -> Iterator[Line]:
    """Yield (line number, line without its end) of ``path``, as :class:`Text` has them.

    Raises:
        UserError: as :func:`read_text`.
    """
    with _open_text(path, encoding) as text:
        for number, line in text.lines():
            if (place := line.find("\0")) >= 0:
                raise _holds_nul(path, number, line, place)
            yield number, line


def _holds_nul(path: Path, line: int, text: str, place: int) -> UserError:
    fix = "data.encoding=utf-16-le if it is UTF-16, else give another file"
    return fault(path, line, "text must not hold NUL bytes", text[max(0, place - 20) : place + 20], fix)


def _guess_encoding(pieces: Iterable[bytes]) -> str | None:
    """Return the encoding that text seems to have; None if it is none of the most frequent ones.

    UTF-16 begins with a mark, or half of its bytes are 0. UTF-8 is seldom valid by chance, so that a file that has both
    valid and other bytes mixes encodings. cp1252 is latin-1 with letters for all but five of the bytes from 0x80 to
    0x9f, which are control characters there. Both are of languages that write most letters in ASCII: where other bytes
    prevail, it is text in Cyrillic, Greek or Chinese letters.
    """
    utf8: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
    seen: set[int] = set()
    mixed, beyond, letters = False, 0, 0
    for place, piece in enumerate(pieces):
        if place == 0 and piece[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
        if place == 0 and piece.count(0) * 4 > len(piece):  # half of a Latin letter
            return "utf-16-le" if piece.find(0) % 2 else "utf-16-be"
        seen |= set(piece)
        mixed = mixed or not piece.decode("utf-8", "ignore").isascii()
        beyond += len(piece) - len(piece.translate(None, _BEYOND_ASCII))
        letters += len(piece) - len(piece.translate(None, string.ascii_letters.encode()))
        try:
            if utf8 is not None:
                utf8.decode(piece)
        except UnicodeDecodeError:
            utf8 = None
    if utf8 is not None:
        return "utf-8"
    if mixed or beyond > letters or seen & {0, 0x81, 0x8D, 0x8F, 0x90, 0x9D}:
        return None
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in seen) else "latin-1"


_BEYOND_ASCII = bytes(range(0x80, 0x100))


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
