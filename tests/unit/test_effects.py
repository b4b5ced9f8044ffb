"""Every sampler, every pruner and every key of ASHA changes what happens: searches of arithmetic, one at a time."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from scipy.stats import qmc

from mistral_ner.errors import ConfigError
from mistral_ner.hyperopt.engines.scheduler import StudyScheduler
from mistral_ner.hyperopt.results.summary import summarise
from mistral_ner.hyperopt.sampling.promise import SECOND, Seen
from mistral_ner.hyperopt.sampling.samplers import build_pruner, build_sampler, silence_optuna
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.event_log import EventLog
from mistral_ner.hyperopt.study.opening import lead_study
from mistral_ner.hyperopt.study.study import Study

REPORTS = 9
SPACE = {
    "lora_dropout": {"type": "uniform", "low": 0.0, "high": 0.9},
    "warmup_ratio": {"type": "uniform", "low": 0.0, "high": 0.9},
}
BEST = 0.2  # of both parameters


def plan(strategy: str = "optuna", seed: int = 1, **hyperopt: Any) -> Plan:
    hyperopt = {"strategy": strategy, "optuna_n_startup_trials": 8, "num_trials": 200, **hyperopt}
    if strategy in ("asha", "random"):
        hyperopt["optuna_sampler"] = "Random"
    return Plan.of({"output_dir": ".", "seed": seed, "search_space": SPACE, "hyperopt": hyperopt})


@pytest.fixture(autouse=True)
def _quiet() -> None:
    silence_optuna()


def quality(values: dict[str, float]) -> float:
    """1 at the best settings, less by the distance to them."""
    return 1 - math.dist(values.values(), [BEST] * len(values))


# --- samplers ----------------------------------------------------------------------------------------------------


def proposed(kind: str, count: int, seed: int = 1) -> list[dict[str, float]]:
    """The settings of a search, one trial at a time."""
    made = plan(optuna_sampler=kind, seed=seed)
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        study.sampler = build_sampler(made, number)
        trial = study.ask()
        study.tell(trial, quality(made.space.suggest(trial)))
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("kind", ["TPE", "CMA", "GPSampler"])
def test_later_proposals_lie_nearer_to_the_best(kind: str) -> None:
    count = 18 if kind == "GPSampler" else 40  # it needs few, and takes its time

    def distance(kind: str) -> float:
        later = proposed(kind, count)[count // 2 :]
        return sum(1 - quality(values) for values in later) / len(later)

    assert distance(kind) < 0.6 * distance("Random")


def test_qmc_covers_the_space_more_evenly_than_chance() -> None:
    def unevenness(kind: str) -> float:
        return float(qmc.discrepancy([[value / 0.9 for value in one.values()] for one in proposed(kind, 32)]))

    assert unevenness("QMC") < 0.5 * unevenness("Random")


@pytest.mark.parametrize("kind", ["TPE", "CMA", "Random", "GPSampler", "QMC"])
def test_the_seed_decides_what_is_proposed(kind: str) -> None:
    assert proposed(kind, 11, seed=1) == proposed(kind, 11, seed=1) != proposed(kind, 11, seed=2)


def test_running_trials_keep_others_away() -> None:
    """Several workers do not try the same: a trial that runs counts as a poor one where it is."""

    def near(running: int) -> float:
        found = []
        for number in range(20):
            study = optuna.create_study(direction="maximize")
            ranges = dict.fromkeys(SPACE, FloatDistribution(0.0, 0.9))
            for k in range(12):
                values = {"lora_dropout": BEST + 0.06 * k, "warmup_ratio": BEST + 0.06 * k}
                study.add_trial(optuna.create_trial(params=values, distributions=ranges, value=quality(values)))
            here = dict.fromkeys(SPACE, BEST)
            for _ in range(running):
                study.add_trial(optuna.create_trial(state=TrialState.RUNNING, params=here, distributions=ranges))
            study.sampler = build_sampler(plan(), number)
            trial = study.ask()
            found.append(plan().space.suggest(trial))
        assert len({tuple(values.values()) for values in found}) == len(found)
        return sum(1 - quality(values) for values in found) / len(found)

    assert near(running=8) > 1.3 * near(running=0)


# --- pruners -----------------------------------------------------------------------------------------------------


def pruned(count: int = 40, **hyperopt: Any) -> tuple[Counter[int], set[int]]:
    """Run trials that each grow steadily; returns how many were pruned at which report, and the trials that were."""
    made = plan("optuna", optuna_sampler="Random", **hyperopt)
    study = optuna.create_study(direction="maximize", pruner=build_pruner(made))
    at, which = Counter[int](), set[int]()
    for number in range(count):
        study.sampler = build_sampler(made, number)
        trial = study.ask()
        value = quality(made.space.suggest(trial))
        for report in range(1, REPORTS + 1):
            trial.report(value + report / 50, report)
            if report < REPORTS and trial.should_prune():
                at[report] += 1
                which.add(number)
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)
    best = max(study.trials, key=lambda trial: quality(trial.params))
    assert best.number not in which, "the best is never stopped: its curve lies above all others"
    return at, which


def test_none_stops_nothing() -> None:
    assert not pruned(optuna_pruner="none")[1]


def test_the_median_stops_about_half_and_the_percentile_more() -> None:
    _, median = pruned(optuna_pruner="median", optuna_n_startup_trials=5)
    _, percentile = pruned(optuna_pruner="percentile", optuna_n_startup_trials=5)
    assert 10 < len(median) < len(percentile)
    assert min(median | percentile) >= 5, "whole trials come first"


@pytest.mark.parametrize("kind", ["median", "percentile"])
def test_warmup_steps_are_reports_before_any_is_stopped(kind: str) -> None:
    assert min(pruned(optuna_pruner=kind, optuna_n_startup_trials=3)[0]) == 1
    assert min(pruned(optuna_pruner=kind, optuna_n_startup_trials=3, optuna_n_warmup_steps=4)[0]) == 4


@pytest.mark.parametrize("kind", ["successive_halving", "hyperband"])
def test_halving_stops_at_its_rungs_alone(kind: str) -> None:
    at, which = pruned(optuna_pruner=kind)
    assert set(at) <= {1, 3}
    assert len(which) > 10
    later, _ = pruned(optuna_pruner=kind, optuna_n_warmup_steps=3)
    assert set(later) == {3}, "the warmup is the first rung"
    halves, _ = pruned(optuna_pruner=kind, asha_reduction_factor=2)
    assert set(halves) <= {1, 2, 4, 8}


def test_hyperband_spares_more_at_its_first_rung_than_halving() -> None:
    """Its other brackets begin later."""
    assert pruned(optuna_pruner="hyperband")[0][1] < pruned(optuna_pruner="successive_halving")[0][1]


def test_wilcoxon_stops_what_is_worse_at_every_report() -> None:
    """Report by report against the best trial; it takes a few of them to be sure."""
    at, which = pruned(optuna_pruner="wilcoxon")
    assert len(which) > 10
    assert min(at) > 2


# --- ASHA --------------------------------------------------------------------------------------------------------


def stops(tmp_path: Path, count: int = 60, **hyperopt: Any) -> Counter[int]:
    """Judge trials one after the other; returns how many stopped at which report, whole ones at their last."""
    made = plan("asha", results_dir=str(tmp_path), study_name="s", **{"asha_grace_period": 1, **hyperopt})
    storage = optuna.storages.InMemoryStorage()
    study = Study(made, optuna.create_study(storage=storage, direction="maximize"), storage)
    scheduler = StudyScheduler(study, EventLog(study))
    at = Counter[int]()
    for number in range(count):
        value = quality(study.ask().values)
        last = made.reports_per_trial
        at[next((k for k in range(1, last) if scheduler.judge(number, k, Seen(value + k / 50))), last)] += 1
    return at


def test_each_key_of_asha(tmp_path: Path) -> None:
    usual = stops(tmp_path)
    assert set(usual) == {1, 3, REPORTS}
    assert 0.5 < usual[1] / 60 < 0.85, "about two in three stop at the first rung"
    assert set(stops(tmp_path, asha_grace_period=3)) == {3, REPORTS}
    assert set(stops(tmp_path, asha_max_t=3)) == {1, 3}
    many, few = stops(tmp_path, asha_reduction_factor=2), stops(tmp_path, asha_reduction_factor=4.5)
    assert many[1] < usual[1] < few[1]
    assert set(many) <= {1, 2, 4, 8, REPORTS}
    brackets = stops(tmp_path, asha_brackets=2)
    assert 0 < brackets[1] < 0.9 * usual[1], "some trials begin in a bracket whose first rung is the second"
    assert stops(tmp_path, asha_type="promotion")[1] >= usual[1], "all but the best so far pause"


# --- two metrics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["median", "percentile", "successive_halving", "wilcoxon"])
def test_every_pruner_stops_by_the_first_of_two_metrics(tmp_path: Path, kind: str) -> None:
    """The trial with the best first metric runs to its end, though it is the worst by the second."""
    chosen = {
        "optuna_pruner": kind,
        "second_metric": "eval_seconds",
        "num_trials": 12,
        "enqueue": [dict.fromkeys(SPACE, BEST)],
    }
    made = plan(optuna_n_startup_trials=2, results_dir=str(tmp_path), enqueue_default=False, **chosen)
    with lead_study(made) as study:
        while not study.complete:
            asked = study.ask()
            good = quality(asked.values)  # type: ignore[arg-type]
            for report in range(1, REPORTS + 1):
                study.report(asked.number, report, {"eval_f1": good + report / 50, "eval_seconds": good})
                if report < REPORTS and study.is_pruned(asked.number):
                    break
            study.end(asked.number, stopped=report < REPORTS)
        found = summarise(study)
        assert study.trials[0].state == TrialState.COMPLETE
    assert (found.best_trial, found.n_complete + found.n_pruned) == (0, 12)
    assert found.n_pruned >= 2
    assert found.pareto


def test_hyperband_takes_one_metric() -> None:
    with pytest.raises(ConfigError, match="hyperband takes studies of one metric") as said:
        plan(optuna_pruner="hyperband", second_metric="eval_seconds")
    assert "fix: hyperopt.optuna_pruner=successive_halving" in str(said.value)


def test_a_stopped_trial_counts_for_both_metrics() -> None:
    """Optuna's samplers take no stopped trial of two metrics for a poor one: all of them show what is good."""
    made = plan(optuna_n_startup_trials=8, second_metric="eval_seconds")
    study = optuna.create_study(directions=["maximize", "minimize"])
    ranges = dict.fromkeys(SPACE, FloatDistribution(0.0, 0.9))
    for k in range(10):
        values = {"lora_dropout": BEST + 0.07 * k, "warmup_ratio": BEST + 0.07 * k}
        trial = optuna.create_trial(
            state=TrialState.PRUNED,
            params=values,
            distributions=ranges,
            intermediate_values={1: quality(values)},
            user_attrs={SECOND: {"1": 1 - quality(values)}},
        )
        study.add_trial(trial)
    found = []
    for number in range(12):
        study.sampler = build_sampler(made, number)
        found.append(quality(made.space.suggest(study.ask())))
    chance = [quality({"a": a, "b": b}) for a in qmc.Sobol(1, seed=1).random(16)[:, 0] * 0.9 for b in (0.1, 0.4, 0.8)]
    assert sum(found) / len(found) > sum(chance) / len(chance) + 0.1
