"""Trained models on disk: adapters, which peft can read too, and whole models, which transformers can read.

An adapter's folder has ``adapter_model.safetensors``, ``adapter_config.json``, the tokenizer, ``labels.json`` (the
names of the outputs, in order) and ``config.yaml`` (the resolved config that trained it, which names the base model).
It can be moved and copied. The folder of a whole model, merged or trained with ``model.tuning=full``, is a plain
transformers checkpoint with its tokenizer.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerFast

from mistral_ner import files
from mistral_ner.config.check import check
from mistral_ner.config.schema import Config, ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.metrics import entity_types
from mistral_ner.model import hardware
from mistral_ner.model.adapter import Head, attach, lend_model
from mistral_ner.model.base import forget_base, load_base, quiet
from mistral_ner.model.hardware import HEADS, device, frozen_dtype
from mistral_ner.model.lora import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from mistral_ner.model.source import check_weights
from mistral_ner.model.tokenizer import load_saved_tokenizer

WEIGHTS = "adapter_model.safetensors"
CONFIG = "config.yaml"
LABELS = "labels.json"
COLUMNS = "columns.json"  # the columns of the training file, if it had any


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to tag: in eval mode, on this process's device."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerFast
    labels: list[str]
    config: Config | None  # None for a merged model without the config that trained it


def find_model_folder(folder: str | Path) -> Path:
    """Return the model's folder: ``folder``, its ``final/`` (of a search) or its ``adapter/`` (of a training).

    Raises:
        UserError: there is no trained model.
    """
    folder = files.expand(folder)
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
    """Load the model that :func:`find_model_folder` finds in ``folder``, ready to tag.

    Raises:
        UserError: there is no trained model, a part of it is missing or broken, or its base model cannot be loaded.
    """
    place = find_model_folder(folder)
    config, tokenizer = read_config(place), load_saved_tokenizer(place)
    if not _is_adapter(place):
        model = _load_whole(place, _on_this_machine(config.model if config is not None else ModelConfig()), device())
        # a dict whose keys are numbers, in any order
        names = cast(dict[int, str], model.config.id2label)
        labels = [names[index] for index in sorted(names)]
        return Trained(model, tokenizer, _check_labels(labels, place), config)
    settings, labels = _base_settings(config, place), read_labels(place)
    base = load_base(settings, len(tokenizer))
    attached = cast(PeftModel, attach(settings, base, labels, seed=0))
    load_adapter(attached, place)
    attached.eval()
    return Trained(attached, tokenizer, labels, config)


@contextlib.contextmanager
def lend_trained(folder: str | Path) -> Iterator[Trained]:
    """Lend what :func:`load_trained` returns; an adapter is on the base model that this process keeps.

    There is one base model in memory at any time, and a whole model takes its place.

    Raises:
        UserError: as :func:`load_trained`.
    """
    place = find_model_folder(folder)
    if not _is_adapter(place):
        forget_base()
        yield load_trained(place)
        return
    config, tokenizer = read_config(place), load_saved_tokenizer(place)
    settings, labels = _base_settings(config, place), read_labels(place)
    with lend_model(settings, labels, 0, len(tokenizer)) as attached:
        load_adapter(cast(PeftModel, attached), place)
        attached.eval()
        yield Trained(attached, tokenizer, labels, config)


def _is_adapter(place: Path) -> bool:
    return (place / WEIGHTS).is_file()


def _base_settings(config: Config | None, place: Path) -> ModelConfig:
    if config is None:
        raise UserError(
            f"an adapter's folder must hold {CONFIG}, which names its base model, found none in {place}; "
            f"copy the one of the training into it"
        )
    return replace(_on_this_machine(config.model), gradient_checkpointing=False)


def _on_this_machine(model: ModelConfig) -> ModelConfig:
    """Return the settings for tagging here: a model that was spread over GPUs lies on the CPU where there are none."""
    return model if torch.cuda.is_available() else replace(model, device_map=None)


def read_labels(folder: str | Path) -> list[str]:
    """Return the names of the outputs of the adapter in ``folder``, in order.

    Raises:
        UserError: they are missing, or are not IOB2 labels.
    """
    path = Path(folder) / LABELS
    try:
        return _check_labels(json.loads(path.read_text(encoding="utf-8")), Path(folder))
    except (OSError, ValueError) as error:
        raise UserError(
            f"an adapter's folder must hold {LABELS}, a list of the labels in the order of the outputs, found none "
            f"that can be read in {folder} ({error}); train it again, or write the list"
        ) from None


def save_merged(config: Config, labels: Sequence[str], adapter: str | Path, folder: str | Path) -> None:
    """Write base plus adapter into ``folder`` as one transformers checkpoint with its tokenizer, whole or not at all.

    ``transformers.pipeline("token-classification", model=folder)`` reads it, without this project and without peft.

    Raises:
        UserError: as :func:`merge_adapter`.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    tokenizer = load_saved_tokenizer(adapter)
    with quiet():
        merge_adapter(config.model, labels, len(tokenizer), adapter).save_pretrained(str(temporary))
    tokenizer.save_pretrained(str(temporary))
    for name in (CONFIG, COLUMNS):
        if (Path(adapter) / name).exists():
            shutil.copy2(Path(adapter) / name, temporary / name)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def save_weights(model: PeftModel | PreTrainedModel, folder: str | Path) -> None:
    """Write the trained weights of a model from :func:`mistral_ner.model.attach` into ``folder``."""
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
    """Write the LoRA weights, the head and their settings into ``folder``, which is created if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous().cpu() for name, tensor in _adapter_state(attached).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config = attached.peft_config["default"]
    # with this in the file peft loads the adapter frozen, as after its own save_pretrained
    config.inference_mode = True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = False


def load_adapter(attached: PeftModel, folder: str | Path) -> None:
    """Replace the adapter's weights by those in ``folder``, bit for bit.

    Raises:
        UserError: the folder holds no adapter, or one with other labels, LoRA settings or base model.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise UserError(f"a trained adapter must hold {WEIGHTS}, found none in {folder}; name the folder of one")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} must be a safetensors file, but cannot be read ({error}); copy it again") from None
    own = _adapter_state(attached)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if shapes != expected:
        name = min(shapes.items() ^ expected.items())[0]
        raise UserError(
            f"the adapter in {folder} must fit the model, but {name} is {shapes.get(name, 'missing')} there and "
            f"{expected.get(name, 'missing')} here; use the config.yaml and the labels that it was trained with"
        )
    set_peft_model_state_dict(attached, state)


