"""Encoded splits on disk: Arrow files in a folder named by their fingerprint, memory-mapped by every process.

A folder appears in one step, by a rename, so that processes that encode the same data at once do not disturb each
other: the first one's folder stays and the others use it. No lock is held, and none can be left behind by a crash.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from mistral_ner.config import UserError

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "first_subwords": pa.list_(pa.int32()),
        "sentence": pa.int32(),
    }
)
_ROWS_AT_ONCE = 1000
_CHUNK = 1 << 20  # bytes

Columns = Mapping[str, list[Any]]


def load_or_build(folder: Path, build: Callable[[], Mapping[str, Columns]]) -> dict[str, datasets.Dataset]:
    """Return the datasets in ``folder``, by split; where it is missing or damaged, ``build`` makes their columns.

    Raises:
        UserError: the folder cannot be written.
    """
    found = _load(folder)
    if found is not None:
        log.info("encoded data read from %s", folder)
        return found
    splits = build()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"data.cache_dir: cannot write below {folder.parent} ({error})\n  fix: data.cache_dir=DIR"
        ) from None
    try:
        _write(temporary, splits)
        return _install(temporary, folder)
    except OSError as error:
        raise UserError(f"data.cache_dir: cannot write {folder} ({error})\n  fix: data.cache_dir=PATH") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _install(temporary: Path, folder: Path) -> dict[str, datasets.Dataset]:
    """Move ``temporary`` to ``folder`` unless another process was faster, and load what is there then."""
    for attempt in range(10):
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        if (found := _load(folder)) is not None:
            return found
        # Somebody else's folder is damaged. Moving it aside in one step leaves the place free for a whole one;
        # processes that have its files mapped keep them.
        _discard(folder, f"{temporary}.{attempt}")
    raise OSError("the folder is damaged again after each repair")


def _discard(folder: Path, aside: str) -> None:
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another process did it
    if Path(aside).is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        Path(aside).unlink()


def _write(folder: Path, splits: Mapping[str, Columns]) -> None:
    sums = {}
    for name, columns in splits.items():
        path = folder / f"{name}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(pa.table(dict(columns), schema=SCHEMA), max_chunksize=_ROWS_AT_ONCE)
        sums[name] = _checksum(path)
    # written last: a folder without it is not whole
    (folder / "checksums.json").write_text(json.dumps(sums), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _load(folder: Path) -> dict[str, datasets.Dataset] | None:
    """Return the memory-mapped datasets in ``folder``, or None where there are none, or damaged ones."""
    if not folder.exists():
        return None
    try:
        sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
        for name, checksum in sums.items():
            if _checksum(folder / f"{name}.arrow") != checksum:
                raise ValueError(f"{name}.arrow is not what was written")
        return {name: datasets.Dataset.from_file(str(folder / f"{name}.arrow")) for name in sums}
    except (OSError, ValueError, AttributeError, pa.ArrowException) as error:
        log.warning("the encoded data in %s is damaged (%s): encoding again", folder, error)
        return None


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
