"""Dropout on the CPU at a quarter of the cost: random bits, drawn sixty-four at a time, mask those of the values.

On most CPUs torch draws one number after the other, a tenth of a training step with LoRA on all linear layers.
"""

# mypy: allow-untyped-calls
# (torch declares no types for Function.apply)
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_STEPS = 1 << 15  # a rate is rounded to a multiple of one over this
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers by the bytes of the numbers that they mask


def draw_mask(shape: torch.Size, rate: float) -> torch.Tensor:
    """Return an int16 mask of ``shape`` from torch's global generator: 0 drops a value, -1 keeps it."""
    words = torch.empty((shape.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    bits = words.view(torch.int16)[: shape.numel()].view(shape)
    # fifteen bits less the rate are negative where a value is dropped; the sign then fills all bits
    return bits.bitwise_and_(_STEPS - 1).sub_(round(rate * _STEPS)).bitwise_right_shift_(15).bitwise_not_()


def drop(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ``values`` with zeros where ``mask``, of their shape, is 0; what is kept is not scaled."""
    integers = _BITS[values.element_size()]
    return (values.view(integers) & mask.to(integers)).view(values.dtype)


class _Dropped(torch.autograd.Function):
    """Drops values and their gradients alike, and scales the rest up."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rate: float) -> torch.Tensor:
        mask = draw_mask(values.shape, rate)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - rate) if rate < 1 else 0.0
        return drop(values.contiguous(), mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return drop(gradients[0].contiguous(), mask).mul_(ctx.scale), None


class QuickDropout(nn.Dropout):
    """``nn.Dropout`` with other random bits, from torch's global generator as well."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        dropped: torch.Tensor = _Dropped.apply(input, self.p)
        return dropped


@contextlib.contextmanager
def quick_dropout(model: nn.Module) -> Iterator[None]:
    """Make every dropout module of ``model`` a :class:`QuickDropout`, and restore them afterwards."""
    changed = [module for module in model.modules() if type(module) is nn.Dropout]
    try:
        for module in changed:
            module.__class__ = QuickDropout
        yield
    finally:
        for module in changed:
            module.__class__ = nn.Dropout
