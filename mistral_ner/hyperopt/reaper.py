"""Ends what a process has started, once that process is gone; run as a file, so that nothing heavy is imported.

python mistral_ner/hyperopt/reaper.py PID  with a pipe from that process as standard input
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

import psutil

_FIRST, _THEN = 0.5, 5.0  # seconds between looks: Ray starts most of its processes at once
_GRACE = 5.0  # seconds in which they may end by themselves


def main(pid: int) -> None:
    """Remember the descendants of ``pid`` until standard input ends; then kill those that stay."""
    known: set[psutil.Process] = set()
    looks = 0
    while not select.select([sys.stdin], [], [], _FIRST if looks < 10 else _THEN)[0]:
        looks += 1
        with contextlib.suppress(psutil.Error):
            known.update(child for child in psutil.Process(pid).children(recursive=True) if child.pid != os.getpid())
    deadline = time.monotonic() + _GRACE
    while any(child.is_running() for child in known) and time.monotonic() < deadline:
        time.sleep(0.2)
    for child in known:
        with contextlib.suppress(psutil.Error):
            child.kill()  # psutil knows a process by its start time too: a number that is used again is safe


if __name__ == "__main__":
    main(int(sys.argv[1]))
