"""LoRA's layers on the CPU, forward and backward in one node each of torch's graph.

peft composes a layer from some ten operations. With small batches they and their casts cost as much as the products:
with ``minilm`` in bfloat16 a third of a step's time, because autocast also casts every frozen weight in every step.
"""

# mypy: allow-untyped-calls
# (peft and torch declare no types for what is called here)
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mistral_ner.model.cpu.dropout import draw_mask, drop
from mistral_ner.model.cpu.merged import is_plain
from mistral_ner.model.lora import LoraLinear

Narrow = dict[torch.dtype, tuple[torch.Tensor, torch.Tensor | None]]  # a frozen weight and bias by number format


@dataclass(frozen=True)
class Adapted:
    """The rows of a layer's input to which one adapter applies.

    Attributes:
        start, end: the rows.
        scale: of its product.
        rate: of dropout before its product.
        a, b: its matrices, (rank, in) and (out, rank).
        mask: of dropout, None without.
    """

    start: int
    end: int
    scale: float
    rate: float
    a: torch.Tensor
    b: torch.Tensor
    mask: torch.Tensor | None


def adapt(layer: Any, name: str, start: int, end: int) -> Adapted:
    """Return what peft's ``layer`` does with rows ``start`` to ``end``; its mask is drawn now."""
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    rate = getattr(layer.lora_dropout[name], "p", 0.0)
    mask = draw_mask(torch.Size((end - start, a.shape[1])), rate) if rate else None
    return Adapted(start, end, layer.scaling[name], rate, a, b, mask)


def apply_lora(x: torch.Tensor, base: nn.Linear, narrow: Narrow, adapters: Sequence[Adapted]) -> torch.Tensor:
    """Return the output of a frozen layer with LoRA, (rows, out), in the number format of products now.

    Args:
        x: (rows, in).
        base: the frozen layer, in float32.
        narrow: keeps its weights by number format.
        adapters: each applies to its own rows.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    if dtype not in narrow:
        narrow[dtype] = base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype)
    matrices = [matrix for one in adapters for matrix in (one.a, one.b)]
    out: torch.Tensor = _Layer.apply(x, *narrow[dtype], adapters, *matrices)
    return out


class _Layer(torch.autograd.Function):
    """x W' + bias + scale * drop(x) A' B', and its gradients of x, A and B (https://arxiv.org/abs/2106.09685).

    x is (rows, in), W (out, in), A (rank, in), B (out, rank). All products have the dtype of W; A and B, and their
    gradients, have their own. Each adapter has rows of its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        adapters: Sequence[Adapted],
        *matrices: torch.Tensor,
    ) -> torch.Tensor:
        x = x.to(weight.dtype)
        out, saved = nn.functional.linear(x, weight, bias), list[torch.Tensor | None]()
        for one in adapters:
            a, b, rows = one.a.to(weight.dtype), one.b.to(weight.dtype), x[one.start : one.end]
            small = nn.functional.linear(rows if one.mask is None else drop(rows, one.mask), a)
            out[one.start : one.end].addmm_(small, b.t(), alpha=one.scale / (1 - one.rate))  # what is kept is scaled up
            saved += [a, b, small, one.mask]
        ctx.save_for_backward(x, weight, *saved)
        ctx.rows = [(one.start, one.end, one.scale / (1 - one.rate)) for one in adapters]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        of_x, of_matrices = gradients[0] @ weight if ctx.needs_input_grad[0] else None, list[torch.Tensor | None]()
        for at, (start, end, scale) in enumerate(ctx.rows):
            a, b, small, mask = saved[4 * at : 4 * at + 4]
            gradient, rows = gradients[0][start:end], x[start:end]
            of_small = (gradient @ b).mul_(scale)
            of_a = of_small.t() @ (rows if mask is None else drop(rows, mask))
            of_matrices += [of_a.float(), (gradient.t() @ small).mul_(scale).float()]
            if of_x is not None:
                through = of_small @ a
                of_x[start:end].add_(through if mask is None else drop(through, mask))
        return of_x, None, None, None, *of_matrices


class QuickLora(LoraLinear):
    """peft's linear layer with LoRA, quicker in training; else, and where it is not plain, as it was."""

    narrow: Narrow

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.training or self.disable_adapters or args or kwargs:
            before: torch.Tensor = super().forward(x, *args, **kwargs)
            return before
        base: Any = self.get_base_layer()
        (name,), flat = self.active_adapters, x.reshape(-1, x.shape[-1])
        out = apply_lora(flat, base, self.narrow, [adapt(self, name, 0, len(flat))])
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
    (name,) = module.active_adapters
    return is_frozen(module.get_base_layer()) and name in module.lora_A and name not in module.lora_variant


def is_frozen(base: Any) -> bool:
    """Tell whether a layer is torch's own, linear and frozen."""
    return type(base) is nn.Linear and not any(one.requires_grad for one in base.parameters())
