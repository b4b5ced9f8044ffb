"""Trained models on disk: adapters, as peft reads them too, and whole ones, as transformers does.

An adapter's folder has ``adapter_model.safetensors``, ``adapter_config.json``, the tokenizer, ``labels.json`` (the
names of the outputs, in order) and ``config.yaml`` (the resolved config that trained it, which says what base model it
belongs on). It can be moved and copied. The folder of a whole model, merged or trained with ``model.tuning=full``, is
a plain transformers checkpoint with its tokenizer.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import yaml
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerFast

from mistral_ner.config import Config, ModelConfig, UserError, check
from mistral_ner.metrics import entity_types
from mistral_ner.model.adapter import attach
from mistral_ner.model.base import load_base, quiet
from mistral_ner.model.hardware import device, frozen_dtype
from mistral_ner.model.source import check_weights
from mistral_ner.model.tokenizer import load_saved_tokenizer

WEIGHTS = "adapter_model.safetensors"
CONFIG = "config.yaml"
LABELS = "labels.json"


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to tag: in eval mode, on this process's device."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerFast
    labels: list[str]
    config: Config | None  # None for a merged model without the config that trained it


def trained_folder(folder: str | Path) -> Path:
    """Return where the model lies: ``folder``, its ``final/`` (of a search) or its ``adapter/`` (of a training).

    Raises:
        UserError: there is no trained model.
    """
    folder = Path(folder).expanduser()
    for place in (folder, folder / "final", folder / "adapter"):
        if (place / WEIGHTS).is_file() or ((place / "config.json").is_file() and any(place.glob("*.safetensors"))):
            return place
    if not folder.is_dir():
        raise UserError(
            f"a model must be a folder, found {'a file' if folder.exists() else 'nothing'} at {folder}; "
            "name a folder such as multirun/STUDY/final or outputs/DATE/TIME/adapter"
        )
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise UserError(
        f"a trained model's folder must hold {WEIGHTS} (an adapter) or config.json and *.safetensors (a merged model), "
        f"found {inside} in {folder}; name a folder such as multirun/STUDY/final or outputs/DATE/TIME/adapter"
    )


def load_trained(folder: str | Path) -> Trained:
    """Load the model in ``folder`` (as :func:`trained_folder` finds it) for tagging.

    Raises:
        UserError: there is no trained model, a part of it is missing or broken, or its base model cannot be loaded.
    """
    place = trained_folder(folder)
    config, tokenizer = _saved_config(place), load_saved_tokenizer(place)
    if not (place / WEIGHTS).is_file():
        model = _whole(place, config.model if config is not None else ModelConfig())
        # a dict with numbers as keys, in any order
        names = cast(dict[int, str], model.config.id2label)
        labels = [names[index] for index in sorted(names)]
        return Trained(model, tokenizer, _checked_labels(labels, place), config)
    if config is None:
        raise UserError(
            f"an adapter's folder must hold {CONFIG}, which says what base model it belongs on, found none in {place}; "
            f"copy the one of the training into it"
        )
    labels = saved_labels(place)
    settings = replace(config.model, gradient_checkpointing=False)
    base = load_base(settings, len(tokenizer))
    attached = cast(PeftModel, attach(settings, base, labels, seed=0))
    load_adapter(attached, place)
    attached.eval()
    return Trained(attached, tokenizer, labels, config)


def saved_labels(folder: str | Path) -> list[str]:
    """Return the names of the outputs of the adapter in ``folder``, in order.

    Raises:
        UserError: they are not there, or are no IOB2 labels.
    """
    path = Path(folder) / LABELS
    try:
        return _checked_labels(json.loads(path.read_text(encoding="utf-8")), Path(folder))
    except (OSError, ValueError) as error:
        raise UserError(
            f"an adapter's folder must hold {LABELS}, a list of the labels in the order of the outputs, found none "
            f"that can be read in {folder} ({error}); train it again, or write the list"
        ) from None


def save_merged(config: Config, labels: Sequence[str], adapter: str | Path, folder: str | Path) -> None:
    """Write base plus adapter into ``folder`` as one plain transformers checkpoint, with its tokenizer; whole or not.

    ``transformers.pipeline("token-classification", model=folder)`` reads it, without this project and without peft.

    Raises:
        UserError: as :func:`merged_model`.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    tokenizer = load_saved_tokenizer(adapter)
    with quiet():
        merged_model(config.model, labels, len(tokenizer), adapter).save_pretrained(str(temporary))
    tokenizer.save_pretrained(str(temporary))
    shutil.copy2(Path(adapter) / CONFIG, temporary / CONFIG)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def save_weights(model: PeftModel | PreTrainedModel, folder: str | Path) -> None:
    """Write what is trained of a model from :func:`mistral_ner.model.attach` into ``folder``: its adapter, or all."""
    if isinstance(model, PeftModel):
        save_adapter(model, folder)
    else:
        with quiet():
            model.save_pretrained(str(folder))


def weight_files(folder: Path) -> list[Path]:
    """Return the files in ``folder`` that :func:`save_weights` wrote."""
    names = ("adapter_config.json", "config.json", "*.safetensors", "*.safetensors.index.json")
    return sorted(path for name in names for path in folder.glob(name))


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
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} must be a safetensors file, but cannot be read ({error}); copy it anew") from None
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

    One that was trained whole is returned as it is.

    The base is loaded for this alone, and not quantised: merging into 4 or 8 bits would round the adapter away.

    Raises:
        UserError: the model cannot be loaded, or the adapter does not fit it.
    """
    if model.tuning == "full":
        return _whole(Path(adapter), model)
    whole = replace(model, quantization="none", gradient_checkpointing=False)
    base = load_base(whole, vocab_size)
    attached = cast(PeftModel, attach(whole, base, labels, seed=0))
    load_adapter(attached, adapter)
    merged = cast(PreTrainedModel, attached.merge_and_unload())
    del merged.mistral_ner_bare
    merged.eval()
    return merged


def _whole(folder: Path, settings: ModelConfig) -> PreTrainedModel:
    """Load a merged model, or one that was trained whole."""
    check_weights(str(folder))
    try:
        with quiet():
            model: PreTrainedModel = AutoModelForTokenClassification.from_pretrained(
                str(folder), dtype=frozen_dtype(settings), use_safetensors=True, local_files_only=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the model in {folder} cannot be loaded ({str(error).splitlines()[0]}); name the folder of a trained model"
        ) from None
    if getattr(model.config, "is_causal", None) is False:
        for module in model.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = False  # type: ignore[assignment]  # what flash attention asks, and no file keeps
    model.to(device())  # type: ignore[arg-type]
    return model


def _saved_config(folder: Path) -> Config | None:
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        return check(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} must be a config that a training wrote, but cannot be read: {error}") from None


def _checked_labels(labels: object, folder: Path) -> list[str]:
    try:
        if not isinstance(labels, list) or len(labels) < 2:
            raise ValueError(f"found {labels!r}")
        entity_types(labels)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"a tagger's labels must be O, B-TYPE and I-TYPE, but those in {folder} are others ({error}); name the "
            "folder of a trained tagger"
        ) from None
    return labels


def _state(attached: PeftModel) -> dict[str, torch.Tensor]:
    # "auto" for the embeddings would ask the hub whether they were resized
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(attached, save_embedding_layers=False)
    return state
