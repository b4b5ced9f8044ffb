"""Ends processes and their descendants, and removes their folder, once the process that asked is gone.

Run as a file, to import nothing heavy:

python mistral_ner/hyperopt/cluster/reaper.py FOLDER PID...  with a pipe from the process that asks as standard input
"""

from __future__ import annotations

import contextlib
import select
import shutil
import sys
import time

import psutil

_FIRST, _THEN = 0.5, 5.0  # seconds between looks: Ray starts most of its processes at once
_GRACE = 5.0  # seconds in which they may end by themselves


def main(folder: str, pids: list[int]) -> None:
    """Remember the processes and their descendants until standard input ends; then kill the survivors.

    Args:
        folder: where the processes keep their files; removed in the end.
        pids: the processes.
    """
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
            child.kill()  # psutil compares start times too, so a reused PID is safe
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(pid) for pid in sys.argv[2:]])
