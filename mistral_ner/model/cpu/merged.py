"""LoRA's products added to the weights for as long as a model only tags: a third of the matrix products are left."""

# mypy: allow-untyped-calls
# (many functions of peft declare no types)
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mistral_ner.model.lora import LoraLinear


@contextlib.contextmanager
def merged_weights(model: nn.Module) -> Iterator[None]:
    """Let ``model`` compute with base weights plus LoRA inside the block, and put the very base weights back.

    Only plain layers with float32 weights on a CPU are changed: on 16 or fewer bits the sum would be rounded.
    """
    layers: list[Any] = [module for module in model.modules() if _is_plain(module)]
    weights = [layer.get_base_layer().weight for layer in layers]
    own = [weight.data for weight in weights]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # so that the bits of the sums do not depend on their number
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for layer, weight in zip(layers, weights, strict=True):
                weight.data = weight.data + sum(layer.get_delta_weight(name) for name in layer.active_adapters)
                layer._disable_adapters = True
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(threads)
        for layer, weight, data in zip(layers, weights, own, strict=True):
            weight.data = data
            layer._disable_adapters = False


def _is_plain(module: nn.Module) -> bool:
    if type(module) is not LoraLinear or module.disable_adapters or module.merged or any(module.use_dora.values()):
        return False
    weight = module.get_base_layer().weight
    return bool(weight.dtype == torch.float32 and weight.device.type == "cpu")