def merge_adapter(model: ModelConfig, labels: Sequence[str], vocab_size: int, adapter: str | Path) -> PreTrainedModel:
    """Return a plain transformers model whose weights are base plus adapter, ready for ``save_pretrained``.

    A model that was trained whole is returned as it is. Otherwise the base is loaded without quantisation: merging
    into 4 or 8 bits would round the adapter away. All of it is on the CPU, because the GPUs may be at work.

    Raises:
        UserError: the model cannot be loaded, or the adapter does not fit it.
    """
    whole = replace(model, quantization="none", gradient_checkpointing=False, attention="auto", device_map=None)
    if model.tuning == "full":
        return _load_whole(Path(adapter), whole, _CPU)
    base = load_base(whole, vocab_size, _CPU)
    attached = cast(PeftModel, attach(whole, base, labels, seed=0))
    load_adapter(attached, adapter)
    merged = cast(PreTrainedModel, attached.merge_and_unload())
    del merged.mistral_ner_bare
    merged.eval()
    return merged


_CPU = torch.device("cpu")


def _load_whole(folder: Path, settings: ModelConfig, place: torch.device) -> PreTrainedModel:
    """Load a merged model, or one that was trained whole."""
    check_weights(str(folder))
    parts = hardware.find_map(settings)
    try:
        with quiet():
            model: PreTrainedModel = AutoModelForTokenClassification.from_pretrained(
                str(folder),
                dtype=frozen_dtype(settings),
                use_safetensors=True,
                local_files_only=True,
                device_map=parts,
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the model in {folder} cannot be loaded ({str(error).splitlines()[0]}); name the folder of a trained model"
        ) from None
    if getattr(model.config, "is_causal", None) is False:
        for module in model.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = False  # type: ignore[assignment]  # flash attention reads it, and no file stores it
    for name in HEADS:
        if type(head := getattr(model, name, None)) is nn.Linear:
            head.__class__ = Head  # which computes as in training
    if parts is None:
        model.to(place)  # type: ignore[arg-type]
    return model


def read_config(folder: Path) -> Config | None:
    """Return the config that trained the model in ``folder``; None where none is kept.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        return check(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} must be a config that a training wrote, but cannot be read: {error}") from None


def _check_labels(labels: object, folder: Path) -> list[str]:
    try:
        if not isinstance(labels, list) or len(labels) < 2:
            raise ValueError(f"found {labels!r}")
        entity_types(labels)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"a tagger's labels must be O, B-TYPE and I-TYPE, but those in {folder} are not ({error}); name the "
            "folder of a trained tagger"
        ) from None
    return labels


def _adapter_state(attached: PeftModel) -> dict[str, torch.Tensor]:
    # "auto" for the embeddings would ask the hub whether they were resized
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(attached, save_embedding_layers=False)
    return state
