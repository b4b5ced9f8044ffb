"""``hyperopt=…`` in a config is a search, whether or not -m was typed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests import warm

ROOT = Path(__file__).parents[2]


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run_text([str(ROOT / "launch.py"), *arguments], folder, os.environ)


def test_the_same_as_with_m_and_no_folder_of_a_single_run(tmp_path: Path) -> None:
    arguments = ["hyperopt=combined", "model=tiny", "hyperopt.dry_run=true", "hyperopt.study_name=s"]
    without, with_m = launch(tmp_path, *arguments), launch(tmp_path, "-m", *arguments)
    assert without.returncode == with_m.returncode == 0, without.stderr
    assert without.stdout == with_m.stdout
    assert "learning_rate" in without.stdout
    assert list(tmp_path.iterdir()) == []


def test_it_searches_and_leaves_the_final_model(tmp_path: Path, toy_files: dict[str, str]) -> None:
    made = launch(
        tmp_path,
        *("hyperopt=random", "model=tiny", "data=files", *(f"data.{key}={path}" for key, path in toy_files.items())),
        *("hyperopt.study_name=s", "budget.num_trials=2", "budget.max_concurrent=1", "hyperopt.final.enabled=false"),
        *("training.reports=2", "training.num_epochs=1", f"data.cache_dir={tmp_path}/cache"),
    )
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "multirun/s"
    assert {"summary.json", "best_config.yaml", "report.html", "final"} <= {path.name for path in folder.iterdir()}
    assert (folder / "final/adapter_model.safetensors").is_file()
    assert not (tmp_path / "outputs").exists()
