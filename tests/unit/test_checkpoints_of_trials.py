"""What is left on the disk of a trial that ended, and what a trial that may continue keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mistral_ner.hyperopt.engines.ray_tune import StudySearcher
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.event_log import EventLog
from mistral_ner.hyperopt.study.opening import lead_study
from mistral_ner.hyperopt.study.study import Study


def plan(folder: Path, **hyperopt: Any) -> Plan:
    return Plan.of(
        {
            "output_dir": str(folder),
            "training": {"reports": 4},
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1}},
            "hyperopt": {
                "results_dir": str(folder),
                "study_name": "s",
                "num_trials": 4,
                "max_concurrent": 1,
                **hyperopt,
            },
        }
    )


def checkpoint(study: Study, number: int) -> Path:
    """Write what a training leaves at a report."""
    folder = study.plan.folder / f"trial_{number:04d}/checkpoint/checkpoint-10"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"0" * 100)
    (folder.parents[1] / "result.json").write_text("{}\n")
    return folder


ENDS: dict[TrialState, dict[str, Any]] = {
    TrialState.PRUNED: {"stopped": True},
    TrialState.FAIL: {"failure": "ValueError: of no use"},
}


@pytest.mark.parametrize("end", ENDS)
def test_a_trial_that_is_over_keeps_no_checkpoint(tmp_path: Path, end: TrialState) -> None:
    with lead_study(plan(tmp_path, strategy="optuna")) as study:
        number = study.ask().number
        folder = checkpoint(study, number)
        study.report(number, 1, {"eval_f1": 0.5})
        assert study.end(number, **ENDS[end]).state == end
        assert not folder.parent.exists()
        assert {path.name for path in folder.parents[1].iterdir()} == {"config.yaml", "result.json"}
        assert study.trials[number].intermediate_values == {1: 0.5}


def test_a_trial_that_is_tried_again_keeps_its_own(tmp_path: Path) -> None:
    with lead_study(plan(tmp_path, strategy="optuna")) as study:
        number = study.ask().number
        folder = checkpoint(study, number)
        study.report(number, 1, {"eval_f1": 0.5})
        assert study.end(number, failure="OSError: the network is away").state == TrialState.RUNNING
        assert folder.is_dir()


def test_a_trial_that_waits_at_a_rung_keeps_its_own_until_nothing_can_wake_it(tmp_path: Path) -> None:
    made = plan(tmp_path, strategy="combined", asha_type="promotion", asha_grace_period=1, asha_max_t=4)
    with lead_study(made) as study, EventLog(study) as watch:
        searcher = StudySearcher(study, watch)
        folders = []
        for place in range(2):
            number = searcher.suggest(str(place))["number"]
            folders.append(checkpoint(study, number))
            study.report(number, 1, {"eval_f1": 0.5})
            assert searcher.scheduler.judge(number, 1, study.look_at(number, 1)), "it waits for others"
            study.rest(number)
            searcher.on_trial_complete(str(place))
        assert [folder.is_dir() for folder in folders] == [True, True]
        searcher.end_paused()
        assert [folder.parent.exists() for folder in folders] == [False, False]
