"""The layers of a pass: each treats the tokens of every trial as that trial alone would."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, pad
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "mistral_ner_together"  # the name of this attention among those of transformers
ADAPTER = "default"  # peft's name of a trial's only adapter
# Each layer knows its owner, a TogetherNetwork, whose parts are the trials of the pass and their tokens.


class TogetherDropout(nn.Dropout):
    """A dropout module of the base that draws for each trial's tokens from that trial's random numbers."""

    def __init__(self, owner: Any, path: str, rate: float) -> None:
        super().__init__(rate)
        self.owner, self.path = owner, path

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.p:
            return input
        parts = self.owner.parts
        pieces = []
        for part, piece in zip(parts, self.owner.split(input, 1), strict=True):
            with part.member.random.drawing(input.device):
                pieces.append(part.member.dropouts[self.path](piece))
        joined: torch.Tensor = self.owner.join(pieces, 1)
        return joined


class TogetherLinear(nn.Module):
    """A linear layer of the base, and LoRA's two products of each trial over that trial's tokens.

    On a GPU the matrices of all trials are stacked, ranks padded with zeros, so that the number of kernels does not
    grow with the number of trials. A CPU multiplies one trial after the other, without padding its tokens.
    """

    def __init__(self, owner: Any, path: str, layer: nn.Module) -> None:
        super().__init__()
        self.owner, self.path, self.layer = owner, path, layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(input)
        layers = [part.member.layers.get(self.path) for part in self.owner.parts]
        in_floats = not torch.is_autocast_enabled(input.device.type)
        if in_floats and result.dtype == torch.float32 and input.device.type == "cpu" and not self.owner.has_blocks:
            return self._in_place(result, input, layers)
        if in_floats:
            input = input.float()  # as LoRA's matrices
        stacked = self.owner.has_blocks and None not in layers
        added = self._stacked(input, layers) if stacked else self._in_turn(input, layers, result.shape[-1])
        return result + added.to(result.dtype)

    def _in_place(self, result: torch.Tensor, input: torch.Tensor, layers: Sequence[Any]) -> torch.Tensor:
        """Do what :meth:`_in_turn` does, without the copies that it makes of inputs and results."""
        if not isinstance(self.layer, nn.Linear) or type(self.layer) is not nn.Linear:
            result = result.clone()  # of quantised weights it may be a view
        own = any(layer is not None and not isinstance(layer.lora_dropout[ADAPTER], nn.Identity) for layer in layers)
        split = self.owner.split(input, 1) if own else [input] * len(layers)
        spans, matrices, pieces, start = [], [], [], 0
        for part, layer, piece in zip(self.owner.parts, layers, split, strict=True):
            end = start + part.rows * part.tokens
            if layer is not None:
                spans.append((start, end, float(layer.scaling[ADAPTER])))
                matrices += [_first(layer), _second(layer)]
                pieces.append(_dropped(part, layer, piece) if own else piece)
            start = end
        if not spans:  # those that had LoRA here have ended
            return result
        tensors = [*matrices, *(pieces if own else [input])]
        added: torch.Tensor = _AddInPlace.apply(result, spans, own, *tensors)
        return added

    def _in_turn(self, input: torch.Tensor, layers: Sequence[Any], width: int) -> torch.Tensor:
        pieces = []
        for part, layer, piece in zip(self.owner.parts, layers, self.owner.split(input, 1), strict=True):
            if layer is None:
                pieces.append(piece.new_zeros(*piece.shape[:-1], width))
                continue
            # scaled where there are few numbers
            inner = linear(_dropped(part, layer, piece), _first(layer)) * layer.scaling[ADAPTER]
            pieces.append(linear(inner, _second(layer)))
        joined: torch.Tensor = self.owner.join(pieces, 1)
        return joined

    def _stacked(self, input: torch.Tensor, layers: Sequence[Any]) -> torch.Tensor:
        if any(not isinstance(layer.lora_dropout[ADAPTER], nn.Identity) for layer in layers):
            pieces = zip(self.owner.parts, layers, self.owner.split(input, 1), strict=True)
            input = self.owner.join([_dropped(part, layer, piece) for part, layer, piece in pieces], 1)
        rank = max(int(_first(layer).shape[0]) for layer in layers)
        first = torch.stack([pad(_first(layer), (0, 0, 0, rank - _first(layer).shape[0])) for layer in layers])
        second = torch.stack([pad(_second(layer), (0, rank - _second(layer).shape[1])) for layer in layers])
        scales = self.owner.constant([float(layer.scaling[ADAPTER]) for layer in layers], input.device)
        blocks = input.view(len(layers), -1, input.shape[-1])
        inner = torch.bmm(blocks, first.transpose(1, 2)) * scales.to(input.dtype)[:, None, None]
        return torch.bmm(inner, second.transpose(1, 2)).view(1, input.shape[1], -1)


class _AddInPlace(torch.autograd.Function):
    """Adds LoRA's products of each trial to the trial's tokens in the result of a linear layer, whose memory it takes.

    Inputs: the result, (1, tokens, outputs); where each trial's tokens lie in it, with its scale; whether each trial
    has inputs of its own, (1, tokens of the trial, inputs), or all have theirs in one tensor; LoRA's two matrices of
    each trial; and the inputs.
    """

    @staticmethod
    def forward(ctx: Any, result: torch.Tensor, spans: Any, own: bool, *tensors: torch.Tensor) -> torch.Tensor:
        matrices, pieces = tensors[: 2 * len(spans)], tensors[2 * len(spans) :]
        flat, inners = result.view(-1, result.shape[-1]), []
        for at, (start, end, scale) in enumerate(spans):
            inner = (_rows(pieces, own, at, start, end) @ matrices[2 * at].t()).mul_(scale)
            flat[start:end].addmm_(inner, matrices[2 * at + 1].t())
            inners.append(inner)
        ctx.mark_dirty(result)
        ctx.spans, ctx.own = spans, own
        ctx.save_for_backward(*tensors, *inners)
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        spans, saved = ctx.spans, ctx.saved_tensors
        matrices, pieces, inners = saved[: 2 * len(spans)], saved[2 * len(spans) : -len(spans)], saved[-len(spans) :]
        flat, of_matrices = grad.reshape(-1, grad.shape[-1]), []
        wanted = ctx.needs_input_grad[3 + len(matrices)]
        of_pieces = [torch.zeros_like(one) if wanted else None for one in pieces]
        for at, (start, end, scale) in enumerate(spans):
            first, second = matrices[2 * at : 2 * at + 2]
            mine = flat[start:end]
            of_inner = (mine @ second).mul_(scale)
            of_matrices += [of_inner.t() @ _rows(pieces, ctx.own, at, start, end), mine.t() @ inners[at]]
            if wanted:
                torch.mm(of_inner, first, out=_rows(of_pieces, ctx.own, at, start, end))
        return grad, None, None, *of_matrices, *of_pieces


def _rows(pieces: Sequence[Any], own: bool, at: int, start: int, end: int) -> torch.Tensor:
    """Return the tokens of a trial out of its own tensor, or of that of all trials."""
    rows: torch.Tensor = pieces[at][0] if own else pieces[0][0, start:end]
    return rows


def _first(layer: Any) -> torch.Tensor:
    """Return LoRA's A, (rank, inputs)."""
    weight: torch.Tensor = layer.lora_A[ADAPTER].weight
    return weight


