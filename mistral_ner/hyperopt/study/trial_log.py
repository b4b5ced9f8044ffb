"""A trial's ``logs.txt``: everything that its process logs while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def write_trial_log(folder: Path, this_thread: bool = False) -> Iterator[None]:
    """Append what the process logs inside the block, at INFO and above, to ``folder/logs.txt``.

    Args:
        folder: the trial's.
        this_thread: only what this thread logs, where other trials run in the same process.
    """
    handler = logging.FileHandler(folder / "logs.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    if this_thread:
        own = threading.get_ident()
        handler.addFilter(lambda record: record.thread == own)
    root = logging.getLogger()
    with _lock:
        if not _open:
            _level.append(root.level)
            root.setLevel(min(root.level, logging.INFO))
        _open.append(handler)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with _lock:
            _open.remove(handler)
            if not _open:
                root.setLevel(_level.pop())
        with suppress(OSError):  # the disk is full; the trial's failure is reported elsewhere
            handler.close()


_lock = threading.Lock()
_open: list[logging.Handler] = []  # logs of the trials that run in this process
_level: list[int] = []  # the root's before them
