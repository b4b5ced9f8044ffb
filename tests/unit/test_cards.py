"""How many trials share a GPU, and when activations are computed again: from the memory plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mistral_ner.config.schema import Config, ModelConfig
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.model.memory import plan as memory_plan
from mistral_ner.model.memory.plan import MemoryPlan
from mistral_ner.train import fit
from mistral_ner.training import memory, trainer
from mistral_ner.training.gpu import keep_to_share

SHAPE = {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "sliding_window": None}


def plan(model: dict[str, Any] | None = None, **hyperopt: Any) -> Plan:
    return Plan.of(
        {
            "output_dir": "out",
            "model": {
                "model_name": "7B",
                "random_init": {**SHAPE, **HEADS},
                "gradient_checkpointing": True,
                **(model or {}),
            },
            "training": {"per_device_train_batch_size": 8},
            "search_space": {"lora_r": {"type": "choice", "choices": [8, 16]}},
            "hyperopt": {"strategy": "combined", **hyperopt},
        }
    )


@pytest.mark.parametrize(
    ("gigabytes", "model", "hyperopt", "share", "at_once"),
    [
        (80, {}, {}, 0.25, 4),  # 16.1 GB each
        (24, {}, {}, None, 1),
        (80, {"quantization": "4bit"}, {}, 0.0833, 12),  # 5.9 GB each
        (80, {"quantization": "4bit"}, {"num_trials": 3}, 0.3333, 3),
        (80, {}, {"resources_per_trial": {"gpu": 1}}, 1, 1),
        (80, {}, {"trials_per_pass": 8}, 0.5, 16),  # the weights once, eight times the rest: 30 GB
        (80, {}, {"ray_address": "auto", "max_concurrent": 2}, None, 2),
    ],
)
def test_as_many_share_a_card_as_the_plan_says(
    monkeypatch: pytest.MonkeyPatch,
    gigabytes: float,
    model: dict[str, Any],
    hyperopt: dict[str, Any],
    share: float | None,
    at_once: int,
) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: 1)
    monkeypatch.setattr(capacity, "cores", lambda: 16)
    monkeypatch.setattr(memory_plan, "memory_of_machine", lambda cards=1: ("card", gigabytes * 1e9))
    made = plan(model, **hyperopt)
    assert (made.config.hyperopt.resources_per_trial.gpu, made.at_once) == (share, at_once)


def test_a_pass_has_the_weights_once() -> None:
    assert MemoryPlan(weights=10, trained=1, activations=2, buffers=3, numbers=1).of_pass(4) == 10 + 4 * 6
    assert MemoryPlan(weights=10, trained=1, activations=None, buffers=3, numbers=1).of_pass(4) is None


def test_a_process_keeps_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", seen.append)
    config = Config(output_dir="")
    for share in (None, 0, 1, 0.25):
        config.hyperopt.resources_per_trial.gpu = share
        keep_to_share(config)
    assert seen == [0.25]


@pytest.mark.parametrize(("room", "again"), [(1e12, False), (30e9, True)])
def test_activations_are_computed_again_where_memory_does_not_hold_them(
    monkeypatch: pytest.MonkeyPatch, room: float, again: bool
) -> None:
    monkeypatch.setattr(memory, "room_of_process", lambda cards=1: room)
    model = ModelConfig(model_name="7B", random_init={**SHAPE, **HEADS}, gradient_checkpointing="auto")
    config = Config(output_dir="", model=model)
    assert memory.settle_checkpointing(config, 9, 32768, 8).model.gradient_checkpointing is again
    assert memory.settle_checkpointing(config, 9, 32768, 8, trials=1000).model.gradient_checkpointing is True
    config.model.gradient_checkpointing = False
    assert memory.settle_checkpointing(config, 9, 32768, 8, trials=1000) is config


def test_reports_have_the_peak_of_the_card(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "peak_on_card", lambda: 1.2345)
    seen: list[float] = []
    tiny["model"]["gradient_checkpointing"] = "auto"
    tiny["training"]["num_epochs"] = 1
    fit(tiny, lambda number, metrics: bool(seen.append(metrics["gpu_memory_gb"])))
    assert seen == [1.234, 1.234, 1.234]
