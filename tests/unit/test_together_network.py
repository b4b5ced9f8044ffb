"""The network of a pass: each kind of network gives a trial the logits and gradients of its own model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mistral_ner.config.schema import ModelConfig
from mistral_ner.model.adapter import attach
from mistral_ner.model.base import base_model
from mistral_ner.model.together.network import KINDS, Member, TogetherNetwork
from mistral_ner.model.together.random import RandomState
from mistral_ner.model.together.shared import share_weights

pytestmark = pytest.mark.usefixtures("cold")
LABELS, VOCABULARY = ["O", "B-PER", "I-PER"], 100
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def settings(kind: str, **more: Any) -> ModelConfig:
    own = {"num_key_value_heads": 1} if kind in ("llama", "mistral", "qwen2", "qwen3") else OFF
    return ModelConfig(model_name="tiny", random_init={"model_type": kind, **SHAPE, **own}, lora_dropout=0.0, **more)


def batch(rows: int, tokens: int, seed: int) -> dict[str, torch.Tensor]:
    """Tokens with padding on the right of all rows but the first."""
    ids = torch.randint(4, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, tokens - row :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("equal_blocks", [False, True])
def test_logits_and_gradients_are_those_of_each_model(kind: str, equal_blocks: bool) -> None:
    chosen = settings(kind)
    base = base_model(chosen, VOCABULARY)
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    models = []
    for number, rank in enumerate((4, 8, 2)):
        model: Any = attach(settings(kind, lora_r=rank), share_weights(base), LABELS, number)
        for name, one in model.named_parameters():  # LoRA's B is 0 at first, and so is what it adds
            if one.requires_grad and "lora_B" in name:
                torch.nn.init.normal_(one, std=0.1, generator=torch.Generator().manual_seed(number))
        models.append(model.train())
    batches = [batch(2, 7, 0), batch(4, 5, 1), batch(1, 9, 2)]
    expected, gradients = [], []
    for model, one in zip(models, batches, strict=True):
        logits = model(**one).logits
        logits.square().sum().backward()
        expected.append(logits.detach())
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
        model.zero_grad(set_to_none=True)
    network = TogetherNetwork(base, chosen, "sdpa", "fp32", equal_blocks)
    members = [Member(model, RandomState()) for model in models]
    for member in members:
        network.add(member)
    found = network.logits(list(zip(members, batches, strict=True)))
    torch.autograd.backward([one.square().sum() for one in found])
    for model, one, mine, theirs in zip(models, found, expected, gradients, strict=True):
        torch.testing.assert_close(one.detach(), mine, atol=1e-5, rtol=1e-5)
        for name, value in model.named_parameters():
            if value.requires_grad:
                torch.testing.assert_close(value.grad, theirs[name], atol=1e-4, rtol=1e-4, msg=name)


def test_weights_are_shared_and_modules_are_not() -> None:
    base = base_model(settings("bert"), VOCABULARY)
    own = share_weights(base)
    for (name, one), (other_name, other) in zip(base.named_parameters(), own.named_parameters(), strict=True):
        assert name == other_name
        assert one is other
    assert not {id(one) for one in base.modules()} & {id(one) for one in own.modules()}
    assert own.config is not base.config


def test_random_numbers_go_on_where_they_were() -> None:
    torch.manual_seed(1)
    expected = torch.rand(5)
    torch.manual_seed(1)
    state = RandomState()
    torch.manual_seed(2)
    with state.drawing(torch.device("cpu")):
        first = torch.rand(2)
    torch.rand(3)
    state.load()
    assert torch.equal(torch.cat([first, torch.rand(3)]), torch.cat([expected[:2], expected[2:]]))
