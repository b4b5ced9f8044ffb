"""Adapters on disk: ``adapter_model.safetensors`` and ``adapter_config.json``, as peft reads them too."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from mistral_ner.config import ModelConfig, UserError
from mistral_ner.model.adapter import attach
from mistral_ner.model.base import load_base

WEIGHTS = "adapter_model.safetensors"


def save_adapter(attached: PeftModel, folder: str | Path) -> None:
    """Write the LoRA weights, the head and their settings into ``folder``, which is made where it is missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous().cpu() for name, tensor in _state(attached).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config = attached.peft_config["default"]
    # a file that says so lets peft load the adapter frozen, as its own save_pretrained does
    config.inference_mode = True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = False


def load_adapter(attached: PeftModel, folder: str | Path) -> None:
    """Replace the adapter's weights by those in ``folder``, bit for bit.

    Raises:
        UserError: the folder holds no adapter, or one of other labels, LoRA settings or another base model.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise UserError(f"a trained adapter must hold {WEIGHTS}, found none in {folder}; name the folder of one")
    state = load_file(path)
    own = _state(attached)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if shapes != expected:
        name = min(shapes.items() ^ expected.items())[0]
        raise UserError(
            f"the adapter in {folder} must fit the model, but {name} is {shapes.get(name, 'missing')} there and "
            f"{expected.get(name, 'missing')} here; use the config.yaml and the labels that it was trained with"
        )
    set_peft_model_state_dict(attached, state)


def merged_model(model: ModelConfig, labels: Sequence[str], vocab_size: int, adapter: str | Path) -> PreTrainedModel:
    """Return a plain transformers model whose weights are base plus adapter, ready for ``save_pretrained``.

    The base is loaded for this alone, and not quantised: merging into 4 or 8 bits would round the adapter away.

    Raises:
        UserError: the model cannot be loaded, or the adapter does not fit it.
    """
    whole = replace(model, quantization="none", gradient_checkpointing=False)
    base = load_base(whole, vocab_size)
    attached = attach(whole, base, labels, seed=0)
    load_adapter(attached, adapter)
    merged = cast(PreTrainedModel, attached.merge_and_unload())
    del merged.mistral_ner_bare
    merged.eval()
    return merged


def _state(attached: PeftModel) -> dict[str, torch.Tensor]:
    # "auto" for the embeddings would ask the hub whether they were resized
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(attached, save_embedding_layers=False)
    return state
