"""Encoded splits on disk: Arrow files in a folder named by their fingerprint, memory-mapped by every process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from mistral_ner import files
from mistral_ner.errors import UserError

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "first_subwords": pa.list_(pa.int32()),
        "sentence": pa.int32(),
    }
)
_WHAT = "the encoded data"

Columns = Mapping[str, list[Any]]


def load_or_build(folder: Path, build: Callable[[], Mapping[str, Columns]]) -> dict[str, datasets.Dataset]:
    """Return the datasets in ``folder``, by split; if it is missing or damaged, ``build`` gives their columns.

    Raises:
        UserError: the folder cannot be written.
    """
    found = files.open_if_whole(folder, _WHAT, _read)
    if found is not None:
        log.info("encoded data read from %s", folder)
        return found
    splits = build()
    try:
        return files.build_folder(folder, _WHAT, _read, lambda temporary: _write(temporary, splits))
    except OSError as error:
        raise UserError(
            f"data.cache_dir: cannot write below {folder.parent} ({error})\n  fix: data.cache_dir=DIR"
        ) from None


def _write(folder: Path, splits: Mapping[str, Columns]) -> None:
    for name, columns in splits.items():
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(pa.table(dict(columns), schema=SCHEMA))  # one batch, which Rows reads without a copy


def _read(folder: Path) -> dict[str, datasets.Dataset]:
    try:
        paths = sorted(folder.glob("*.arrow"))
        return {path.stem: datasets.Dataset.from_file(str(path)) for path in paths}
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
