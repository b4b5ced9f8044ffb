"""The memory plan, held against what torch keeps and what it takes at its peak."""

from __future__ import annotations

import itertools
import re
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.helpers import disable_input_dtype_casting
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mistral_ner.config.schema import Config, ModelConfig, TrainingConfig
from mistral_ner.model import lend_model
from mistral_ner.model.cpu.dropout import quick_dropout
from mistral_ner.model.cpu.lora import quick_lora
from mistral_ner.model.memory.network import read_network
from mistral_ner.model.memory.plan import MemoryPlan, format_size, plan_memory
from mistral_ner.training import memory
from mistral_ner.training.memory import OutOfMemoryError, refuse_what_cannot_fit

pytestmark = pytest.mark.usefixtures("cold")
LABELS, VOCABULARY, ROWS, TOKENS = ["O", "B-PER", "I-PER"], 500, 8, 64
SHAPE = {"model_type": "mistral", "hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 6}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "sliding_window": None}


def config(precision: str, **settings: Any) -> Config:
    dtype = "float32" if precision == "fp32" else "bfloat16"
    model = ModelConfig(model_name="small", random_init={**SHAPE, **HEADS}, dtype=dtype, **settings)
    return Config(
        output_dir="", model=model, training=TrainingConfig(precision=precision, per_device_train_batch_size=ROWS)
    )


def planned(made: Config) -> MemoryPlan:
    return plan_memory(made, len(LABELS), VOCABULARY, TOKENS, on_gpu=False)


def loss_of(model: Any, precision: str) -> torch.Tensor:
    ids = torch.randint(4, 400, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
        logits = model(input_ids=ids, attention_mask=mask).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), (ids % 3).flatten(), reduction="sum")


def kept_bytes(made: Config) -> int:
    """Count the storages that autograd keeps for the backward pass, without the model's own weights."""
    with lend_model(made.model, LABELS, 0, VOCABULARY) as model:
        model.train()
        own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
        kept: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if (place := tensor.untyped_storage().data_ptr()) not in own:
                kept[place] = tensor
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        casts = disable_input_dtype_casting(model, active=made.training.precision != "fp32")  # as fit does
        with casts, quick_dropout(model), quick_lora(model), hooks:
            loss_of(model, made.training.precision)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


CASES = list(itertools.product(["fp32", "bf16"], [0.0, 0.1], ["eager", "sdpa"], [8, 32]))


