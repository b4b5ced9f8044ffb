"""What all file readers share: raw sentences, text by numbered lines, and the error for one place in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mistral_ner.config import UserError

MAX_LINE = 1_000_000  # characters; more is a file of another kind
_MAX_QUOTED = 100  # characters of a line that a message repeats


@dataclass(frozen=True)
class RawSentence:
    """Tokens and tags as they stand in a source; ``lines`` has the line (or row) of each token, for messages."""

    tokens: list[str]
    tags: list[str]
    lines: list[int]


def fault(path: str | Path, line: int, rule: str, found: object, fix: str) -> UserError:
    """Return the error for one place of a source: where, the rule, what was found there, and the fix."""
    text = found if isinstance(found, str) else repr(found)
    text = text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}... ({len(text):,} characters)"
    return UserError(f"{path}:{line}: {rule}, found {text!r}\n  fix: {fix}")


def read_text(path: Path) -> str:
    """Return the UTF-8 text of ``path`` without a byte order mark.

    Raises:
        UserError: it cannot be read, or is no UTF-8 text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})\n  fix: chmod a+r {path}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise fault(
            path,
            line,
            "text must be UTF-8",
            content[max(0, error.start - 20) : error.start + 20],
            f"iconv -f {'UTF-16' if utf16 else 'LATIN1'} -t UTF-8 {path} > {path}.utf8",
        ) from None
    if (place := text.find("\0")) >= 0:
        fix = f"iconv -f UTF-16LE -t UTF-8 {path} > {path}.utf8 if it is UTF-16, else another file"
        found = text[max(0, place - 20) : place + 20]
        raise fault(path, text.count("\n", 0, place) + 1, "text must not hold NUL bytes", found, fix)
    return text


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end). Only a newline ends a line: U+2028 and the like may be tokens."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if len(line) > MAX_LINE:
            fix = "check that this is the right file; data.format=conll, jsonl or parquet names its format"
            raise fault(path, number, f"a line may have {MAX_LINE:,} characters at most", line, fix)
        yield number, line.rstrip("\r")
