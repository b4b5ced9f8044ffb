"""What a 7B model starts from: settings inside of its own search space, and number formats that the card computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.dispatch import without_hydra
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.model import hardware


@pytest.mark.parametrize("model", ["mistral_7b", "mistral_7b_8bit", "mistral_7b_4bit"])
def test_a_7b_starts_in_its_own_space(compose: Any, model: str) -> None:
    plan = Plan.of(without_hydra(compose("hyperopt=combined", f"model={model}")))
    assert (plan.config.training.learning_rate, plan.config.training.weight_decay) == (2e-4, 0)
    assert [parameter.name for parameter in plan.space] == [
        "learning_rate",
        "lora_r",
        "lora_dropout",
        "per_device_train_batch_size",
        "warmup_ratio",
    ]
    assert (plan.config.hyperopt.final.top_k, plan.config.hyperopt.final.seeds) == (2, 2)
    assert plan.enqueued[0]["learning_rate"] == 2e-4, "the default is the first trial"


def test_what_is_typed_goes_first(compose: Any) -> None:
    plan = Plan.of(
        without_hydra(compose("hyperopt=combined", "model=mistral_7b", "search_space=lora", "training=default"))
    )
    assert plan.config.training.learning_rate == 1e-3
    assert "weight_decay" in [parameter.name for parameter in plan.space]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend that there is a card of a compute capability, with the flash-attn package."""

    def pretend(capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (capability, 0))
        # as torch does: before Ampere bf16 is "supported" by emulation
        bf16 = lambda including_emulation=True: capability >= 8 or including_emulation  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", bf16)
        monkeypatch.setattr(hardware, "is_flash_attn_2_available", lambda: True)

    return pretend


@pytest.mark.parametrize(("capability", "dtype", "products"), [(7, torch.float16, "fp16"), (8, torch.bfloat16, "bf16")])
def test_weights_and_products_have_one_format(
    compose: Any, card: Callable[[int], None], capability: int, dtype: torch.dtype, products: str
) -> None:
    """Emulated bf16 products with fp16 weights would be slow, and round twice."""
    card(capability)
    config = without_hydra(compose("hyperopt=combined", "model=mistral_7b_4bit"))
    model = Plan.of(config).config.model
    assert hardware.frozen_dtype(model) == dtype
    assert hardware.quantization(model).bnb_4bit_compute_dtype == dtype
    assert hardware.precision("auto") == products
    assert hardware.autocast("auto").fast_dtype == dtype


def test_flash_attention_where_it_can_be_used(card: Callable[[int], None]) -> None:
    flash = ModelConfig(attention="flash_attention_2")
    card(8)
    assert hardware.attention(flash) == "flash_attention_2"
    assert hardware.attention(ModelConfig()) is None, "the windows are short"
    card(7)
    with pytest.raises(UserError, match=r"needs a GPU of compute capability 8 or more.*type model.attention=auto"):
        hardware.attention(flash)
