"""Reads CoNLL-like files: a token a line, its tag in one of the columns, blank lines between sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mistral_ner.config import DataConfig
from mistral_ner.data.schemes import is_tag
from mistral_ner.data.source import RawSentence, fault, numbered_lines


def read_conll(path: Path, data: DataConfig) -> list[RawSentence]:
    """Read a file with a token a line in columns, and a blank line between sentences."""
    sentences: list[RawSentence] = []
    current = RawSentence([], [], [])
    width = 0
    for number, line in numbered_lines(path):
        columns = _columns(line)
        boundary = not columns or columns[0].startswith("-DOCSTART-")
        if boundary or _is_comment(line, columns, width, data):
            if boundary and current.tokens:
                sentences.append(current)
                current = RawSentence([], [], [])
            continue
        width = width or len(columns)
        token, tag = _token_and_tag(path, number, line, columns, width, data)
        current.tokens.append(token)
        current.tags.append(tag)
        current.lines.append(number)
    return [*sentences, current] if current.tokens else sentences


def _columns(line: str) -> list[str]:
    """Split at tabs where there are any, else at spaces; other white space may be a token."""
    line = line.rstrip(" \t")
    if not line.strip():
        return []
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line.strip(" "))


def _is_comment(line: str, columns: Sequence[str], width: int, data: DataConfig) -> bool:
    """Tell a comment from a token such as ``#`` or ``#news``, which has the columns of a token and a tag in its place.

    ``width`` is the number of columns of the tokens before, 0 at the start of a file.
    """
    if not line.startswith("#"):
        return False
    if len(columns) < 2 or (width and len(columns) != width):
        return True
    tag = _cell(columns, data.tag_column)
    # before the first token line the width is unknown: "# sent_id = 7" and "# text is O" count as comments there
    return tag is None or not is_tag(tag) or (not width and "\t" not in line and len(columns) > 2)


def _cell(columns: Sequence[str], place: int) -> str | None:
    return columns[place] if -len(columns) <= place < len(columns) else None


def _token_and_tag(
    path: Path, number: int, line: str, columns: Sequence[str], width: int, data: DataConfig
) -> tuple[str, str]:
    if len(columns) < 2:
        fix = "give every token line a token and a tag, or name the format with data.format=jsonl or parquet"
        raise fault(path, number, "a token line needs at least two columns", line, fix)
    if len(columns) != width:
        fix = "separate the columns by tabs if tokens hold spaces, and sentences by blank lines"
        raise fault(path, number, f"a line must have {width} columns like the lines before", line, fix)
    token, tag = _cell(columns, data.token_column), _cell(columns, data.tag_column)
    if token is None or tag is None:
        key = "token_column" if token is None else "tag_column"
        fix = f"data.{key}=N with N from 0 to {width - 1}"
        raise fault(path, number, f"data.{key}={getattr(data, key)} is not among the {width} columns", line, fix)
    if not token:
        raise fault(path, number, "a token must not be empty", line, "write a token before the tag")
    if not is_tag(tag):
        right = [place for place, cell in enumerate(columns) if is_tag(cell) and place != data.token_column]
        fix = (
            f"data.tag_column={right[0]}"
            if right
            else "write tags as O, B-TYPE and I-TYPE; data.tag_column=N picks one"
        )
        raise fault(
            path, number, f"unknown tag {tag!r}: a tag must be O or one of B- I- E- S- L- U- and a type", line, fix
        )
    return token, tag
