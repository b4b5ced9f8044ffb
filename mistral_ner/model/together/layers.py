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

from mistral_ner.model.cpu.lora import Narrow, adapt, apply_lora, is_frozen

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

    def __init__(self, owner: Any, path: str, layer: Any) -> None:
        super().__init__()
        self.owner, self.path, self.layer = owner, path, layer
        self.narrow: Narrow = {}

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        layers = [part.member.layers.get(self.path) for part in self.owner.parts]
        if not self.owner.has_blocks and _is_quick(self.layer):
            return self._in_one_node(input, layers)
        result: torch.Tensor = self.layer(input)
        if not torch.is_autocast_enabled(input.device.type):
            input = input.float()  # as LoRA's matrices
        stacked = self.owner.has_blocks and None not in layers
        added = self._stacked(input, layers) if stacked else self._in_turn(input, layers, result.shape[-1])
        return result + added.to(result.dtype)

    def _in_one_node(self, input: torch.Tensor, layers: Sequence[Any]) -> torch.Tensor:
        """Do what :class:`mistral_ner.model.cpu.lora.QuickLora` does for each trial alone."""
        adapters, start = [], 0
        for part, layer in zip(self.owner.parts, layers, strict=True):
            end = start + part.rows * part.tokens
            if layer is not None:  # those that have LoRA here may have ended
                with part.member.random.drawing(input.device):
                    adapters.append(adapt(layer, ADAPTER, start, end))
            start = end
        return apply_lora(input[0], self.layer, self.narrow, adapters)[None]

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


def _is_quick(layer: Any) -> bool:
    return is_frozen(layer) and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


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
