"""In which number format each part of a network computes: 16 bits from layer to layer, 32 in the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mistral_ner.config.schema import ModelConfig
from mistral_ner.model import lend_model
from mistral_ner.model.adapter import Head
from mistral_ner.predict import Tagger
from mistral_ner.train import fit

pytestmark = pytest.mark.usefixtures("cold")
LABELS = ["O", "B-PER", "I-PER"]


def tiny_config(**settings: Any) -> ModelConfig:
    shape = {"model_type": "mistral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return ModelConfig(model_name="tiny", random_init={**shape, **heads}, **settings)


def test_the_head_computes_in_float32() -> None:
    torch.manual_seed(0)
    head, given = Head(64, 3), torch.randn(5, 64).bfloat16()
    wanted = nn.functional.linear(given.float(), head.weight, head.bias)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(given)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, wanted)
    logits.sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 90, (4, 16), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids % 3}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_layers_hand_on_16_bits(quantization: str, checkpointing: bool) -> None:
    """In 32 bits what passes from layer to layer, and all that is kept of it, takes twice the memory."""
    model = tiny_config(quantization=quantization, dtype="bfloat16", gradient_checkpointing=checkpointing)
    seen: list[torch.dtype] = []
    with lend_model(model, LABELS, 0, 100) as attached, torch.autocast("cpu", torch.bfloat16):
        attached.train()
        for layer in attached.get_base_model().model.layers:
            layer.register_forward_hook(lambda layer, args, output: seen.append(output.dtype))
        output = attached(**batch())
        assert set(seen) == {torch.bfloat16}
        assert output.logits.dtype == torch.float32
        output.loss.backward()
        trained = {name: one for name, one in attached.named_parameters() if one.requires_grad}
        assert {one.dtype for one in trained.values()} == {torch.float32}
        assert [name for name, one in trained.items() if one.grad is None] == []


def test_a_model_tags_in_the_format_that_it_was_scored_in(tiny: dict[str, Any]) -> None:
    tiny["training"]["precision"] = "bf16"
    fit(tiny)
    tagger, seen = Tagger.load(tiny["output_dir"]), []
    base: Any = tagger._model
    base.get_base_model().model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda layer, args, output: seen.append(output.dtype)
    )
    tagger.tag(["Ada saw Rome ."])
    assert set(seen) == {torch.bfloat16}
