"""What bench/campaign.py kills: a search with an objective of arithmetic, in processes that can be told to die.

An order says who dies in which write: ``of`` is a part of the file's path, ``nth`` counts the writes of such files
from 1, and ``cut`` is the share of a journal's last line, or of another file, that never gets into it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from arithmetic import config, value_of

from mistral_ner import locks
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.study.storage import Journal
from mistral_ner.training.checkpoint import Progress, reports_on_disk

ORDERS, DEATHS = "orders", "deaths.txt"  # beside the study's folder


def objective(seconds: float) -> Callable[[Any, Callable[[int, dict[str, float]], Any]], None]:
    """Return an objective that notes the begin and the end of every report, and goes on where it was cut off."""

    def arithmetic(trial: Any, report: Callable[[int, dict[str, float]], Any]) -> None:
        folder = Path(trial.output_dir)
        progress = Progress(folder, trial.training.mode, "eval_f1", reports=reports_on_disk(folder))
        for number in range(len(progress.reports) + 1, trial.training.reports + 1):
            take_an_order(folder.parents[1])
            note(folder / "calls.txt", f"begin {number}")
            time.sleep(seconds)
            metrics = {"eval_f1": value_of(trial, number), "eval_seconds": 1.0}
            progress.reports.append({"report": number, **metrics})
            progress._write()
            note(folder / "calls.txt", f"done {number}")
            if report(number, metrics):
                return

    return arithmetic


def note(path: Path, line: str) -> None:
    """Append a line in one write."""
    with path.open("a") as file:
        file.write(f"{line}\n")


def take_an_order(folder: Path) -> None:
    """Follow the order that lies in ``folder``, if there is one; each is taken by one process."""
    for path in sorted((folder / ORDERS).glob("*.json")):
        taken = path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            path.rename(taken)
            die_in_a_write(folder, **json.loads(taken.read_text()))
            return


def die_in_a_write(folder: Path, who: str, of: str, nth: int, cut: float) -> None:
    """Have this process killed in a write: of the journal, or of a file before it is renamed into its place."""
    on_disk, append, left = os.fsync, Journal.append_logs, nth

    def die(path: Path, written: int) -> None:
        os.truncate(path, path.stat().st_size - round(cut * written))
        note(folder / DEATHS, f"{who} in {of}, the {nth}th, cut {cut:.2f}")
        os.kill(os.getpid(), signal.SIGKILL)

    def fsync(handle: int) -> None:
        nonlocal left
        path = Path(f"/proc/self/fd/{handle}").readlink()
        left -= of in str(path)
        if of in str(path) and left == 0:
            die(path, path.stat().st_size)
        on_disk(handle)

    def append_logs(journal: Journal, logs: list[dict[str, Any]]) -> None:
        nonlocal left
        left -= 1
        if left == 0:  # nobody else may write before the lock is let go of
            last = len(json.dumps(logs[-1], separators=(",", ":"))) + 1
            locks.hold_for_a_write = die_holding(lambda: die(journal.path, last))
        append(journal, logs)

    if of == "study.journal":
        Journal.append_logs = append_logs  # type: ignore[method-assign]
    else:
        os.fsync = fsync


def die_holding(die: Callable[[], None]) -> Callable[[Path], AbstractContextManager[None]]:
    """Return a ``hold_for_a_write`` whose process dies after the write, while it still holds the lock."""
    hold = locks.hold_for_a_write

    @contextlib.contextmanager
    def held(path: Path) -> Iterator[None]:
        with hold(path):
            yield
            die()

    return held


def live(folder: Path, strategy: str, hyperopt: dict[str, Any], seconds: float, order: dict[str, Any] | None) -> None:
    """Begin the search in ``folder``, or go on with it, as its user would."""
    if order is not None:
        die_in_a_write(folder, **order)
    resume = (folder / "s" / "config.yaml").exists()
    search(config(folder, strategy, resume=resume, **hyperopt), objective(seconds))


if __name__ == "__main__":
    import campaign_life  # by its name, so that workers import what they are sent instead of unpickling a copy

    told = json.loads(sys.argv[1])
    campaign_life.live(Path(told.pop("folder")), **told)
