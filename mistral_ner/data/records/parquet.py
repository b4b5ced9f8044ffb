"""Parquet files with a column of lists of words and one of lists of tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.records.record import check_record, find_keys
from mistral_ner.data.source import RawSentence
from mistral_ner.errors import UserError


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
    return [check_record(path, number, tokens, tags, names) for number, (tokens, tags) in enumerate(rows, 1)]


def _class_names(schema: Any, key: str) -> list[str] | None:
    """Return the names of the ClassLabel feature of column ``key``, which the schema's metadata has as JSON."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = metadata.get("info", {}).get("features", {}).get(key, {})
    except (ValueError, AttributeError):  # not written by datasets: there are no names for numbers
        return None
    inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
    names = inner.get("names") if isinstance(inner, dict) else None
    return [str(name) for name in names] if names else None
