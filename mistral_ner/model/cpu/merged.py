"""LoRA's products added to the weights for as long as a model only tags: a third of the matrix products are left."""

# mypy: allow-untyped-calls
# (many functions of peft declare no types)
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mistral_ner.model.lora import BaseTunerLayer, LoraLinear


@contextlib.contextmanager
def merged_weights(model: nn.Module, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Let ``model`` compute with base weights plus LoRA inside the block, and put the very base weights back.

    Only plain layers with float32 weights on a CPU are changed: on 16 or fewer bits the sum would be rounded.

    Args:
        model: with LoRA or without.
        dtype: of the products inside the block. Weights are rounded to it once; autocast rounds them in every batch.
    """
    modules = list(model.modules())
    layers: list[Any] = [module for module in modules if is_plain(module)]
    weights = [layer.get_base_layer().weight for layer in layers]
    if not any(isinstance(module, BaseTunerLayer) for module in modules):
        weights = [module.weight for module in modules if type(module) is nn.Linear and _is_wide(module.weight)]
    own = [weight.data for weight in weights]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # so that the bits of the sums do not depend on their number
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for layer in layers:
                weight = layer.get_base_layer().weight
                weight.data = weight.data + sum(layer.get_delta_weight(name) for name in layer.active_adapters)
                layer.merged_adapters = list(layer.active_adapters)
            for weight in weights:
                weight.data = weight.data.to(dtype)
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(threads)
        for weight, data in zip(weights, own, strict=True):
            weight.data = data
        for layer in layers:
            layer.merged_adapters = []


def is_plain(module: nn.Module) -> bool:
    """Tell whether a module is peft's plain LoRA, switched on, over a float32 layer on the CPU."""
    if not isinstance(module, LoraLinear) or module.disable_adapters or module.merged or any(module.use_dora.values()):
        return False
    return _is_wide(module.get_base_layer().weight)


def _is_wide(weight: Any) -> bool:
    return bool(weight.dtype == torch.float32 and weight.device.type == "cpu")
