"""Studies that an earlier version left, each cut off in its fourth trial of five: this version shows and ends them.

They lie in ``tests/old_studies``, with ``/FOLDER`` for the folder in which they were made. Weights are not among them:
the trial that was cut off repeats its report.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from arithmetic import STRATEGIES, states
from optuna.trial import FrozenTrial

from mistral_ner.hyperopt.report import write_report
from mistral_ner.hyperopt.resume import resume
from mistral_ner.hyperopt.study.opening import read_study

OLD_STUDIES = Path(__file__).parents[1] / "old_studies"
ENDED = range(3)
pytestmark = pytest.mark.usefixtures("ray_for_all")


@pytest.fixture
def study(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the old study of a strategy, as if it had been made in ``tmp_path``."""
    folder = tmp_path / "multirun" / "s"
    shutil.copytree(OLD_STUDIES / request.param, folder)
    for path in folder.rglob("*.yaml"):
        path.write_text(path.read_text().replace("/FOLDER", str(tmp_path)))
    return folder


def ends(trials: list[FrozenTrial]) -> list[Any]:
    """All that is known of the trials that ended before this version came."""
    names = ("state", "params", "values", "intermediate_values", "user_attrs", "datetime_start", "datetime_complete")
    return [[getattr(trials[number], name) for name in names] for number in ENDED]


def first_report(trial: Path) -> dict[str, float]:
    row = json.loads((trial / "result.json").read_text().splitlines()[0])
    return {name: value for name, value in row.items() if name.startswith("eval_") and name != "eval_seconds"}


@pytest.mark.parametrize("study", STRATEGIES, indirect=True)
def test_an_old_study_is_shown_and_resumed(study: Path, request: pytest.FixtureRequest) -> None:
    strategy = yaml.safe_load((study / "config.yaml").read_text())["hyperopt"]["strategy"]
    assert request.node.callspec.params["study"] == strategy
    before, first = read_study(study).trials, first_report(study / "trial_0003")
    assert [trial.state.name for trial in before[3:]] == ["RUNNING"]
    assert states(before[:3]) == ({"COMPLETE": 3} if strategy in ("optuna", "random") else {"COMPLETE": 1, "PRUNED": 2})
    files = {path: path.read_bytes() for number in ENDED for path in study.glob(f"trial_{number:04d}/*")}
    assert len(files) >= 6
    text = write_report([study], None).read_text()
    assert (study / "report.html").read_text() == text
    assert "trial 0" in text.lower() or "trial_0000" in text
    assert read_study(study).trials == before, "to look at a study changes nothing"

    resume(study)
    after = read_study(study).trials
    assert [trial.number for trial in after] == list(range(5))
    assert set(states(after)) <= {"COMPLETE", "PRUNED"}
    assert ends(after) == ends(before)
    assert {path: path.read_bytes() for path in files} == files
    assert after[3].params == before[3].params
    # scoring has changed: the version before rounded elsewhere, with bf16 in the third digit
    assert first_report(study / "trial_0003") == pytest.approx(first, rel=5e-3)
    summary = json.loads((study / "summary.json").read_text())
    assert (summary["n_trials"], summary["n_failed"], summary["n_unfinished"]) == (5, 0, 0)
    assert (study / "best_config.yaml").is_file()
