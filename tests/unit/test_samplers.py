"""What a sampler is shown of a study's trials."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from mistral_ner.hyperopt.sampling.promise import Judge
from mistral_ner.hyperopt.sampling.samplers import INFEASIBLE, KnownTrials, _KnownStudy, build_sampler
from mistral_ner.hyperopt.spec.plan import Plan

RATE = optuna.distributions.FloatDistribution(0.0, 0.99)


def plan(kind: str, mode: str = "max") -> Plan:
    space = {"dropout": {"type": "uniform", "low": 0.0, "high": 0.99, "path": "model.lora_dropout"}}
    hyperopt = {"strategy": "combined", "optuna_sampler": kind, "metric": "eval_f1", "mode": mode}
    return Plan.of(
        {
            "output_dir": ".",
            "search_space": space,
            "training": {"mode": mode},
            "hyperopt": {**hyperopt, "optuna_n_startup_trials": 5},
        }
    )


def proposals(kind: str, mode: str, trials: list[Any], count: int = 12) -> list[float]:
    """Ask for the first parameter after ``trials``, each time anew."""
    found = []
    for number in range(count):
        study = optuna.create_study(
            direction="maximize" if mode == "max" else "minimize", sampler=build_sampler(plan(kind, mode), number)
        )
        study.add_trials(trials)
        found.append(study.ask().suggest_float("dropout", 0.0, 0.99))
    return found


def stopped(x: float, value: float, report: int = 3) -> Any:
    return create_trial(
        state=TrialState.PRUNED,
        params={"dropout": x},
        distributions={"dropout": RATE},
        intermediate_values={1: value - 0.1, report: value},
    )


@pytest.mark.parametrize("kind", ["TPE", "GPSampler"])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_stopped_trials_inform_by_their_values(kind: str, mode: str) -> None:
    """All trials were stopped at the same report; the best of them lie about 0.2."""
    sign = 1 if mode == "max" else -1
    trials = [stopped(k / 20, sign * (1 - abs(k / 20 - 0.2))) for k in range(20)]
    found = proposals(kind, mode, trials)
    assert sum(abs(x - 0.2) < 0.2 for x in found) >= 0.7 * len(found), found


def test_a_stopped_trial_is_not_under_every_whole_one() -> None:
    """Whole trials that are poor do not outweigh better ones that were stopped, as in Optuna's own ranking."""
    whole = [
        create_trial(value=0.1, params={"dropout": 0.9 + k / 100}, distributions={"dropout": RATE}) for k in range(6)
    ]
    found = proposals("TPE", "max", [*whole, *(stopped(0.1 + k / 100, 0.8) for k in range(10))])
    assert sum(x < 0.5 for x in found) > len(found) / 2, found


def test_the_study_itself_keeps_true_states() -> None:
    study = optuna.create_study(direction="maximize", sampler=build_sampler(plan("TPE"), 0))
    study.add_trials([stopped(k / 10, 0.5) for k in range(10)])
    study.ask().suggest_float("dropout", 0.0, 0.99)
    assert {trial.state for trial in study.trials[:10]} == {TrialState.PRUNED}


def test_settings_that_ran_out_of_memory_are_avoided() -> None:
    """A failed trial teaches TPE nothing, unless it says that its settings do not fit the device."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for k in range(20):
        trial = study.ask({"dropout": RATE})
        if trial.params["dropout"] > 0.5:
            trial.set_constraint(INFEASIBLE, 1.0)
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, 0.5 + 0.01 * (k % 3))
    high = 0
    for number in range(20):
        study.sampler = build_sampler(plan("TPE"), number)
        high += study.ask().suggest_float("dropout", 0.0, 0.99) > 0.6
    assert high <= 4


def test_of_a_long_study_the_latest_trials_and_the_best_are_looked_at() -> None:
    """What a proposal costs does not grow with the study, and what was good long ago is not forgotten."""
    study = optuna.create_study(direction="maximize")
    study.add_trials([stopped(0.2, 0.9 - k / 1000) for k in range(30)])
    study.add_trials([stopped(0.8, 0.1) for _ in range(700)])
    trials = _KnownStudy(study, KnownTrials(), Judge(plan("TPE")))._get_trials(
        deepcopy=False, states=(TrialState.COMPLETE,)
    )
    assert [trial.number for trial in trials] == [*range(25), *range(230, 730)]
    assert proposals("TPE", "max", study.trials, count=5) == pytest.approx([0.2] * 5, abs=0.1)
