"""ASHA over the reports of a study that an earlier run left."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mistral_ner.hyperopt.engines.ray_tune import StudySearcher
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.event_log import EventLog
from mistral_ner.hyperopt.study.study import Study


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
    storage = optuna.storages.InMemoryStorage()
    made = optuna.create_study(storage=storage, direction="maximize")
    earlier = Study(plan, made, storage)
    for value in reports:
        earlier.report(earlier.ask().number, 1, {"eval_f1": value})
    earlier.end(0, stopped=True)

    study = Study(plan, made, storage)
    searcher = StudySearcher(study, EventLog(study))
    started = searcher.suggest("a")
    assert study.trials[1].state == state
    assert (started == searcher.FINISHED) == (state == TrialState.PRUNED)
