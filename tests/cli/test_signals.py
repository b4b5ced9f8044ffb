"""Ctrl-C and SIGTERM while a real search runs, through the real commands: once, twice, and in the final trainings."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.training.checkpoint import reports_on_disk
from tests import warm

ROOT = Path(__file__).parents[2]
RESUME = ("-m", "mistral_ner.hyperopt.resume")


@pytest.fixture
def search(toy_files: dict[str, str]) -> list[str]:
    paths = [f"data.{name}={path}" for name, path in toy_files.items()]
    return [
        *(str(ROOT / "launch.py"), "-m", "model=tiny", "data=files", *paths, "hyperopt.study_name=s"),
        *("training.num_epochs=9", "training.reports=9", "training.threads=1", "hyperopt.num_trials=3"),
        *("hyperopt.final.top_k=1", "hyperopt.final.seeds=2", "hyperopt.final.share=null"),
    ]


def signalled(folder: Path, command: list[str], at: str, reports: int, *signals: str) -> tuple[int, str, float]:
    """Run a command, send it signals once ``at`` holds more ``reports``; returns its code, output, and last seconds.

    As in a terminal, Ctrl-C goes to every process of the group.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MISTRAL_NER_CACHE": str(folder / "cache")}
    process = warm.Process(command, folder, env, start_new_session=True)
    before, until = made(folder, at), time.monotonic() + 400
    while signals and made(folder, at) < before + reports:
        if process.poll() is not None or time.monotonic() > until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(process.communicate()[0])
        time.sleep(0.02)
    sent = time.monotonic()
    for name in signals:
        if name == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        time.sleep(0.05)
    code = process.wait(timeout=400)
    seconds = time.monotonic() - sent
    return code, process.communicate()[0], seconds


def made(folder: Path, at: str) -> int:
    return sum(len(path.read_text().splitlines()) for path in (folder / "multirun/s").glob(f"{at}/result.json"))


def summary(folder: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((folder / "multirun/s/summary.json").read_text())
    return written


def in_order(code: int, output: str) -> None:
    """The search ended as one that was interrupted: 130, the best so far, how to go on."""
    assert code == 130, output
    assert "search interrupted" in output
    assert "so far" in output or "best eval_f1" in output, output
    assert "go on" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (["hyperopt=combined", "hyperopt.max_concurrent=2", "hyperopt.asha_grace_period=1"], "SIGTERM"),
        (["hyperopt=random", "hyperopt.max_concurrent=2", "hydra/launcher=ray"], "SIGINT"),
    ],
    ids=["combined", "random in Ray"],
)
def test_in_ray(tmp_path: Path, search: list[str], strategy: list[str], name: str) -> None:
    code, output, _ = signalled(tmp_path, [*search, *strategy], "trial_*", 4, name)
    in_order(code, output)
    assert summary(tmp_path)["budget_spent"] == f"interrupted ({name})"
    if strategy[0] == "hyperopt=combined":
        code, output, seconds = signalled(tmp_path, list(RESUME), "trial_*", 1, "SIGINT", "SIGINT")
        assert code == 130, output
        assert seconds < 5, "it leaves at once"
        code, output, _ = signalled(tmp_path, list(RESUME), "final/candidates/*", 2, "SIGINT")
        in_order(code, output)
        assert summary(tmp_path)["final"] is None
        code, output, _ = signalled(tmp_path, list(RESUME), "trial_*", 0)
        assert code == 0, output
        assert summary(tmp_path)["final"]["seeds"] == [42, 43]


def test_in_this_process_and_in_the_final_trainings(tmp_path: Path, search: list[str]) -> None:
    """Ends in order, at once, in the final trainings; and goes on each time until all is there."""
    code, output, _ = signalled(
        tmp_path, [*search, "hyperopt=random", "hyperopt.max_concurrent=1"], "trial_*", 4, "SIGINT"
    )
    in_order(code, output)
    assert summary(tmp_path)["n_unfinished"] == 1
    code, output, seconds = signalled(tmp_path, list(RESUME), "trial_*", 2, "SIGINT", "SIGINT")
    assert code == 130, output
    assert seconds < 5, "it leaves at once"
    code, output, _ = signalled(tmp_path, list(RESUME), "final/candidates/*", 2, "SIGTERM")
    in_order(code, output)
    found = summary(tmp_path)
    assert (found["n_complete"], found["n_unfinished"], found["final"]) == (3, 0, None)
    folder = tmp_path / "multirun/s"
    before = {path: reports_on_disk(path) for path in (*folder.glob("trial_*"), *folder.glob("final/candidates/*"))}
    code, output, _ = signalled(tmp_path, list(RESUME), "trial_*", 0)
    assert code == 0, output
    assert summary(tmp_path)["final"]["seeds"] == [42, 43]
    assert (folder / "final/adapter_model.safetensors").is_file()
    for path, rows in before.items():
        assert reports_on_disk(path)[: len(rows)] == rows, "no report that counts was made twice"