def _second(layer: Any) -> torch.Tensor:
    """Return LoRA's B, (outputs, rank)."""
    weight: torch.Tensor = layer.lora_B[ADAPTER].weight
    return weight


def _dropped(part: Any, layer: Any, piece: torch.Tensor) -> torch.Tensor:
    dropout = layer.lora_dropout[ADAPTER]
    if isinstance(dropout, nn.Identity):
        return piece
    with part.member.random.drawing(piece.device):
        dropped: torch.Tensor = dropout(piece)
    return dropped


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attend within each trial's rows, by the implementation that its network would use.

    Args:
        module: a layer of a network of trials together.
        query, key, value: (1, heads, tokens of all trials, head width).
        attention_mask: None; each part has its own.
        kwargs: what the network's attention takes besides.
    """
    network = module.owner
    if network.attention == "eager":
        attend = sys.modules[type(module).__module__].eager_attention_forward
    else:
        attend = ALL_ATTENTION_FUNCTIONS[network.attention]
    pieces = []
    for part, *three in zip(network.parts, *(network.split(one, 2) for one in (query, key, value)), strict=True):
        in_rows = [_to_rows(one, part.rows) for one in three]
        if kwargs.get("dropout"):
            with part.member.random.drawing(query.device):
                found = attend(module, *in_rows, part.seen, **kwargs)[0]
        else:
            found = attend(module, *in_rows, part.seen, **kwargs)[0]
        pieces.append(found.reshape(1, -1, *found.shape[2:]))
    return network.join(pieces, 1), None


def _to_rows(piece: torch.Tensor, rows: int) -> torch.Tensor:
    """Return (rows, heads, tokens, width) for (1, heads, tokens of all rows, width)."""
    tokens_first = piece.squeeze(0).transpose(0, 1)
    return tokens_first.reshape(rows, -1, *tokens_first.shape[1:]).transpose(1, 2)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
