"""LoRA added to the weights while a model tags: the same function, and the very weights afterwards."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mistral_ner.model.cpu.merged import merged_weights


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16, dtype=dtype), nn.Linear(16, 4, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        second: torch.Tensor = self.second(self.first(x).relu())
        return second


def lora(dtype: torch.dtype = torch.float32, **settings: bool) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["first", "second"], init_lora_weights=False, **settings)
    return get_peft_model(Net(dtype), config).eval()  # type: ignore[arg-type]


def test_it_computes_the_same_and_restores_every_bit() -> None:
    model, x = lora(), torch.randn(5, 8)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    places = [one.data_ptr() for one in model.parameters()]
    wanted = model(x)
    with merged_weights(model):
        assert not torch.equal(
            model.state_dict()["base_model.model.first.base_layer.weight"],
            before["base_model.model.first.base_layer.weight"],
        )
        torch.testing.assert_close(model(x), wanted)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert [one.data_ptr() for one in model.parameters()] == places
    assert torch.equal(model(x), wanted)
    assert all(one.requires_grad == ("lora_" in name) for name, one in model.named_parameters())


@pytest.mark.parametrize(("dtype", "settings"), [(torch.bfloat16, {}), (torch.float32, {"use_dora": True})])
def test_what_a_sum_would_change_is_left_alone(dtype: torch.dtype, settings: dict[str, bool]) -> None:
    model = lora(dtype, **settings)
    weight = model.state_dict()["base_model.model.first.base_layer.weight"].clone()
    with merged_weights(model):
        assert torch.equal(model.state_dict()["base_model.model.first.base_layer.weight"], weight)


def test_weights_are_rounded_once_for_products_in_sixteen_bits() -> None:
    model, x = lora(), torch.randn(5, 8)
    plain = Net(torch.float32).eval()
    for one in (model, plain):
        before = [weight.clone() for weight in one.parameters()]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            with merged_weights(one):
                wanted = one(x)
            with merged_weights(one, torch.bfloat16):
                assert torch.equal(one(x), wanted)
        assert all(torch.equal(*pair) for pair in zip(one.parameters(), before, strict=True))
