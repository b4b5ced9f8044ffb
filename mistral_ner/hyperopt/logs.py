"""A trial's ``logs.txt``: everything that is logged in its process while it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def trial_logs(folder: Path) -> Iterator[None]:
    """Append the process's log, from INFO upwards, to ``folder/logs.txt``."""
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
        with suppress(OSError):  # a full disk: what broke the trial is told by other means
            handler.close()
