"""Values of a search space that look like Hydra's syntax stay data, through the real command and every strategy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from test_launch import launch, shown

SPACE = """\
cache_dir:
  type: choice
  choices: ["${oc.env:HOME}", "8 model=x/${oc.env:HOME}"]
"""


@pytest.mark.parametrize("strategy", ["combined", "asha", "optuna", "random"])
def test_choices_are_data(tmp_path: Path, toy_files: dict[str, str], strategy: str) -> None:
    """In the study, in every trial, in the report, and in the best config, which trains again."""
    (tmp_path / "mine/search_space").mkdir(parents=True)
    (tmp_path / "mine/search_space/odd.yaml").write_text(SPACE)
    (tmp_path / "home-of-somebody").mkdir()
    home = {"HOME": str(tmp_path / "home-of-somebody")}
    done = launch(
        tmp_path,
        *("-m", "--config-dir", str(tmp_path / "mine"), f"hyperopt={strategy}", "search_space=odd", "model=tiny"),
        *("data=files", *(f"data.{name}={path}" for name, path in toy_files.items()), "training.reports=1"),
        *("training.num_epochs=1", "hyperopt.num_trials=2", "hyperopt.max_concurrent=1", "hyperopt.study_name=s"),
        "hyperopt.final.enabled=false",
        **home,
    )
    assert done.returncode == 0, shown(done)
    study = tmp_path / "multirun/s"
    choices = yaml.safe_load(SPACE)["cache_dir"]["choices"]
    assert yaml.safe_load((study / "config.yaml").read_text())["search_space"]["cache_dir"]["choices"] == choices
    for trial in study.glob("trial_*/"):
        assert yaml.safe_load((trial / "config.yaml").read_text())["data"]["cache_dir"] in [
            str(tmp_path / one) for one in choices
        ]
    summary = json.loads((study / "summary.json").read_text())
    best = summary["best_params"]["cache_dir"]
    assert best in choices
    assert "${oc.env:HOME}" in (study / "report.html").read_text()
    assert (tmp_path / best / "encoded").is_dir(), "the folder of just that name was used"
    left = [path for path in study.rglob("*") if path.is_file() and b"home-of-somebody" in path.read_bytes()]
    assert left == []
    again = ["--config-dir", str(study), "--config-name", "best_config", "hydra.run.dir=again"]
    done = launch(tmp_path, *again, **home)
    assert done.returncode == 0, shown(done)
    trained = yaml.safe_load((tmp_path / "again/config.yaml").read_text())
    assert trained["data"]["cache_dir"] == str(tmp_path / best)
    assert json.loads((tmp_path / "again/checkpoint.json").read_text())["best_value"] == summary["best_value"]
