"""LoRA's layers in one node: peft's numbers and gradients, and peft's own layers afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.utils.checkpoint import checkpoint

from mistral_ner.model.cpu.dropout import quick_dropout
from mistral_ner.model.cpu.lora import QuickLora, quick_lora


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 64, dtype=dtype), nn.Linear(64, 8, bias=False, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        second: torch.Tensor = self.second(nn.functional.gelu(self.first(x)))
        return second


def lora(dtype: torch.dtype = torch.float32, rate: float = 0.0, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    made = {"r": 4, "lora_alpha": 8, "lora_dropout": rate, "target_modules": ["first", "second"], **settings}
    return get_peft_model(Net(dtype), LoraConfig(init_lora_weights=False, **made)).train()  # type: ignore[arg-type]


def results(model: nn.Module, narrow: bool, again: bool = False) -> list[torch.Tensor]:
    """Return the output and the gradients of the input and of all that is trained."""
    torch.manual_seed(1)
    x = torch.randn(5, 7, 32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        out = checkpoint(model, x, use_reentrant=False) if again else model(x)
    wanted = [x, *(one for one in model.parameters() if one.requires_grad)]
    return [out, *torch.autograd.grad(out.float().square().sum(), wanted)]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
def test_output_and_gradients_are_those_of_peft(
    narrow: bool, rate: float, again: bool, settings: dict[str, Any]
) -> None:
    model = lora(rate=rate, **settings)
    with quick_dropout(model):
        wanted = results(model, narrow, again)
        with quick_lora(model):
            assert sum(type(one) is QuickLora for one in model.modules()) == 2
            found = results(model, narrow, again)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=0.02 if narrow else 2e-6)


def test_without_dropout_in_float32_every_bit_is_peft_s() -> None:
    model = lora()
    wanted = results(model, narrow=False)
    with quick_lora(model):
        assert all(torch.equal(*pair) for pair in zip(results(model, narrow=False), wanted, strict=True))


def test_a_product_in_sixteen_bits_is_rounded_once() -> None:
    model = lora()
    exact = results(model, narrow=False)[0]
    by_peft = results(model, narrow=True)[0].float() - exact
    with quick_lora(model):
        by_us = results(model, narrow=True)[0].float() - exact
    assert by_us.square().mean() <= 1.05 * by_peft.square().mean()


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.bfloat16, {}),
        (torch.float32, {"use_dora": True}),
        (torch.float32, {"lora_bias": True, "target_modules": ["first"]}),
    ],
)
def test_what_is_not_plain_lora_is_left_alone(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    model = lora(dtype, **settings)
    with quick_lora(model):
        assert not any(type(one) is QuickLora for one in model.modules())


def test_a_layer_that_does_not_train_computes_as_before() -> None:
    model, x = lora(rate=0.5).eval(), torch.randn(3, 32)
    wanted = model(x)
    with quick_lora(model):
        assert torch.equal(model(x), wanted)


def test_a_model_has_peft_s_layers_back_after_an_error() -> None:
    model = lora()
    with pytest.raises(KeyError), quick_lora(model):
        raise KeyError
    assert [type(one) for one in model.modules() if isinstance(one, Linear)] == [Linear, Linear]
    assert not any(hasattr(one, "narrow") for one in model.modules())
