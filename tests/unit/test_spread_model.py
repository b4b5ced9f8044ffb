"""A model over several GPUs (``model.device_map=auto``), as far as it needs none: settings, faults, plans, devices."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn

from mistral_ner.config.check import check
from mistral_ner.config.schema import Config, ModelConfig
from mistral_ner.errors import ConfigError, UserError
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.model import base, hardware
from mistral_ner.model.adapter import Head
from mistral_ner.model.memory import plan as memory_plan
from mistral_ner.model.source import explain
from mistral_ner.training import memory

SPREAD = ModelConfig(model_name="M", device_map="auto")


def plan(gpu: float | None, training: dict[str, Any] | None = None, **hyperopt: Any) -> Plan:
    return Plan.of(
        {
            "output_dir": "out",
            "model": {"device_map": "auto"},
            "training": training or {},
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}},
            "hyperopt": {"strategy": "combined", "resources_per_trial": {"gpu": gpu}, **hyperopt},
        }
    )


def test_a_trial_of_several_gpus_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: 4)
    for gpu, at_once in ((1, 4), (2, 2), (4, 1)):
        made = plan(gpu, max_concurrent=8)
        assert (made.config.training.processes, made.at_once) == (None, at_once)
    assert plan(2, {"processes": 1}).config.training.processes == 1
    assert plan(8, ray_address="auto", max_concurrent=2).config.hyperopt.resources_per_trial.gpu == 8


@pytest.mark.parametrize(
    ("found", "gpu", "training", "hyperopt", "key", "rule"),
    [
        (0, None, {}, {}, "model.device_map", "auto spreads a model over GPUs, and this machine has none"),
        (4, None, {}, {}, "hyperopt.resources_per_trial.gpu", "over how many whole GPUs.*found null"),
        (4, 0.5, {}, {}, "hyperopt.resources_per_trial.gpu", "over how many whole GPUs.*found 0.5"),
        (4, 1.5, {}, {}, "hyperopt.resources_per_trial.gpu", "over how many whole GPUs.*found 1.5"),
        (4, 8, {}, {}, "hyperopt.resources_per_trial.gpu", "a trial of 8 GPUs does not fit this machine, which has 4"),
        (4, 0, {}, {"ray_address": "auto"}, "hyperopt.resources_per_trial.gpu", "over how many whole GPUs.*found 0"),
        (4, 2, {"processes": 2}, {}, "training.processes", "one process has all the GPUs of a model that.*found 2"),
        (4, 2, {}, {"trials_per_pass": 2, "max_concurrent": 2}, "hyperopt.trials_per_pass", "share one GPU"),
    ],
)
def test_what_cannot_be_is_one_fault(
    monkeypatch: pytest.MonkeyPatch,
    found: int,
    gpu: float | None,
    training: dict[str, Any],
    hyperopt: dict[str, Any],
    key: str,
    rule: str,
) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: found)
    with pytest.raises(ConfigError, match=rule) as raised:
        plan(gpu, training, **hyperopt)
    (fault,) = raised.value.faults
    assert fault.key == key


def test_one_training_is_refused_alike(tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"training.processes: one process has all the GPUs"):
        check({**tiny, "model": {**tiny["model"], "device_map": "auto"}, "training": {"processes": 2}})
    with pytest.raises(ConfigError, match=r"model.device_map: must be one of auto, found 'cpu'"):
        check({**tiny, "model": {**tiny["model"], "device_map": "cpu"}})
    with pytest.raises(
        UserError, match=r"^model.device_map=auto spreads a model over GPUs, and this process sees none;"
    ):
        memory.refuse_what_cannot_fit(check({**tiny, "model": {**tiny["model"], "device_map": "auto"}}), 5, 100)


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_what_from_pretrained_is_given(
    monkeypatch: pytest.MonkeyPatch, tiny_model: dict[str, Any], quantization: str
) -> None:
    given: dict[str, Any] = {}

    class TakenError(Exception):
        pass

    def take(*_: Any, **options: Any) -> Any:
        given.update(options)
        raise TakenError

    monkeypatch.setattr(base.AutoModelForTokenClassification, "from_pretrained", take)
    monkeypatch.setattr(hardware, "find_map", lambda model: model.device_map)  # as on a machine with GPUs
    model = ModelConfig(**tiny_model, device_map="auto", quantization=quantization)
    with pytest.raises(TakenError):
        base.load_base(model, 100)
    assert given["device_map"] == "auto"
    assert ("quantization_config" in given) == (quantization != "none")
    if quantization != "none":
        with pytest.raises(TakenError):
            base.load_base(model, 100, torch.device("cpu"))
        assert given["device_map"] == {"": torch.device("cpu")}, "a merged model is made on one device"


def test_gpus_make_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.find_map(ModelConfig()) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hardware.find_map(SPREAD) == "auto"
    assert hardware.find_map(ModelConfig()) is None


def test_what_gpus_do_not_hold_is_named() -> None:
    why = explain(SPREAD, ValueError("Some modules are dispatched on the CPU or the disk. Make sure you have enough"))
    assert why.startswith("the GPUs that this process sees do not hold M together; type more of them in hyperopt.")


def test_the_plan_counts_the_memory_of_all_its_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda card: types.SimpleNamespace(total_memory=10 + card))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (5 + card, 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda card: 1)
    config = Config(output_dir="", model=SPREAD)
    assert memory_plan.count_cards(config) == 4, "all that the process sees"
    config.hyperopt.resources_per_trial.gpu = 2
    assert memory_plan.count_cards(config) == 2
    config.model = ModelConfig()
    assert memory_plan.count_cards(config) == 1, "a process for each"
    assert memory_plan.memory_of_machine() == ("card", 10)
    assert memory_plan.memory_of_machine(2) == ("2 times card", 21)
    assert memory_plan.free_on_card(2) == 11
    assert memory_plan.room_of_process(2) == 13


def test_inputs_go_where_the_first_part_computes() -> None:
    network = nn.Linear(1, 1)
    assert hardware.place_of_inputs(network) == torch.device("cpu")
    network._hf_hook = types.SimpleNamespace(execution_device="meta")  # type: ignore[assignment]
    assert hardware.place_of_inputs(network) == torch.device("meta")
    around = types.SimpleNamespace(get_base_model=lambda: network)
    assert hardware.place_of_inputs(around) == torch.device("meta")


def test_the_head_takes_activations_from_another_device() -> None:
    head = Head(2, 3, device="meta")
    assert head(torch.ones(1, 2, dtype=torch.bfloat16)).device == torch.device("meta")
