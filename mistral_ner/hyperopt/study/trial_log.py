"""A trial's ``logs.txt``: everything that its process logs while it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def write_trial_log(folder: Path) -> Iterator[None]:
    """Append what the process logs inside the block, at INFO and above, to ``folder/logs.txt``."""
    handler = logging.FileHandler(folder / "logs.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        with suppress(OSError):  # the disk is full; the trial's failure is reported elsewhere
            handler.close()
