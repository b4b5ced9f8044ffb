"""Search spaces: the five kinds, the command-line forms, and the text of every fault."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from mistral_ner.hyperopt.spec.parse import parse

LR = {"type": "loguniform", "low": 1e-5, "high": 1e-3}


def suggested(block: dict[str, Any], count: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    space, faults = parse(block)
    assert not faults, faults
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(count)]


def test_kinds_stay_in_range_with_both_ends() -> None:
    block = {
        "learning_rate": {"type": "loguniform", "low": "1e-5", "high": "1e-3"},
        "warmup_ratio": {"type": "uniform", "low": 0.0, "high": 0.1},
        "lora_r": {"type": "choice", "choices": [8, 16]},
        "num_epochs": {"type": "int", "low": 1, "high": 3},
        "gradient_accumulation_steps": {"type": "logint", "low": 1, "high": 4},
    }
    values = suggested(block)
    assert all(1e-5 <= v["learning_rate"] <= 1e-3 for v in values)
    below = sum(v["learning_rate"] < 1e-4 for v in values)
    assert 70 < below < 130, "half of a log-uniform range lies under its geometric middle"
    assert {v["num_epochs"] for v in values} == {1, 2, 3}
    assert {v["gradient_accumulation_steps"] for v in values} == {1, 2, 3, 4}
    assert {v["lora_r"] for v in values} == {8, 16}
    assert all(type(v["num_epochs"]) is int for v in values)


def test_step() -> None:
    values = suggested({"per_device_train_batch_size": {"type": "int", "low": 4, "high": 16, "step": 4}})
    assert {v["per_device_train_batch_size"] for v in values} == {4, 8, 12, 16}


def test_choices_keep_their_types() -> None:
    block = {"lora_target_modules": {"type": "choice", "choices": ["auto", ["query", "value"]]}}
    values = [v["lora_target_modules"] for v in suggested(block)]
    assert "auto" in values
    assert ["query", "value"] in values
    kinds = {
        type(v["bidirectional"]) for v in suggested({"bidirectional": {"type": "choice", "choices": [True, False]}})
    }
    assert kinds == {bool}


def test_names_find_their_paths() -> None:
    space, _ = parse({"learning_rate": LR, "size": {"type": "int", "low": 8, "high": 16, "path": "data.max_length"}})
    assert {p.name: p.path for p in space} == {"learning_rate": "training.learning_rate", "size": "data.max_length"}
    assert space.by_path({"size": 9}) == {"data.max_length": 9}


def test_when_brings_a_parameter_into_play() -> None:
    block = {
        "lora_dropout": {"type": "uniform", "low": 0, "high": 0.3, "when": {"use_rslora": True}},
        "use_rslora": {"type": "choice", "choices": [True, False]},
    }
    values = suggested(block)
    assert all(("lora_dropout" in v) == v["use_rslora"] for v in values)
    assert {v["use_rslora"] for v in values} == {True, False}


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("training.learning_rate=interval(1e-4,1e-2)", "uniform(0.0001, 0.01)"),
        ("training.learning_rate=tag(log, interval(1e-4,1e-2))", "loguniform(0.0001, 0.01)"),
        ("training.learning_rate=choice(0.1,0.2)", "choice(0.1, 0.2)"),
        ("training.learning_rate=0.1,0.2", "choice(0.1, 0.2)"),
        ("model.lora_r=interval(2,8)", "int(2, 8)"),
        ("model.lora_r=tag(log, interval(2,8))", "logint(2, 8)"),
        ("model.lora_r=range(2,9,2)", "choice(2, 4, 6, 8)"),
        ("model.bidirectional=choice(true,false)", "choice(True, False)"),
        ("model.lora_target_modules=choice(auto,all-linear)", "choice(auto, all-linear)"),
    ],
)
def test_hydra_sweep_syntax(override: str, shown: str) -> None:
    space, faults = parse({"learning_rate": LR}, [override])
    assert not faults
    path = override.partition("=")[0]
    assert [str(p) for p in space if p.path == path] == [shown]
    assert len(space) == (1 if path == "training.learning_rate" else 2)


def test_plain_value_pins() -> None:
    block = {"learning_rate": LR, "lora_r": {"type": "choice", "choices": [8, 16]}}
    space, _ = parse(block, ["model.lora_r=8", "hyperopt=combined", "data=files"])
    assert [p.name for p in space] == ["learning_rate"]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"learning_rate": 3}, "must be a group with type, low, high or choices, found 3"),
        ({"learning_rate": {**LR, "type": "normal"}}, "must be one of uniform, loguniform, choice, int, logint"),
        ({"learning_rate": {**LR, "type": "log_uniform"}}, "(did you mean 'loguniform'?), found 'log_uniform'"),
        ({"learning_rate": {**LR, "hi": 1}}, "search_space.learning_rate.hi: unknown key (did you mean 'high'?)"),
        ({"learning_rate": {**LR, "low": 1}}, "search_space.learning_rate.low: must be less than high=0.001, found 1"),
        ({"learning_rate": {**LR, "low": 0}}, "must be greater than 0 for loguniform, found 0"),
        ({"learning_rate": {**LR, "low": "small"}}, "search_space.learning_rate.low: must be a number, found 'small'"),
        ({"learning_rate": {"type": "uniform", "low": 0}}, "learning_rate.high: must be a number, found None"),
        ({"learning_rate": {**LR, "step": 0.1}}, "a loguniform takes no step"),
        ({"warmup_ratio": {"type": "uniform", "low": 0, "high": 1, "step": -1}}, "must be greater than 0, found -1"),
        ({"lora_r": {"type": "uniform", "low": 2, "high": 8}}, "model.lora_r is a whole number, found uniform"),
        ({"lora_r": {"type": "int", "low": 1.5, "high": 3}}, "lora_r.low: must be a whole number, found 1.5"),
        ({"lora_r": {"type": "choice", "choices": []}}, "must be a list with at least one value, found []"),
        ({"lora_r": {"type": "choice", "choices": 8}}, "must be a list with at least one value, found 8"),
        ({"lora_r": {"type": "choice", "choices": [8, 8]}}, "holds a value twice"),
        ({"lora_rr": {"type": "choice", "choices": [8]}}, "no config key is named 'lora_rr' (did you mean 'lora_r'?)"),
        ({"x": {**LR, "path": "training.lr"}}, "no config key 'training.lr'"),
        ({"x": {**LR, "path": "hyperopt.num_trials"}}, "no config key 'hyperopt.num_trials'"),
        ({"learning_rate": LR, "x": {**LR, "path": "training.learning_rate"}}, "is searched twice"),
        ({"learning_rate": {**LR, "when": {"lora_r": 8}}}, "'lora_r' is not searched"),
        ({"learning_rate": {**LR, "when": 8}}, "must be a group PARAMETER: VALUE, found 8"),
        (
            {"learning_rate": {**LR, "when": {"lora_r": 9}}, "lora_r": {"type": "choice", "choices": [8]}},
            "search_space.learning_rate.when.lora_r: must be one of [8], found 9",
        ),
    ],
)
def test_fault_text(block: dict[str, Any], text: str) -> None:
    _, faults = parse(block)
    assert any(text in str(fault) for fault in faults), [str(fault) for fault in faults]


def test_sweeping_what_is_no_setting_is_a_fault() -> None:
    _, faults = parse({"learning_rate": LR}, ["hyperopt.num_trials=1,2"])
    assert "hyperopt.num_trials: cannot be searched" in str(faults[0])
