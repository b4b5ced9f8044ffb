"""``training.patience``: a training that gets no better ends, alone, in a search without a scheduler, at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mistral_ner import files
from mistral_ner.config.check import check
from mistral_ner.config.schema import to_container
from mistral_ner.errors import UserError
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.cluster.workers import Here
from mistral_ner.hyperopt.dry_run import stopping_rule
from mistral_ner.hyperopt.results.trainings import Candidate, Trainings
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.opening import lead_study
from mistral_ner.train import fit
from mistral_ner.training.checkpoint import check_folder, has_lost_patience, reports_on_disk

SETTINGS = {"metric": "eval_loss", "mode": "min", "num_epochs": 8, "reports": 8, "threads": 1}
SETTINGS |= {"learning_rate": 1e-2, "lr_scheduler_type": "constant"}


@pytest.fixture
def misled(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A training that surely gets worse: dev has people's tags for places, and places' for people."""
    dev = Path(tiny["data"]["dev_file"]).read_text(encoding="utf-8")
    swapped = tmp_path / "swapped.txt"
    swapped.write_text(dev.replace("-PER", "-X").replace("-LOC", "-PER").replace("-X", "-LOC"))
    return {**tiny, "data": {**tiny["data"], "dev_file": str(swapped)}, "training": {**SETTINGS}}


@pytest.mark.parametrize(
    ("values", "sign", "patience", "lost"),
    [
        ([0.5, 0.4], 1, 1, True),
        ([0.5, 0.4], 1, 2, False),
        ([0.5, 0.4, 0.6, 0.6], 1, 1, True),  # as good is not better
        ([0.5, 0.4, 0.6], 1, 1, False),
        ([0.5, 0.6, 0.7], -1, 2, True),
        ([0.0, 0.0, 0.0], 1, 1, False),  # they say nothing yet
        ([0.5, 0.4, 0.3], 1, None, False),
        ([], 1, 1, False),
    ],
)
def test_when_patience_is_lost(values: Sequence[float], sign: int, patience: int | None, lost: bool) -> None:
    assert has_lost_patience(values, sign, patience) is lost


def plan(folder: Path, strategy: str = "optuna") -> Plan:
    return Plan.of(
        {
            "output_dir": str(folder),
            "training": {"reports": 9, "patience": 2},
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}},
            "hyperopt": {"strategy": strategy, "max_concurrent": 1, "results_dir": str(folder), "study_name": "s"},
        }
    )


@pytest.mark.parametrize(
    ("values", "state"),
    [((0.5, 0.4, 0.3), TrialState.COMPLETE), ((0.3, 0.4, 0.5), TrialState.PRUNED), ((0.5, 0.4), TrialState.PRUNED)],
)
def test_a_trial_without_a_better_report_is_complete(
    tmp_path: Path, values: Sequence[float], state: TrialState
) -> None:
    with lead_study(plan(tmp_path)) as study:
        asked = study.ask()
        for report, value in enumerate(values, 1):
            study.report(asked.number, report, {"eval_f1": value})
        ended = study.end(asked.number)
    assert ended.state == state
    assert ended.value == (0.5 if state == TrialState.COMPLETE else values[-1])


def test_patience_acts_where_no_scheduler_decides(tmp_path: Path) -> None:
    here, with_asha = plan(tmp_path), plan(tmp_path, "combined")
    settings = {"learning_rate": 1e-3}
    assert here.trial_config(0, settings).training.patience == 2
    assert with_asha.trial_config(0, settings).training.patience is None
    final = Trainings(with_asha, Here(), sharing=1)._config(Candidate(0, settings), seed=1)
    assert final.training.patience == 2, "a final training"
    assert stopping_rule(here) == "2 reports without a better one (training.patience)"


def test_a_training_ends_when_it_gets_no_better(misled: dict[str, Any], tmp_path: Path, cold: None) -> None:
    fit(misled)
    whole = [row["eval_loss"] for row in reports_on_disk(tmp_path / "run")]
    ends = next(made for made in range(1, 9) if has_lost_patience(whole[:made], -1, 1))
    assert ends < len(whole) == 8
    patient = {**misled, "output_dir": str(tmp_path / "patient"), "training": {**SETTINGS, "patience": 1}}
    value = fit(patient)
    assert [row["eval_loss"] for row in reports_on_disk(tmp_path / "patient")] == whole[:ends]
    assert value == min(whole[:ends])
    assert json.loads((tmp_path / "patient" / "checkpoint.json").read_text())["finished"]
    assert fit(patient) == value, "it is over, and is not continued"


def test_trials_and_final_trainings_of_a_search_end_when_they_get_no_better(
    misled: dict[str, Any], tmp_path: Path, cold: None
) -> None:
    misled["training"]["patience"] = 1
    misled["search_space"] = {"weight_decay": {"type": "choice", "choices": [0.0, 0.1]}}
    place = {"strategy": "random", "optuna_sampler": "Random", "results_dir": str(tmp_path), "study_name": "s"}
    judged = {"metric": "eval_loss", "mode": "min", "num_trials": 2, "max_concurrent": 1}
    misled["hyperopt"] = {**place, **judged, "final": {"top_k": 1, "seeds": 1}}
    found = search(misled)
    assert set(found.trials["state"]) == {"COMPLETE"}
    folders = [*(tmp_path / "s").glob("trial_*"), *(tmp_path / "s/final/candidates").iterdir()]
    assert len(folders) >= 3
    for folder in folders:
        values = [row["eval_loss"] for row in reports_on_disk(folder)]
        assert has_lost_patience(values, -1, 1), values
        assert not has_lost_patience(values[:-1], -1, 1), values
    assert min(len(reports_on_disk(folder)) for folder in folders) < 8


def test_a_run_of_a_version_that_knew_fewer_keys_is_continued(tmp_path: Path) -> None:
    config = check({"output_dir": str(tmp_path), "data": {"tag_column": "1"}})
    older = to_container(config)
    del older["training"]["patience"], older["data"]["sentence_end"]
    older["data"]["tag_column"] = 1  # a number then
    files.write_yaml(tmp_path / "config.yaml", older)
    check_folder(config)
    config.training.patience = 1
    with pytest.raises(UserError, match=r"differs in training.patience"):
        check_folder(config)
