"""Finds the format of a file and reads it: columns, JSON, Parquet or brat.

Every reader returns :class:`RawSentence` objects with the tags as written; :mod:`mistral_ner.data.read` turns them
into IOB2.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mistral_ner.config.data_keys import FORMAT_OF_SUFFIX
from mistral_ner.config.schema import DataConfig
from mistral_ner.data.columns.layout import Layout
from mistral_ner.data.columns.lines import read_csv, read_lines
from mistral_ner.data.columns.read import read_columns
from mistral_ner.data.records.json_lines import is_object, read_json
from mistral_ner.data.records.parquet import read_parquet
from mistral_ner.data.source import FileRead, numbered_lines, plain_suffix
from mistral_ner.data.spans.brat import is_brat, read_brat
from mistral_ner.errors import UserError


def read_file(path: Path, data: DataConfig, like: Layout | None = None) -> FileRead:
    """Return the sentences of ``path`` in the format that ``data.format``, its suffix and what it holds say.

    Args:
        path: a file, or a folder of brat's pairs of files.
        data: the keys of format and columns.
        like: the columns of the training file, which decide where several of this file could be the tags.

    Raises:
        UserError: names the file, the line and its content, and what to do.
    """
    kind = format_of(path, data)
    if path.is_file() and path.stat().st_size == 0 and kind != "brat":
        raise UserError(f"{path}: a data file must hold sentences, found an empty file\n  fix: give another file")
    if kind in ("conll", "csv"):
        found = _read_columns(path, kind, data, like)
    elif kind == "jsonl":
        found = read_json(path, data)
    elif kind == "brat":
        found = read_brat(path, data)
    else:
        found = FileRead(read_parquet(path, data), kind)
    if not found.sentences:
        fix = "data.format=..." if found.tagged else "give a file with texts that were annotated and accepted"
        raise UserError(f"{path}: a data file must hold sentences, found none in it as {found.format}\n  fix: {fix}")
    return found


def format_of(path: Path, data: DataConfig) -> str:
    """Return ``data.format``; where it is auto, what suffix, ``.ann`` file beside it, or first line say."""
    if data.format != "auto":
        return data.format
    if is_brat(path):
        return "brat"
    known = FORMAT_OF_SUFFIX.get(plain_suffix(path))
    return known or ("jsonl" if path.is_file() and _begins_with_record(path, data.encoding) else "conll")


def _begins_with_record(path: Path, encoding: str) -> bool:
    try:
        return is_object(next((line for _, line in numbered_lines(path, encoding) if line.strip()), ""))
    except UserError:  # the reader of the whole file says what is wrong
        return False


def _read_columns(path: Path, kind: str, data: DataConfig, like: Layout | None) -> FileRead:
    typed = [str(name) for name in (data.token_column, data.tag_column) if name is not None]
    named = [name for name in typed if not name.lstrip("-").isdecimal()]
    lines = (read_csv if kind == "csv" else read_lines)(path, named, data.encoding)
    sentences, layout = read_columns(lines, data, like)
    if layout is None:
        return FileRead([], kind)
    columns = f"words in column {lines.name(layout.token)}, tags in column {lines.name(layout.tag)}"
    return FileRead(sentences, kind, columns, replace(layout, names=tuple(lines.names), width=lines.width))
