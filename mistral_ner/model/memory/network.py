"""The shapes of a network without its weights: built from its config on torch's meta device, which holds no numbers."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForTokenClassification, Conv1D

from mistral_ner.config.schema import ModelConfig
from mistral_ner.model.base import build_random_config, quiet, remove_head
from mistral_ner.model.layers import frozen_layers, layer_stack
from mistral_ner.model.source import explain_loading_errors, hub_options, locate
from mistral_ner.model.targets import lora_targets


@dataclass(frozen=True)
class Network:
    """Counts and shapes of a network without its head.

    Attributes:
        config: its transformers config.
        parameters: how many numbers it has.
        linear: (inputs, outputs) of each linear layer, by path.
        adapted: those that get LoRA.
        frozen: layers below the first one with LoRA.
    """

    config: Any
    parameters: int
    linear: dict[str, tuple[int, int]]
    adapted: dict[str, tuple[int, int]]
    frozen: int


def read_network(model: ModelConfig, vocab_size: int) -> Network:
    """Return the shapes of the network that ``model`` names; weights are neither read nor downloaded.

    Args:
        model: the base model and what LoRA changes.
        vocab_size: as for :func:`mistral_ner.model.base.base_model`.

    Raises:
        UserError: there is no such model, or the settings do not fit it.
    """
    with quiet(), explain_loading_errors(model), torch.device("meta"):
        options: dict[str, Any] = {}
        if model.random_init is None:
            config = AutoConfig.from_pretrained(locate(model), **hub_options(model))
            options = {"trust_remote_code": model.trust_remote_code}
        else:
            config = build_random_config(model.random_init, vocab_size)
        base = remove_head(AutoModelForTokenClassification.from_config(config, **options))
    linear = {path: _shape(one) for path, one in base.named_modules() if isinstance(one, nn.Linear | Conv1D)}
    frozen = 0 if model.tuning == "full" else frozen_layers(model, base)
    return Network(config, base.num_parameters(), linear, _adapted(model, base, linear, frozen), frozen)


def _adapted(model: ModelConfig, base: Any, linear: dict[str, tuple[int, int]], frozen: int) -> dict[str, Any]:
    if model.tuning == "full":
        return {}
    targets = lora_targets(model, base)
    if isinstance(targets, str):  # a pattern
        return {path: shape for path, shape in linear.items() if re.fullmatch(targets, path)}
    below = tuple(f"{layer_stack(base)[0]}.{index}." for index in range(frozen)) if frozen else ()
    return {
        path: shape
        for path, shape in linear.items()
        if any(path == name or path.endswith(f".{name}") for name in targets) and not path.startswith(below or ("\0",))
    }


def _shape(layer: Any) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return int(layer.weight.shape[0]), int(layer.weight.shape[1])
