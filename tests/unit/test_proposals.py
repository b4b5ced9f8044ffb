"""Finite spaces and forbidden combinations: what every sampler may propose, with real Optuna studies on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistral_ner.errors import ConfigError
from mistral_ner.hyperopt.dry_run import budget, expected_reports
from mistral_ner.hyperopt.results.summary import summarise
from mistral_ner.hyperopt.results.trainings import Candidate, choose_candidates
from mistral_ner.hyperopt.spec.constraints import Constraint
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.opening import lead_study, read_study
from mistral_ner.hyperopt.study.study import Study

SAMPLERS = ("TPE", "CMA", "Random", "GPSampler", "QMC")
RANK = {"type": "choice", "choices": [4, 8, 16]}
SPACES: dict[str, tuple[dict[str, Any], int]] = {
    "choices": ({"lora_r": {"type": "choice", "choices": [4, 8]}}, 2),
    "steps": (
        {
            "lora_r": {"type": "int", "low": 2, "high": 4},
            "lora_dropout": {"type": "uniform", "low": 0, "high": 0.2, "step": 0.1},
        },
        9,
    ),
    "conditions": (
        {"use_rslora": {"type": "choice", "choices": [True, False]}, "lora_r": {**RANK, "when": {"use_rslora": True}}},
        4,
    ),
}


def plan(folder: Path, space: dict[str, Any], **hyperopt: Any) -> Plan:
    settings = {
        "strategy": "optuna",
        "num_trials": 12,
        "max_concurrent": 1,
        "results_dir": str(folder),
        "study_name": "s",
    }
    return Plan.of(
        {
            "output_dir": str(folder),
            "training": {"reports": 1},
            "search_space": space,
            "hyperopt": {**settings, "optuna_n_startup_trials": 2, "enqueue_default": False, **hyperopt},
        }
    )


def run(study: Study) -> list[dict[str, object]]:
    found = []
    while not study.complete:
        asked = study.ask()
        found.append(asked.values)
        study.report(asked.number, 1, {"eval_f1": sum(map(float, asked.values.values()))})  # type: ignore[arg-type]
        study.end(asked.number)
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", SPACES)
def test_a_finite_space_is_tried_once_and_ends_the_search(tmp_path: Path, kind: str, sampler: str) -> None:
    space, size = SPACES[kind]
    with lead_study(plan(tmp_path, space, optuna_sampler=sampler)) as study:
        found = run(study)
        assert len(found) == size
        assert all(one not in found[:place] for place, one in enumerate(found))
        assert summarise(study).budget_spent == f"the search space is used up ({size} settings)"


def test_a_used_up_space_is_said_in_the_dry_run(tmp_path: Path) -> None:
    here = plan(tmp_path, SPACES["choices"][0])
    assert budget(here) == "12 trials, 1 at once, ending after 2, since the search space holds no more settings"
    assert expected_reports(here).startswith("2,")


def test_what_is_enqueued_twice_is_trained_once(tmp_path: Path) -> None:
    enqueue = [{"lora_r": 8}, {"lora_r": 8}, {"lora_r": 4}]
    with lead_study(plan(tmp_path, {"lora_r": RANK}, enqueue=enqueue)) as study:
        assert [one["lora_r"] for one in run(study)] == [8, 4, 16]


def test_a_search_that_was_cut_off_does_not_repeat_what_it_tried(tmp_path: Path) -> None:
    space = SPACES["steps"][0]
    with lead_study(plan(tmp_path, space, num_trials=4)) as study:
        found = run(study)
    with lead_study(plan(tmp_path, space, resume=True)) as study:
        found += run(study)
    assert len(found) == 9
    assert all(one not in found[:place] for place, one in enumerate(found))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("constraint", "space"),
    [
        (
            "lora_r * lora_alpha_ratio <= 16",
            {"lora_r": RANK, "lora_alpha_ratio": {"type": "uniform", "low": 0.5, "high": 4}},
        ),
        (
            "warmup_ratio <= weight_decay",  # a bound that names another parameter
            {n: {"type": "uniform", "low": 0, "high": 0.5} for n in ("warmup_ratio", "weight_decay")},
        ),
        ("use_rslora or lora_r < 16", {"lora_r": RANK, "use_rslora": {"type": "choice", "choices": [True, False]}}),
    ],
)
def test_every_sampler_obeys_a_constraint(tmp_path: Path, sampler: str, constraint: str, space: dict[str, Any]) -> None:
    here = plan(tmp_path, space, constraints=[constraint], optuna_sampler=sampler)
    with lead_study(here) as study:
        found = run(study)
    assert len(found) >= 5
    assert all(Constraint.read(constraint).holds(one) for one in found)
    assert read_study(here.folder).plan.config.hyperopt.constraints == [constraint]


HALF = {"type": "uniform", "low": 0, "high": 0.5}


@pytest.mark.parametrize("sampler", ["TPE", "CMA"])
@pytest.mark.parametrize(
    "space",
    [
        {"warmup_ratio": {**HALF, "high": "weight_decay"}, "weight_decay": HALF},
        {"weight_decay": {**HALF, "low": "warmup_ratio"}, "warmup_ratio": HALF},
        {"lora_r": RANK, "gradient_accumulation_steps": {"type": "int", "low": 1, "high": "lora_r"}},
    ],
)
def test_a_bound_that_names_another_parameter(tmp_path: Path, sampler: str, space: dict[str, Any]) -> None:
    here = plan(tmp_path, space, optuna_sampler=sampler)
    with lead_study(here) as study:
        found = run(study)
    assert len(found) == 12
    lower, upper = ("gradient_accumulation_steps", "lora_r") if "lora_r" in space else ("warmup_ratio", "weight_decay")
    assert all(one[lower] <= one[upper] for one in found)  # type: ignore[operator]
    again = read_study(here.folder).plan.space
    assert again == here.space, "it is saved by name"
    assert str(next(one for one in again if one.within)) in (
        *("uniform(0, weight_decay)", "uniform(warmup_ratio, 0.5)", "int(1, lora_r)"),
    )


def test_a_bound_counts_where_its_parameter_is_in_play(tmp_path: Path) -> None:
    """A parameter that is not in play keeps the config's value, which its bound does not judge but others may name."""
    warmup = {**HALF, "high": "decay"}
    space = {"decay": {**HALF, "path": "training.weight_decay", "when": {"lora_r": 8}}, "warmup_ratio": warmup}
    here = plan(tmp_path, {"lora_r": RANK, **space})
    assert here.config.training.weight_decay == 0.01
    assert here.allows({"lora_r": 4, "warmup_ratio": 0.009})
    assert not here.allows({"lora_r": 4, "warmup_ratio": 0.1})
    assert here.allows({"lora_r": 8, "warmup_ratio": 0.1, "decay": 0.2})


