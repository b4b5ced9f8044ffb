"""What would go wrong on a GPU, as far as a CPU can show it: settings, checkpointing, number formats."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import ConfigError, UserError
from mistral_ner.hyperopt.engines.slots import InLauncher
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.model import lend_model
from mistral_ner.model.layers import compute_activations, skip_layers

LABELS = ["O", "B-PER", "I-PER"]


def plan(training: dict[str, Any] | None = None, **hyperopt: Any) -> Plan:
    return Plan.of(
        {
            "output_dir": "out",
            "training": training or {},
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}},
            "hyperopt": {"strategy": "optuna", **hyperopt},
        }
    )


def tiny(**settings: Any) -> ModelConfig:
    shape = {"model_type": "mistral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return ModelConfig(model_name="tiny", random_init={**shape, **heads}, lora_dropout=0, **settings)


@pytest.mark.parametrize(
    ("gpu", "processes", "key", "rule", "fix"),
    [
        (1.5, None, "resources_per_trial.gpu", "above 1 it must be a whole number, since each process", "gpu=1"),
        (2, 3, "training.processes", "a trial of 2 GPUs has as many processes, found 3", "processes=null"),
        (8, None, "resources_per_trial.gpu", "a trial of 8 GPUs does not fit this machine, which has 4", "gpu=1"),
        (None, 2, "resources_per_trial.gpu", "training.processes=2 needs as many, found 1", "gpu=2"),
    ],
)
def test_gpus_that_a_trial_cannot_have(
    monkeypatch: pytest.MonkeyPatch, gpu: float | None, processes: int | None, key: str, rule: str, fix: str
) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: 4)
    with pytest.raises(ConfigError) as raised:
        plan({"processes": processes}, resources_per_trial={"gpu": gpu})
    (fault,) = raised.value.faults
    assert fault.key.endswith(key)
    assert rule in fault.rule
    assert fault.fix.endswith(fix)


def test_a_trial_of_several_gpus_has_a_process_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: 4)
    made = plan(max_concurrent=8, resources_per_trial={"gpu": 2})
    assert (made.config.training.processes, made.at_once) == (2, 2)
    monkeypatch.setattr(capacity, "gpus", lambda: 0)
    assert plan({"processes": 2}).config.training.processes == 2, "on a CPU they share its threads"
    with pytest.raises(ConfigError, match="trials of a pass share one process, and these have several each"):
        plan({"processes": 2}, trials_per_pass=2, max_concurrent=2)


def test_trials_of_joblib_would_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = type("JoblibLauncher", (), {})()
    several, single = plan(max_concurrent=2), plan(max_concurrent=1)
    InLauncher(several, launcher, lambda number: [])
    monkeypatch.setattr(capacity, "gpus", lambda: 2)
    InLauncher(single, launcher, lambda number: [])
    with pytest.raises(UserError, match="hydra/launcher=joblib would run 2 trials at once on the first GPU"):
        InLauncher(several, launcher, lambda number: [])


def batch(rows: int = 8, tokens: int = 32) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 90, (rows, tokens), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids % 3}


def held_bytes(before: set[int]) -> int:
    gc.collect()
    found = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor) and id(one) not in before]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in found}.values())


@pytest.mark.usefixtures("cold")
def test_checkpointing_keeps_little_in_8_bit() -> None:
    """bitsandbytes keeps a layer's input out of sight of checkpointing that is not re-entrant."""
    model = tiny(quantization="8bit", gradient_checkpointing=True)
    with lend_model(model, LABELS, 0, 100) as attached:
        attached.train()
        given = batch()
        attached(**given).loss.backward()
        attached.zero_grad()
        gc.collect()
        before = {id(one) for one in gc.get_objects() if issubclass(type(one), torch.Tensor)}
        loss = attached(**given).loss
        assert held_bytes(before) / (8 * 32 * 4 * 64) < 9, "bytes a token, layer and hidden unit"
        loss.backward()


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("quantization", ["none", "8bit"])
def test_checkpointing_trains_the_layer_above_a_frozen_prefix(quantization: str) -> None:
    """Its input is read from disk and requires no gradient, without which re-entrant checkpointing gives none."""
    gradients = []
    for checkpointing in (False, True):
        model = tiny(quantization=quantization, gradient_checkpointing=checkpointing, lora_layers="top:2")
        with lend_model(model, LABELS, 0, 100) as attached:
            base = attached.get_base_model()
            given = batch()
            with torch.no_grad():
                hidden = compute_activations(base, 2, given).clone()
            del given["input_ids"]
            attached.train()
            for module in attached.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0  # the head's own
            with skip_layers(base, 2):
                attached(inputs_embeds=hidden, **given).loss.backward()
            trained = {name: one.grad for name, one in attached.named_parameters() if one.requires_grad}
            assert all(gradient is not None for gradient in trained.values())
            gradients.append(trained)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.usefixtures("cold")
def test_8_bit_layers_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    with lend_model(tiny(quantization="8bit"), LABELS, 0, 100) as attached, torch.autocast("cpu", torch.bfloat16):
        attached(**batch())
    assert [record for record in caplog.records if record.name.startswith("bitsandbytes")] == []
    assert logging.getLogger("bitsandbytes.autograd._functions").getEffectiveLevel() == logging.ERROR


@pytest.mark.usefixtures("cold")
def test_checkpointing_before_transformers_renamed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    if not hasattr(PreTrainedModel, "activation_checkpointing_enable"):
        pytest.skip("this transformers is one of before")
    own = PreTrainedModel._activation_checkpointing_enable, PreTrainedModel._activation_checkpointing_disable
    for verb, method in zip(("enable", "disable"), own, strict=True):
        monkeypatch.delattr(PreTrainedModel, f"activation_checkpointing_{verb}")

        def old(self: Any, *args: Any, method: Any = method) -> None:
            calls.append(args)
            method(self, *args)

        monkeypatch.setattr(PreTrainedModel, f"gradient_checkpointing_{verb}", old)
    with lend_model(tiny(gradient_checkpointing=True), LABELS, 0, 100) as attached:
        attached.train()
        attached(**batch()).loss.backward()
    assert calls == [({"use_reentrant": False},), ()]
