"""ASHA over the reports of a study that an earlier run left."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.ray_tune import StudySearcher
from mistral_ner.hyperopt.study import Study
from mistral_ner.hyperopt.watch import Watch


@pytest.mark.parametrize(
    ("reports", "state"),
    [
        ([0.9, 0.1], TrialState.PRUNED),  # cut off after the report at which it stops, before its end was told
        ([0.1, 0.9], TrialState.RUNNING),  # the first passes any rung, the second beats it
    ],
)
def test_a_trial_cut_off_while_it_was_being_stopped_stops(
    tmp_path: Path, reports: list[float], state: TrialState
) -> None:
    plan = Plan.of(
        {
            "output_dir": ".",
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1}},
            "training": {"reports": 9},
            "hyperopt": {
                "strategy": "asha",
                "optuna_sampler": "Random",
                "num_trials": 2,
                "max_concurrent": 1,
                "asha_grace_period": 1,
                "results_dir": str(tmp_path),
                "study_name": "s",
            },
        }
    )
    made = optuna.create_study(direction="maximize")
    earlier = Study(plan, made)
    for value in reports:
        earlier.report(earlier.ask().number, 1, {"eval_f1": value})
    earlier.end(0, stopped=True)

    study = Study(plan, made)
    searcher = StudySearcher(study, Watch(study), None)
    started = searcher.suggest("a")
    assert study.trials[1].state == state
    assert (started == searcher.FINISHED) == (state == TrialState.PRUNED)
