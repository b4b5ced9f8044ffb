"""Priors of parameters: how they are written, what they draw, and how results wear them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from mistral_ner.errors import ConfigError
from mistral_ner.hyperopt.sampling.samplers import INFEASIBLE, build_sampler
from mistral_ner.hyperopt.spec.parse import parse
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.spec.priors import EVEN, share_even_draws
from mistral_ner.hyperopt.spec.space import Parameter

RATE = {"type": "loguniform", "low": 1e-4, "high": 1e-2, "prior": {"center": 1e-3, "width": 1.5}}
RANK = {"type": "choice", "choices": [4, 8, 16, 32], "prior": {16: 5}}


def read(name: str, block: dict[str, Any]) -> Parameter:
    space, faults = parse({name: block})
    assert not faults, faults
    (parameter,) = space
    assert parse(space.to_block())[0] == space, "as it is saved"
    return parameter


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("learning_rate", RATE),
        ("lora_r", RANK),
        ("lora_dropout", {"type": "uniform", "low": 0.0, "high": 0.5, "prior": {"center": 0.1, "width": 0.05}}),
        (
            "lora_dropout",
            {"type": "uniform", "low": 0, "high": 0.5, "step": 0.1, "prior": {"center": 0.1, "width": 0.1}},
        ),
        ("num_epochs", {"type": "int", "low": 1, "high": 9, "prior": {"center": 3, "width": 1}}),
        ("min_steps", {"type": "logint", "low": 100, "high": 2000, "prior": {"center": 600, "width": 2}}),
    ],
)
def test_draws_follow_the_prior_and_lie_in_the_range(name: str, block: dict[str, Any]) -> None:
    parameter = read(name, block)
    belief, rng = parameter.belief, np.random.default_rng(0)
    assert belief is not None
    places = [belief.quantile(share) for share in [0.0, *rng.random(2000), 0.999999, 1.0]]
    assert all(0 <= place <= 1 for place in places)
    values = [parameter.at(place) for place in places]
    assert all(parameter.holds(value) for value in values)
    assert all(parameter.at(parameter.place(value)) == pytest.approx(value) for value in values)
    ratios = [belief.log_ratio(place) for place in places]
    even = [belief.log_ratio(place) for place in rng.random(2000)]
    assert np.mean(ratios) > np.mean(even), "what it draws is likely by it"


def test_the_centre_and_the_width_are_on_the_range_own_scale() -> None:
    belief, parameter = read("learning_rate", RATE).belief, read("learning_rate", RATE)
    assert belief is not None
    low, middle, high = (parameter.at(belief.quantile(share)) for share in (0.1587, 0.5, 0.8413))
    assert (low, middle, high) == pytest.approx((1e-3 / 1.5, 1e-3, 1.5e-3), rel=1e-3)
    belief, parameter = read("lora_r", RANK).belief, read("lora_r", RANK)
    assert belief is not None
    drawn = [parameter.at(belief.quantile(share)) for share in np.linspace(0, 0.9999, 800)]
    assert [drawn.count(rank) for rank in (4, 8, 16, 32)] == pytest.approx([100, 100, 500, 100], abs=2)


def test_a_prior_beside_the_range_draws_its_near_end() -> None:
    """Somebody has changed the ends of a space that comes with priors."""
    parameter = read("learning_rate", {**RATE, "low": 1e-2, "high": 1e-1})
    assert parameter.belief is not None
    assert parameter.at(parameter.belief.quantile(0.5)) < 1.5e-2
    read("lora_r", {**RANK, "choices": [4, 8]})


@pytest.mark.parametrize(
    ("name", "block", "rule"),
    [
        ("learning_rate", {**RATE, "prior": 1e-3}, "must be a group with center and width"),
        ("learning_rate", {**RATE, "prior": {"center": 1e-3}}, "must hold center and width"),
        ("learning_rate", {**RATE, "prior": {"center": 0, "width": 2}}, "center above 0 for loguniform"),
        ("learning_rate", {**RATE, "prior": {"center": 1e-3, "width": 1}}, "width above 1 (a factor), found"),
        ("learning_rate", {**RATE, "prior": {"center": "x", "width": 2}}, "must hold numbers"),
        ("lora_r", {**RANK, "prior": {4: 0}}, "weights above 0"),
    ],
)
def test_a_broken_prior_is_a_fault(name: str, block: dict[str, Any], rule: str) -> None:
    _, (fault,) = parse({name: block})
    assert fault.key == f"search_space.{name}.prior"
    assert rule in fault.rule
    assert fault.fix == f"search_space.{name}.prior=null"


def test_results_against_a_prior_raise_the_share_of_even_draws() -> None:
    likely, scores = [1.0, 1.0, 1.0, -2.0, -2.0, -2.0], [6, 5, 4, 3, 2, 1]
    assert share_even_draws([], []) == EVEN
    assert share_even_draws(likely, scores) == EVEN, "it is right"
    wrong = share_even_draws(likely, scores[::-1])
    assert wrong > 0.9
    assert EVEN < share_even_draws(likely[2:4], [1, 2]) < wrong, "two trials say less than six"
    assert share_even_draws(likely, [1] * 6) == EVEN, "equal results say nothing"
    assert share_even_draws([1.0] * 6, scores) == EVEN, "nor do equal settings"


def plan(sampler: str, **space: Any) -> Plan:
    strategy = "random" if sampler == "Random" else "optuna"
    hyperopt = {"strategy": strategy, "optuna_sampler": sampler, "optuna_n_startup_trials": 5}
    return Plan.of({"output_dir": ".", "search_space": space, "hyperopt": hyperopt})


def drawn(made: Plan, trials: list[Any], count: int = 60) -> list[dict[str, Any]]:
    """What the first parameters of a proposal are after ``trials``, each time anew."""
    found = []
    for number in range(count):
        study = optuna.create_study(direction="maximize", sampler=build_sampler(made, number))
        study.add_trials(trials)
        found.append(made.space.suggest(study.ask()))
    return found


def ended(made: Plan, rate: float, value: float) -> Any:
    params = {"learning_rate": rate, "weight_decay": 0.01, "lora_r": 16}
    return create_trial(value=value, params=params, distributions=made.space.distributions())


SPACE = {"learning_rate": RATE, "lora_r": RANK, "weight_decay": {"type": "uniform", "low": 0.0, "high": 1.0}}


@pytest.mark.parametrize("sampler", ["TPE", "CMA", "Random", "GPSampler"])
def test_the_first_draws_of_each_sampler_follow_it(sampler: str) -> None:
    found = drawn(plan(sampler, **SPACE), [])
    near = sum(1e-3 / 2 < one["learning_rate"] < 2e-3 for one in found)
    assert near > 0.7 * len(found), "even draws: 0.3"
    assert sum(one["lora_r"] == 16 for one in found) > 0.4 * len(found), "even draws: 0.25"
    assert np.mean([one["weight_decay"] for one in found]) == pytest.approx(0.5, abs=0.1), "it has no prior"
    assert found == drawn(plan(sampler, **SPACE), []), "the same seed draws the same"
    assert {type(value) for one in found for value in one.values()} == {float, int}, "YAML takes them"


def test_tpe_weighs_its_candidates_by_it() -> None:
    """Two settings are equally good; the prior is for one of them."""
    made = plan("TPE", **SPACE)
    trials = [
        ended(made, rate, 0.5 + 0.4 * (rate in (1.2e-4, 1e-3))) for rate in (1.2e-4, 1e-3, *np.geomspace(2e-4, 9e-3, 9))
    ]
    bare = {name: {key: value for key, value in block.items() if key != "prior"} for name, block in SPACE.items()}
    near = [
        sum(1e-3 / 2 < one["learning_rate"] < 2e-3 for one in drawn(of, trials, 100))
        for of in (made, plan("TPE", **bare))
    ]
    assert near[0] > near[1] + 15


def test_a_wrong_prior_is_left() -> None:
    made = plan("Random", **SPACE)
    rates = [*(1e-3 * 1.02**k for k in range(12)), *(5e-3 * 1.1**k for k in range(6))]
    trials = [ended(made, rate, 0.9 if rate > 4e-3 else 0.1) for rate in rates]
    near = sum(1e-3 / 2 < one["learning_rate"] < 2e-3 for one in drawn(made, trials))
    assert near < 0.5 * 60, "even draws: 0.3"


@pytest.mark.parametrize("sampler", ["TPE", "CMA", "Random", "GPSampler"])
def test_a_trial_without_a_value_says_nothing_of_a_prior(sampler: str) -> None:
    made = plan(sampler, **SPACE)
    params, distributions = {"learning_rate": 9e-3, "weight_decay": 0.01, "lora_r": 16}, made.space.distributions()
    out_of_memory = create_trial(state=TrialState.FAIL, params=params, distributions=distributions)
    out_of_memory.set_constraint(INFEASIBLE, 1.0)
    near = sum(1e-3 / 2 < one["learning_rate"] < 2e-3 for one in drawn(made, [out_of_memory], 30))
    assert near > 0.6 * 30, "even draws: 0.3"


def test_settings_to_try_first() -> None:
    first = [{"learning_rate": 2e-3, "lora_r": 8}, {"learning_rate": 1.0}, {"lora_r": 32, "weight_decay": 0.5}]
    made = plan("TPE", **SPACE, first=first)
    default = {"learning_rate": 1e-3, "lora_r": 16, "weight_decay": 0.01}
    assert made.enqueued == [default, first[0], first[2]], "the second lies outside of the space"
    narrower = plan("TPE", **{**SPACE, "lora_r": {"type": "choice", "choices": [8, 16]}}, first=first)
    assert narrower.enqueued == [default, first[0]]
    without = plan("TPE", learning_rate=RATE, first=[{"learning_rate": 2e-3, "lora_r": 8}])
    assert without.enqueued == [{"learning_rate": 1e-3}, {"learning_rate": 2e-3}], "the rank is not searched"


@pytest.mark.parametrize(
    ("first", "rule"),
    [
        ({"lora_r": 8}, "must be a list of settings"),
        ([8], "must be a list of settings"),
        ([{"lora_rr": 8}], "'lora_rr'"),
    ],
)
def test_broken_first_settings_are_a_fault(first: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        plan("TPE", **SPACE, first=first)
