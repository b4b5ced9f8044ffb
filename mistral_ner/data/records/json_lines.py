"""JSON records, one a line or in one array: words with tags, or text with the spans of annotation tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.records.record import check_record, find_keys, holds_tags
from mistral_ner.data.source import FileRead, RawSentence, fault, numbered_lines, read_text
from mistral_ner.data.spans.align import log_counts, to_sentences
from mistral_ner.data.spans.tools import name_tool, read_documents

_FIX = "write one JSON object a line, or name the format with data.format=conll or parquet"

Record = tuple[int, dict[str, Any]]  # with its line, or its place in the array


def read_json(path: Path, data: DataConfig) -> FileRead:
    """Return the sentences of a file of JSON records, whose keys say what they hold.

    Raises:
        UserError: names what cannot be read.
    """
    records = list(read_records(path, data))
    if not records:
        return FileRead([], "jsonl")
    first = records[0][1]
    tool = None if holds_tags(first, data) else name_tool([record for _, record in records])
    if tool is not None:
        documents = read_documents(path, records)
        sentences = to_sentences(path, documents, data)
        log_counts(path, documents.counts)
        return FileRead(sentences, tool, "text with spans", tagged=False)
    tokens_key, tags_key = find_keys(f"{path}:{records[0][0]}", list(first), data)
    return FileRead(_read_tokens(path, records, tokens_key, tags_key), "JSON", f"words {tokens_key}, tags {tags_key}")


def _read_tokens(path: Path, records: list[Record], tokens_key: str, tags_key: str) -> list[RawSentence]:
    sentences = []
    for number, record in records:
        for key in (tokens_key, tags_key):
            if key not in record:
                rule = f"every record needs the key {key!r}"
                raise fault(path, number, rule, json.dumps(record), f"add {key!r} to it")
        sentences.append(check_record(path, number, record[tokens_key], record[tags_key]))
    return sentences


def read_records(path: Path, data: DataConfig) -> Iterator[Record]:
    """Yield the records of a file: JSON objects, one a line or in one array.

    spaCy's pairs ``["text", {"entities": ...}]`` in an array come as objects with the key ``text``.

    Raises:
        UserError: names the line that is no such record.
    """
    text = read_text(path, data.encoding)
    whole = text.lstrip().startswith("[")
    for number, line in iter([(1, text)]) if whole else numbered_lines(path, data.encoding):
        if line.strip():
            value = parse(path, number, line, _FIX)
            for place, record in enumerate(value if isinstance(value, list) else [value], number):
                yield place, as_record(path, place, record, _FIX)


def parse(path: str | Path, number: int, line: str, fix: str) -> Any:
    """Return the JSON value of a line, or of a whole file from line ``number`` on.

    Raises:
        UserError: names the line that is not JSON.
    """
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        rule = f"a line must be valid JSON ({error.msg})"
        raise fault(path, number + error.lineno - 1, rule, line, fix) from None
    except RecursionError:
        raise fault(path, number, "a record must be a JSON object, not lists in lists", line, fix) from None


def is_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def as_record(path: str | Path, place: int, record: Any, fix: str) -> dict[str, Any]:
    """Return a JSON object, or one of spaCy's pairs as an object with the key ``text``.

    Raises:
        UserError: it is neither.
    """
    if isinstance(record, list) and len(record) == 2 and isinstance(record[0], str) and isinstance(record[1], dict):
        return {"text": record[0], **record[1]}
    if not isinstance(record, dict):
        raise fault(path, place, "a record must be a JSON object", record, fix)
    return record
