"""Readers of the three file formats: CoNLL-like columns, JSON lines and Parquet.

Each returns :class:`RawSentence` objects with the tags as written; :mod:`mistral_ner.data.read` turns them into IOB2.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mistral_ner.config import DataConfig, UserError
from mistral_ner.data.conll import read_conll
from mistral_ner.data.schemes import is_tag
from mistral_ner.data.source import RawSentence, fault, numbered_lines, read_text

log = logging.getLogger(__name__)

OTHER_TOKENS_KEYS = ("tokens", "words")
OTHER_TAGS_KEYS = ("ner_tags", "tags", "labels")


def read_file(path: Path, data: DataConfig) -> list[RawSentence]:
    """Return the sentences of ``path`` in the format that ``data.format`` or its suffix says.

    Raises:
        UserError: names the file, the line and its content, and what to do.
    """
    kind = data.format
    if kind == "auto":
        kind = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}.get(path.suffix.lower(), "conll")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: a data file must hold sentences, found an empty file\n  fix: give another file")
    readers: dict[str, Callable[[Path, DataConfig], list[RawSentence]]] = {
        "conll": read_conll,
        "jsonl": read_jsonl,
        "parquet": read_parquet,
    }
    sentences = readers[kind](path, data)
    if not sentences:
        raise UserError(f"{path}: a data file must hold sentences, found none in it as {kind}\n  fix: data.format=...")
    return sentences


def read_jsonl(path: Path, data: DataConfig) -> list[RawSentence]:
    """Read JSON objects, one a line or in one array, with a list of tokens and a list of tags each."""
    records = list(_json_records(path))
    if not records:
        return []
    first = records[0][1]
    tokens_key, tags_key = find_keys(f"{path}:{records[0][0]}", list(first), data)
    sentences = []
    for number, record in records:
        for key in (tokens_key, tags_key):
            if key not in record:
                raise fault(
                    path, number, f"every record needs the key {key!r}", json.dumps(record), f"add {key!r} to it"
                )
        sentences.append(checked(path, number, record[tokens_key], record[tags_key]))
    return sentences


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    fix = "write one JSON object a line, or name the format with data.format=conll or parquet"
    lines = numbered_lines(path)
    if read_text(path).lstrip().startswith("["):
        lines = iter([(1, read_text(path))])
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise fault(
                path, number + error.lineno - 1, f"a line must be valid JSON ({error.msg})", line, fix
            ) from None
        except RecursionError:
            raise fault(path, number, "a record must be a JSON object, not lists in lists", line, fix) from None
        for place, record in enumerate(value if isinstance(value, list) else [value], number):
            if not isinstance(record, dict):
                raise fault(path, place, "a record must be a JSON object", record, fix)
            yield place, record


def read_parquet(path: Path, data: DataConfig) -> list[RawSentence]:
    """Read a Parquet file; whole numbers as tags need the ClassLabel names that ``datasets`` writes into its schema."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.lib.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable Parquet file ({reason})\n  fix: data.format=conll or jsonl") from None
    tokens_key, tags_key = find_keys(str(path), table.column_names, data)
    names = _class_names(table.schema, tags_key)
    rows = zip(table.column(tokens_key).to_pylist(), table.column(tags_key).to_pylist(), strict=True)
    return [checked(path, number, tokens, tags, names) for number, (tokens, tags) in enumerate(rows, 1)]


def _class_names(schema: Any, key: str) -> list[str] | None:
    """Return the names of the ClassLabel feature of column ``key``, which lie as JSON in the schema's metadata."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = metadata.get("info", {}).get("features", {}).get(key, {})
    except (ValueError, AttributeError):  # not what datasets writes: numbers as tags have no names then
        return None
    inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
    names = inner.get("names") if isinstance(inner, dict) else None
    return [str(name) for name in names] if names else None


def find_keys(where: str, present: Sequence[str], data: DataConfig) -> tuple[str, str]:
    """Return the keys of tokens and tags among ``present``: the configured ones, else common ones, with a log line."""
    found = []
    for setting, wanted, others in (
        ("tokens_key", data.tokens_key, OTHER_TOKENS_KEYS),
        ("tags_key", data.tags_key, OTHER_TAGS_KEYS),
    ):
        key = next((name for name in (wanted, *others) if name in present), None)
        if key is None:
            raise UserError(
                f"{where}: there must be a column {wanted!r} (data.{setting}), found {', '.join(present) or 'none'}\n"
                f"  fix: data.{setting}=COLUMN"
            )
        if key != wanted:
            log.info("%s has no %r: reading %r instead (data.%s=%s says so)", where, wanted, key, setting, key)
        found.append(key)
    return found[0], found[1]


def checked(path: str | Path, number: int, tokens: Any, tags: Any, names: Sequence[str] | None = None) -> RawSentence:
    """Return a record as a sentence; ``names`` turns whole numbers into tags.

    Raises:
        UserError: tokens or tags are no lists of text, differ in length, or a tag is unknown.
    """
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise fault(path, number, "tokens must be a list of texts", tokens, "data.tokens_key=COLUMN")
    if not isinstance(tags, list):
        raise fault(path, number, "tags must be a list of texts", tags, "data.tags_key=COLUMN")
    if not all(tokens):
        raise fault(path, number, "a token must not be empty", tokens, "take it out, with its tag")
    if not _encodable(tokens):
        raise fault(path, number, "a token must be whole characters, not half a surrogate pair", tokens, "mend it")
    if len(tokens) != len(tags):
        rule = f"tokens and tags must have one length, not {len(tokens)} and {len(tags)}"
        raise fault(path, number, rule, " ".join(tokens), "give each token one tag")
    texts = [_tag_text(path, number, tag, names) for tag in tags]
    return RawSentence(tokens, texts, [number] * len(tokens))


def _encodable(tokens: Sequence[str]) -> bool:
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError:
        return False
    return True


def _tag_text(path: str | Path, number: int, tag: Any, names: Sequence[str] | None) -> str:
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            fix = "write the tags as text (O, B-PER, ...), or as Parquet with a ClassLabel feature of datasets"
            raise fault(path, number, "tags are numbers whose names the file does not say", tag, fix)
        if not 0 <= tag < len(names):
            raise fault(path, number, f"a tag number must be from 0 to {len(names) - 1}", tag, "mend the number")
        tag = names[tag]
    if not isinstance(tag, str) or not is_tag(tag):
        fix = "write tags as O, B-TYPE and I-TYPE; data.tags_key=COLUMN picks another column"
        raise fault(path, number, "a tag must be O or one of B- I- E- S- L- U- and a type", tag, fix)
    return tag
