"""The network's stack of layers: which of them LoRA does not change, and how to skip those."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError

# networks that pass activations from the embeddings to the layers, and from layer to layer, unchanged
SKIPPABLE = ("bert", "llama", "mistral", "qwen2")


def layer_stack(base: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the stack of layers of a transformers model and its path.

    Raises:
        UserError: the network has no such stack.
    """
    config: Any = base.config
    for path, module in base.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return path, module
    raise UserError(
        f"model.lora_layers=top:N needs a network with one stack of layers, which a {config.model_type} does not have; "
        "type model.lora_layers=all"
    )


def frozen_layers(model: ModelConfig, base: nn.Module) -> int:
    """Return how many layers are below the first one that LoRA changes.

    Raises:
        UserError: ``model.lora_layers`` names more layers than there are.
    """
    if model.lora_layers == "all":
        return 0
    top, layers = int(model.lora_layers.partition(":")[2]), len(layer_stack(base)[1])
    if top > layers:
        raise UserError(
            f"model.lora_layers=top:N must name at most the network's {layers} layers, found {model.lora_layers}; "
            "type model.lora_layers=all"
        )
    return layers - top


def switch_off_dropout(base: PreTrainedModel, frozen: int) -> list[tuple[nn.Module, str, float]]:
    """Switch off dropout below layer ``frozen`` and return what it was: module, attribute, value.

    Those layers then give the same activations in every step, whether they are computed again or not.
    """
    before: list[tuple[nn.Module, str, float]] = []
    if not frozen:
        return before
    for part in frozen_modules(base, frozen):
        for module in part.modules():
            for name in ("p",) if isinstance(module, nn.Dropout) else ("attention_dropout",):
                if isinstance(value := getattr(module, name, None), float):
                    before.append((module, name, value))
                    setattr(module, name, 0.0)
    return before


def frozen_modules(base: PreTrainedModel, frozen: int) -> list[nn.Module]:
    """Return the embeddings and the layers below layer ``frozen``."""
    embeddings = getattr(base.base_model, "embeddings", base.get_input_embeddings())
    return [embeddings, *layer_stack(base)[1][:frozen]]


@contextlib.contextmanager
def skip_layers(base: PreTrainedModel, frozen: int) -> Iterator[None]:
    """Let ``base`` start at layer ``frozen``: ``inputs_embeds`` is then that layer's input, (rows, tokens, width)."""
    stack = layer_stack(base)[1]
    kept = [stack[index] for index in range(frozen)]
    core: Any = base.base_model
    embeddings = getattr(core, "embeddings", None)
    try:
        # re-entrant checkpointing gives a layer gradients only if its input requires one
        checkpointing = bool(getattr(stack[frozen], "gradient_checkpointing", False))
        for index in range(frozen):
            stack[index] = _SkippedLayer(checkpointing)
        if embeddings is not None:
            core.embeddings = _SkippedEmbeddings()
        yield
    finally:
        for index, layer in enumerate(kept):
            stack[index] = layer
        if embeddings is not None:
            core.embeddings = embeddings


def compute_activations(base: PreTrainedModel, frozen: int, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the input of layer ``frozen`` for a batch with ``input_ids``: (rows, tokens, width)."""
    found: list[torch.Tensor] = []

    def take(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _FoundError

    hook = layer_stack(base)[1][frozen].register_forward_pre_hook(take, with_kwargs=True)
    try:
        base(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    except _FoundError:
        pass
    finally:
        hook.remove()
    return found[0]


class _FoundError(Exception):
    """Ends a forward pass early: the rest of it is not needed."""


class _SkippedLayer(nn.Module):
    """Replaces a layer whose output is given."""

    def __init__(self, requires_grad: bool) -> None:
        super().__init__()
        self.requires_grad = requires_grad

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states.requires_grad_() if self.requires_grad and torch.is_grad_enabled() else hidden_states


class _SkippedEmbeddings(nn.Module):
    """Replaces the embeddings when the layers' input is given."""

    def forward(self, inputs_embeds: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return inputs_embeds