@pytest.mark.parametrize(
    ("high", "text"),
    [
        ("weight_dec", "search_space.warmup_ratio.high: must be a number, found 'weight_dec'"),
        ("lr_scheduler_type", "must be a number, or a parameter of numbers with bounds of its own, found 'lr_sched"),
        ("weight_decay", "search_space.warmup_ratio.low: must be less than high=0.5, found 0.6"),
        ("max_grad_norm", "must be a number, or a parameter of numbers with bounds of its own, found 'max_grad_norm'"),
    ],
)
def test_the_faults_of_a_bound(tmp_path: Path, high: str, text: str) -> None:
    low = 0.6 if high == "weight_decay" else 0
    space = {
        "warmup_ratio": {"type": "uniform", "low": low, "high": high},
        "weight_decay": HALF,
        "lr_scheduler_type": {"type": "choice", "choices": ["linear", "cosine"]},
        "max_grad_norm": {"type": "uniform", "low": 0.5, "high": "weight_decay"},
    }
    if high == "weight_decay":
        del space["max_grad_norm"]
    with pytest.raises(ConfigError) as refused:
        plan(tmp_path, space)
    assert text in str(refused.value)


@pytest.mark.parametrize("by", ["constraint", "bound"])
def test_enqueued_settings_must_meet_constraints_and_bounds(tmp_path: Path, by: str) -> None:
    space = {"warmup_ratio": HALF | ({"high": "weight_decay"} if by == "bound" else {}), "weight_decay": HALF}
    constraints = ["warmup_ratio <= weight_decay"] if by == "constraint" else []
    enqueue = [{"warmup_ratio": 0.3}, {"warmup_ratio": 0.3, "weight_decay": 0.2}]
    with pytest.raises(ConfigError) as refused:
        plan(tmp_path, space, constraints=constraints, enqueue=enqueue)
    assert "1 fault" in str(refused.value)
    assert "hyperopt.enqueue[1]: must meet warmup_ratio <= weight_decay, as every trial" in str(refused.value)


