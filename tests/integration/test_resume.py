"""A search over real trainings that is killed and resumed by ``python -m mistral_ner.hyperopt.resume``."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(folder: Path, *command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MISTRAL_NER_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def table(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_killed_search_ends_with_the_numbers_of_an_unbroken_one(tmp_path: Path, toy_files: dict[str, str]) -> None:
    search = [
        str(ROOT / "launch.py"),
        *("-m", "hyperopt=combined", "model=tiny", "data=files", "training.num_epochs=3"),
        *(f"data.{name}={path}" for name, path in toy_files.items()),
        *("search_space.learning_rate.high=3e-2", "budget.num_trials=6", "budget.max_concurrent=1"),
        *("hyperopt.asha_grace_period=1", "hyperopt.final.enabled=false"),
    ]
    whole = run(tmp_path, *search, "hyperopt.study_name=whole")
    output, _ = whole.communicate(timeout=240)
    assert whole.returncode == 0, output

    killed = run(tmp_path, *search, "hyperopt.study_name=killed")
    folder = tmp_path / "multirun/killed"
    deadline = time.monotonic() + 180
    while not (folder / "trial_0001/result.json").exists():
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)  # the driver and every process of its Ray
    killed.communicate()
    assert not (folder / "summary.json").exists()

    resumed = run(tmp_path, "-m", "mistral_ner.hyperopt.resume")
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, output
    assert "combined search completed" in output
    assert table(folder) == table(tmp_path / "multirun/whole")
    best = [
        (tmp_path / f"multirun/{name}/best_config.yaml").read_text().split("\n", 2)[2] for name in ("whole", "killed")
    ]
    assert best[0] == best[1]
