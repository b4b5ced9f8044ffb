"""Folders that any process may make and all read: whole or not there, checked when they are opened.

A folder appears in one step, by a rename, so that processes that make the same one at once do not disturb each other:
the first one's stays and the others use it. No lock is held, and none can be left behind by a crash.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mistral_ner import files

log = logging.getLogger(__name__)

T = TypeVar("T")

_SUMS = "checksums.json"  # written last: a folder without it is not whole


def opened(folder: Path, what: str, read: Callable[[Path], T]) -> T | None:
    """Return what ``read`` finds in ``folder``; None where there is none, or, with a warning, a damaged one.

    Args:
        what: names the content in the warning.
        read: gets the folder, whose files are as they were written. A ValueError or OSError of it means damage.
    """
    if not folder.exists():
        return None
    try:
        for name, checksum in json.loads((folder / _SUMS).read_text(encoding="utf-8")).items():
            if files.checksum(folder / name) != checksum:
                raise ValueError(f"{name} is not what was written")
        return read(folder)
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s in %s is damaged (%s): made again", what, folder, error)
        return None


def made(folder: Path, what: str, read: Callable[[Path], T], write: Callable[[Path], None]) -> T:
    """Let ``write`` fill a new folder, move it to ``folder`` unless another process was faster, and read what is there.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(temporary)
        files.write_json(temporary / _SUMS, files.checksums(temporary))
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        return _installed(temporary, folder, what, read)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _installed(temporary: Path, folder: Path, what: str, read: Callable[[Path], T]) -> T:
    for attempt in range(10):
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        if (found := opened(folder, what, read)) is not None:
            return found
        # Somebody else's folder is damaged. Moving it aside in one step leaves the place free for a whole one;
        # processes that have its files mapped keep them.
        _discard(folder, Path(f"{temporary}.{attempt}"))
    raise OSError("the folder is damaged again after each repair")


def _discard(folder: Path, aside: Path) -> None:
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another process did it
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()