@pytest.mark.parametrize(("precision", "dropout", "attention", "rank"), CASES)
def test_activations_are_those_that_torch_keeps(precision: str, dropout: float, attention: str, rank: int) -> None:
    made = config(precision, lora_dropout=dropout, attention=attention, lora_r=rank)
    assert planned(made).activations == pytest.approx(kept_bytes(made), rel=0.15)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["o_proj", "down_proj"]])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_of_fewer_targets(targets: list[str], dropout: float) -> None:
    made = config("fp32", lora_dropout=dropout, attention="sdpa", lora_target_modules=targets)
    assert planned(made).activations == pytest.approx(kept_bytes(made), rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_keeps_the_inputs_of_layers_until_a_layer_is_computed_again(precision: str) -> None:
    made = config(precision, gradient_checkpointing=True, attention="sdpa")
    kept = []
    for layers in (1, 2):
        few = config(precision, attention="sdpa")
        assert few.model.random_init is not None
        few.model.random_init["num_hidden_layers"] = layers
        kept.append(kept_bytes(few))
    assert planned(made).activations == pytest.approx(kept_bytes(made) + kept[1] - kept[0], rel=0.15)
    assert planned(made).activations < 0.5 * (planned(config(precision, attention="sdpa")).activations or 0)


class Live(TorchDispatchMode):
    """Adds up the storages that live, and remembers the most; those in ``own`` are not counted."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()
        self.own, self.sizes, self.now, self.peak = own, dict[int, int](), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is None or storage._cdata in self.sizes or storage.data_ptr() in self.own:
                continue
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._drop, storage._cdata)
        self.peak = max(self.peak, self.now)
        return out

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_the_whole_is_the_peak_of_a_step(quantization: str, checkpointing: bool) -> None:
    made = config("fp32", quantization=quantization, gradient_checkpointing=checkpointing, attention="sdpa")
    with lend_model(made.model, LABELS, 0, VOCABULARY) as model, quick_dropout(model), quick_lora(model):
        model.train()
        trained = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)
        parameters = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in model.parameters()}
        loss_of(model, "fp32").backward()
        optimizer.step()  # makes the optimiser's state
        state = sum(one.numel() * one.element_size() for of in optimizer.state.values() for one in of.values())
        optimizer.zero_grad(set_to_none=True)
        with Live(set(parameters)) as live:
            loss_of(model, "fp32").backward()
            optimizer.step()
    assert planned(made).total == pytest.approx(sum(parameters.values()) + state + live.peak, rel=0.15)


def mistral_7b(**settings: Any) -> Config:
    """Mistral-7B-v0.3's config.json (https://huggingface.co/mistralai/Mistral-7B-v0.3)."""
    shape = {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "sliding_window": None}
    model = ModelConfig(model_name="7B", random_init={**shape, **heads}, **settings)
    return Config(output_dir="", model=model, training=TrainingConfig(per_device_train_batch_size=8))


def test_a_7b_in_figures() -> None:
    """7.11 billion weights without the output layer; LoRA of rank 16 on all linear layers has 41.9 million."""
    network = read_network(mistral_7b().model, 32768)
    assert network.parameters == 7_113_805_824
    plans = {bits: plan_memory(mistral_7b(quantization=bits), 9, 32768, 128, True) for bits in ("none", "8bit", "4bit")}
    assert plans["none"].numbers == 41_943_040 + 9 * 4097
    assert [round(plan.weights / 1e9, 2) for plan in plans.values()] == [14.23, 7.25, 3.87]
    assert round(plan_memory(mistral_7b(tuning="full"), 9, 32768, 128, True).least / 1e9) == 128


def test_the_table_of_the_docs_is_the_plan() -> None:
    page = (Path(__file__).parents[2] / "docs/gpus.md").read_text()
    rows = re.findall(r"^\| `model=mistral_7b\w*`.*?\| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for bits, row in zip(("none", "8bit", "4bit"), rows, strict=True):
        plans = [
            plan_memory(mistral_7b(quantization=bits, gradient_checkpointing=again), 9, 32768, length, True)
            for again in (True, False)
            for length in (128, 512)
        ]
        assert row.split(" | ") == [format_size(plan.total or 0) for plan in plans]


def test_what_cannot_fit_is_refused_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_of_machine", lambda cards=1: ("NVIDIA H100", 80e9))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refuse_what_cannot_fit(mistral_7b(), 9, 32768)
    with pytest.raises(OutOfMemoryError) as raised:
        refuse_what_cannot_fit(mistral_7b(tuning="full"), 9, 32768)
    assert str(raised.value) == (
        "7B needs 128 GB of memory before any sentence goes through it, and NVIDIA H100 has 80 GB: 14.2 GB of weights, "
        "and 7,114 million trained numbers with gradient and optimiser, 16 bytes each, 113.8 GB\n"
        "  fix: model.tuning=lora, or a smaller model.model_name"
    )
    monkeypatch.setattr(memory, "memory_of_machine", lambda cards=1: ("NVIDIA L4", 6e9))
    refuse_what_cannot_fit(mistral_7b(quantization="4bit"), 9, 32768)
    with pytest.raises(OutOfMemoryError, match=r"fix: model.quantization=4bit, or more GPUs with model.device_map"):
        refuse_what_cannot_fit(mistral_7b(quantization="8bit"), 9, 32768)
