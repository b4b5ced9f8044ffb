"""LoRA's layers on the CPU, forward and backward in one node each of torch's graph.

peft composes a layer from some ten operations. With small batches they and their casts cost as much as the products:
with ``minilm`` in bfloat16 a third of a step's time, because autocast also casts every frozen weight in every step.
"""

# mypy: allow-untyped-calls
# (peft and torch declare no types for what is called here)
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mistral_ner.model.cpu.dropout import draw_mask, drop
from mistral_ner.model.cpu.merged import is_plain
from mistral_ner.model.lora import LoraLinear

_Narrow = dict[torch.dtype, tuple[torch.Tensor, torch.Tensor | None]]


class _Layer(torch.autograd.Function):
    """x W' + bias + scale * drop(x) A' B', and its gradients of x, A and B (https://arxiv.org/abs/2106.09685).

    x is (rows, in), W (out, in), A (rank, in), B (out, rank). All products have the dtype of W; A and B, and their
    gradients, have their own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        rate: float,
    ) -> torch.Tensor:
        narrow_a, narrow_b = a.to(weight.dtype), b.to(weight.dtype)
        mask = draw_mask(x.shape, rate) if rate else None
        x = x.to(weight.dtype)
        small = nn.functional.linear(x if mask is None else drop(x, mask), narrow_a)
        ctx.scale = scale / (1 - rate)  # what dropout keeps is scaled up
        ctx.save_for_backward(x, weight, narrow_a, narrow_b, small, mask)
        return nn.functional.linear(x, weight, bias).addmm_(small, narrow_b.t(), alpha=ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, small, mask = ctx.saved_tensors
        gradient = gradients[0]
        of_small = (gradient @ b).mul_(ctx.scale)
        of_b = (gradient.t() @ small).mul_(ctx.scale)
        of_a = of_small.t() @ (x if mask is None else drop(x, mask))
        of_x = None
        if ctx.needs_input_grad[0]:
            through = of_small @ a
            of_x = (gradient @ weight).add_(through if mask is None else drop(through, mask))
        return of_x, None, None, of_a.float(), of_b.float(), None, None


class QuickLora(LoraLinear):
    """peft's linear layer with LoRA, quicker in training; else, and where it is not plain, as it was."""

    narrow: _Narrow  # the frozen weight and bias in the format of the products

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.training or self.disable_adapters or args or kwargs:
            before: torch.Tensor = super().forward(x, *args, **kwargs)
            return before
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        if dtype not in self.narrow:
            base: Any = self.get_base_layer()
            self.narrow[dtype] = base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype)
        (name,) = self.active_adapters
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        rate = getattr(self.lora_dropout[name], "p", 0.0)
        flat = x.reshape(-1, x.shape[-1])
        out: torch.Tensor = _Layer.apply(flat, *self.narrow[dtype], a, b, self.scaling[name], rate)
        return out.view(*x.shape[:-1], -1)


@contextlib.contextmanager
def quick_lora(model: nn.Module) -> Iterator[None]:
    """Make every plain LoRA layer of ``model`` a :class:`QuickLora`, and restore them afterwards."""
    layers: list[Any] = [module for module in model.modules() if _is_quick(module)]
    try:
        for layer in layers:
            layer.__class__, layer.narrow = QuickLora, {}
        yield
    finally:
        for layer in layers:
            layer.__class__ = LoraLinear
            del layer.narrow


def _is_quick(module: Any) -> bool:
    """Tell whether a module is peft's LoRA as it was published, over a frozen float32 layer on the CPU."""
    if not is_plain(module) or len(module.active_adapters) != 1 or any(module.lora_bias.values()):
        return False
    base, (name,) = module.get_base_layer(), module.active_adapters
    frozen = not any(one.requires_grad for one in base.parameters())
    return type(base) is nn.Linear and frozen and name in module.lora_A and name not in module.lora_variant