def test_settings_of_the_space_are_tried_first_in_a_resumed_search_too(tmp_path: Path) -> None:
    space = {"lora_r": RANK, "weight_decay": HALF}
    first: list[dict[str, Any]] = [{"lora_r": 16, "weight_decay": 0.1}, {"lora_r": 4}]
    with lead_study(plan(tmp_path, {**space, "first": first}, num_trials=1)) as study:
        assert run(study) == first[:1]
    more = [*first, {"lora_r": 8}]
    with lead_study(plan(tmp_path, {**space, "first": more}, num_trials=3, resume=True)) as study:
        assert [one["lora_r"] for one in run(study)] == [4, 8], "what waits, then what is new"
    with lead_study(plan(tmp_path, {**space, "first": more}, num_trials=4, resume=True)) as study:
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3, "nothing is tried twice"


def test_settings_of_the_space_that_no_trial_can_have_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that leave a parameter of a constraint open may be completed so that they meet it."""
    space = {"warmup_ratio": HALF, "weight_decay": HALF}
    first = [{"warmup_ratio": 0.4}, {"warmup_ratio": 0.4, "weight_decay": 0.1}, {"weight_decay": 0.6}]
    made = plan(tmp_path, {**space, "first": first}, constraints=["warmup_ratio <= weight_decay"])
    assert made.enqueued == first[:1]
    said = [record.getMessage() for record in caplog.records]
    assert "search_space.first[1] is left out: every trial must meet warmup_ratio <= weight_decay" in said
    assert "search_space.first[2] is left out: weight_decay=0.6 is not in uniform(0, 0.5)" in said
    with lead_study(made) as study:
        asked = study.ask()
    assert asked.values["warmup_ratio"] == 0.4 <= asked.values["weight_decay"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("lora_r * 2 <= 16", True),
        ("1 < lora_r < 8", False),
        ("lora_r in [8, 16] and not use_rslora", True),
        ("max(lora_r, 10) // 3 == 3 or false", True),
        ("lora_alpha / lora_r > 1", False),  # lora_alpha is null: it cannot be computed
        ("lora_r / 0 < 1", False),
        ("lr_scheduler_type != 'cosine'", True),
    ],
)
def test_expressions(expression: str, expected: bool) -> None:
    values = {"lora_r": 8, "use_rslora": False, "lora_alpha": None, "lr_scheduler_type": "linear"}
    assert Constraint.read(expression).holds(values) is expected


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        ("lora_r <", "hyperopt.constraints[0]: is no expression (invalid syntax), in 'lora_r <'"),
        ("__import__('os')", "hyperopt.constraints[0]: may call min, max, abs, round only, found '__import__'"),
        ("lora_r.real > 1", "hyperopt.constraints[0]: may hold arithmetic and comparisons only, found 'lora_r.real'"),
        ("[x for x in (1,)]", "may hold arithmetic and comparisons only, found '[x for x in (1,)]'"),
        ("lora_rr > 1", "'lora_rr' is neither a parameter nor a config key (did you mean 'lora_r'?)"),
        ("lora_r > 100", "hyperopt.constraints: none of 1000 random settings meets lora_r > 100"),
    ],
)
def test_the_faults_of_a_constraint(tmp_path: Path, constraint: str, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(tmp_path, {"lora_r": RANK}, constraints=[constraint])
    assert text in str(refused.value)


def test_settings_that_differ_in_their_seed_only_are_trained_once_in_the_end(tmp_path: Path) -> None:
    here = plan(tmp_path, {"lora_r": RANK, "seed": {"type": "choice", "choices": [1, 2]}})
    trials = [
        Candidate(n, {"lora_r": r, "seed": s}, v) for n, r, s, v in ((0, 8, 1, 0.9), (1, 8, 2, 0.8), (2, 4, 1, 0.7))
    ]
    assert [one.trial for one in choose_candidates(here, trials)] == [0, 2, None]
