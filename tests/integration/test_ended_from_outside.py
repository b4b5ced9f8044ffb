"""A search in a process of its own, which is ended from outside or is not the only one, and goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from arithmetic import STRATEGIES, run, states, value_of
from optuna.trial import TrialState

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.study.opening import read_study
from tests import warm

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("ray_for_all")


SCRIPT = """
import logging
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from arithmetic import arithmetic, config
from pathlib import Path
from mistral_ner.hyperopt import search
logging.basicConfig(level="WARNING")
{more}
search(config(Path({folder!r}), {strategy!r}, **{hyperopt!r}), {objective})
"""


def start(
    folder: Path,
    strategy: str,
    seconds: float = 0.1,
    objective: str | None = None,
    more: str = "",
    **hyperopt: Any,
) -> warm.Process:
    """Start a search of six trials in a process of its own; ``more`` is code that ``objective`` needs."""
    code = script(folder, strategy, objective or f"arithmetic(seconds={seconds!r})", more, **hyperopt)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return warm.Process(["-c", code], Path.cwd(), env)


def script(folder: Path, strategy: str, objective: str, more: str = "", **hyperopt: Any) -> str:
    """Return the code of a search of six trials in ``folder``, for a process of its own."""
    return SCRIPT.format(
        root=str(ROOT),
        tests=str(Path(__file__).parent),
        folder=str(folder),
        strategy=strategy,
        objective=objective,
        more=more,
        hyperopt={"num_trials": 6, **hyperopt},
    )


def until_reported(folder: Path, reports: int, process: warm.Process) -> None:
    deadline = time.monotonic() + 400  # on a busy machine torch alone takes a minute to import
    while time.monotonic() < deadline and process.poll() is None:
        if sum(len(path.read_text().split()) for path in folder.glob("s/trial_*/calls.txt")) >= reports:
            return
        time.sleep(0.02)
    raise AssertionError(
        f"no {reports} reports in time: {process.communicate()[0] if process.poll() is not None else ''}"
    )


def exact(folder: Path, trials: int) -> None:
    """Every trial ended once, no report was made twice, none is missing from the study."""
    found = read_study(folder / "s").trials
    assert [trial.number for trial in found] == list(range(trials))
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in found), states(found)
    for trial in found:
        calls = (folder / "s" / f"trial_{trial.number:04d}" / "calls.txt").read_text().split()
        assert sorted(set(calls), key=int) == [str(k) for k in range(1, len(trial.intermediate_values) + 1)]
        values = {k: value_of(trial.params, k) for k in trial.intermediate_values}
        assert trial.intermediate_values == pytest.approx(values)


@pytest.mark.parametrize(
    ("strategy", "how"),
    [
        *((strategy, "SIGKILL") for strategy in STRATEGIES),
        *(("combined", "SIGINT"), ("random", "SIGINT"), ("asha", "SIGTERM"), ("optuna", "SIGTERM")),
    ],
)
def test_ended_from_outside_then_resumed(tmp_path: Path, strategy: str, how: str) -> None:
    process = start(tmp_path, strategy)
    until_reported(tmp_path, 12, process)
    process.send_signal(getattr(signal, how))
    output, _ = process.communicate(timeout=400)
    if how != "SIGKILL":
        assert "interrupted" in output
        assert f"ended early  interrupted ({how})" in " ".join(output.split()).replace("ended early ", "ended early  ")
        assert json.loads((tmp_path / "s" / "summary.json").read_text())["budget_spent"] == f"interrupted ({how})"
        assert f"ended early: interrupted ({how})" in (tmp_path / "s" / "report.html").read_text()
    run(tmp_path, strategy, num_trials=6, resume=True)
    exact(tmp_path, 6)


def test_a_study_that_was_moved_is_resumed_where_it_is(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    process = start(first, "random")
    until_reported(first, 12, process)
    process.kill()
    process.communicate(timeout=400)
    first.rename(second)
    run(second, "random", num_trials=6, resume=True)
    exact(second, 6)
    assert not first.exists(), "nothing is written to where it was"


def test_a_second_leader_is_refused(tmp_path: Path) -> None:
    process = start(tmp_path, "random", seconds=0.3)
    try:
        until_reported(tmp_path, 2, process)
        with pytest.raises(UserError, match=rf"led by another process \(process {process.pid} on "):
            run(tmp_path, "random", num_trials=6, resume=True)
    finally:
        process.terminate()
        process.communicate(timeout=400)
