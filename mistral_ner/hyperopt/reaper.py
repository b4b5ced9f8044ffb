"""Ends processes and all they started, once the process that asked is gone; run as a file: nothing heavy is imported.

python mistral_ner/hyperopt/reaper.py PID...  with a pipe from the process that asks as standard input
"""

from __future__ import annotations

import contextlib
import select
import sys
import time

import psutil

_FIRST, _THEN = 0.5, 5.0  # seconds between looks: Ray starts most of its processes at once
_GRACE = 5.0  # seconds in which they may end by themselves


def main(pids: list[int]) -> None:
    """Remember the processes and their descendants until standard input ends; then kill those that stay."""
    known: set[psutil.Process] = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            known.add(psutil.Process(pid))
    roots = list(known)
    looks = 0
    while not select.select([sys.stdin], [], [], _FIRST if looks < 10 else _THEN)[0]:
        looks += 1
        for root in roots:
            with contextlib.suppress(psutil.Error):
                known.update(root.children(recursive=True))
    deadline = time.monotonic() + _GRACE
    while any(child.is_running() for child in known) and time.monotonic() < deadline:
        time.sleep(0.2)
    for child in known:
        with contextlib.suppress(psutil.Error):
            child.kill()  # psutil knows a process by its start time too: a number that is used again is safe


if __name__ == "__main__":
    main([int(pid) for pid in sys.argv[1:]])
