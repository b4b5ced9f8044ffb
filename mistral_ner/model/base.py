"""The frozen network, loaded once a process and kept for the trials that follow.

It is kept without head and adapter (adapter.py adds both), so it serves every label set and every LoRA setting. Its key
has only the settings that shape the frozen weights.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError, nearest
from mistral_ner.model import hardware
from mistral_ner.model.hardware import HEADS, attention, device, frozen_dtype, quantization
from mistral_ner.model.source import check_weights, explain_loading_errors, hub_options, locate, may_unpickle, no_room

_WEIGHTS_SEED = 0  # of random weights, so that every process has the same base

_kept: dict[str, PreTrainedModel] = {}  # at most one: two large models do not fit one GPU


class NoHead(nn.Identity):
    """A placeholder for the head while no adapter is attached; it keeps the input width and the device."""

    def __init__(self, in_features: int, place: torch.device) -> None:
        super().__init__()
        self.in_features, self.place = in_features, place


def base_model(model: ModelConfig, vocab_size: int) -> PreTrainedModel:
    """Return the frozen network for ``model``: the one kept from an earlier call, or a newly loaded one.

    Args:
        model: what to load; its LoRA settings do not matter.
        vocab_size: entries of the tokenizer; used only with ``random_init`` or ``resize_embeddings``.

    Returns:
        A token classifier on this process's device, in eval mode, with no trainable parameter and no head.

    Raises:
        UserError: the model is missing, is gated, has no safetensors, or does not fit its settings.
    """
    key = _key(model, vocab_size)
    if key not in _kept:
        forget_base()  # before loading, so that two models are never in memory together
        _kept[key] = load_base(model, vocab_size)
    return _kept[key]


def forget_base() -> None:
    """Drop the kept base model; the next :func:`base_model` loads one."""
    while _kept:
        _, base = _kept.popitem()
        if hasattr(base, "_hf_hook"):
            # late: most models have none
            from accelerate.hooks import remove_hook_from_submodules  # type: ignore[import-untyped]

            remove_hook_from_submodules(base)
            for module in base.modules():  # each would refer to itself, and stay until garbage is collected
                vars(module).pop("forward", None)


def load_base(model: ModelConfig, vocab_size: int, place: torch.device | None = None) -> PreTrainedModel:
    """Load what :func:`base_model` returns, without keeping it; ``place`` is one device for all of it.

    Without ``place`` it lies on this process's device, or is spread as ``model.device_map`` says.
    """
    parts = hardware.find_map(model) if place is None else None
    place = place or device()
    with quiet(), fixed_rng(_WEIGHTS_SEED), explain_loading_errors(model):
        if model.random_init is None:
            base = _pretrained(locate(model), model, place, parts)
        else:
            base = _random(model, vocab_size, place, parts)
        if model.resize_embeddings:
            _resize_embeddings(base, vocab_size)
    if model.quantization != "none":
        # not peft's prepare_model_for_kbit_training: it makes embeddings and norms float32, and with them everything
        # that passes from layer to layer, up to twice the activations
        _keep_packing(base)
    return remove_head(base)


def added_tokens(base: PreTrainedModel) -> range:
    """Return the ids of the tokens whose embeddings are not of the model's file, and are trained."""
    added: range = getattr(base, "mistral_ner_added_tokens", range(0))
    return added


def _resize_embeddings(base: PreTrainedModel, vocab_size: int) -> None:
    """Add an embedding for every token without one, drawn around the mean of the others."""
    embeddings: Any = base.get_input_embeddings()
    rows = int(embeddings.weight.shape[0])
    if rows < vocab_size:
        base.resize_token_embeddings(vocab_size)
        base.mistral_ner_added_tokens = range(rows, vocab_size)  # type: ignore[assignment]


def remove_head(base: PreTrainedModel) -> PreTrainedModel:
    """Freeze ``base`` and replace its head by :class:`NoHead`."""
    name = _head_name(base)
    head = getattr(base, name)
    setattr(base, name, NoHead(head.in_features, head.weight.device))
    base.requires_grad_(False)
    base.eval()
    return base


def build_random_config(random_init: dict[str, Any], vocab_size: int) -> PretrainedConfig:
    """Build the transformers config that ``model.random_init`` describes.

    Raises:
        UserError: the model type is unknown to transformers, or has no such fields.
    """
    fields = dict(random_init)
    kind = str(fields.pop("model_type"))
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"model.random_init.model_type must be one that transformers knows, found {kind!r}"
            f"{nearest(kind, CONFIG_MAPPING.keys())}; type model.random_init.model_type=mistral"
        )
    config_class = CONFIG_MAPPING[kind]
    known = {*vars(config_class()), *config_class.attribute_map}
    # a transformers config takes any field: a misspelt one would leave the default, perhaps seven billion weights
    for name in fields:
        if name not in known:
            raise UserError(
                f"model.random_init.{name} is not a field of a {kind} config{nearest(name, known)}; "
                f"type ~model.random_init.{name}"
            )
    fields.update(vocab_size=vocab_size, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    return _no_cache(config_class(**fields))


@contextlib.contextmanager
def fixed_rng(seed: int) -> Iterator[None]:
    """Seed torch inside the block, and restore its global random state afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _key(model: ModelConfig, vocab_size: int) -> str:
    random = model.random_init
    weights: list[Any] = [model.model_name, model.revision] if random is None else [random]
    if random is not None or model.resize_embeddings:
        weights.append(vocab_size)
    shape = [model.dtype, model.quantization, model.attention, model.trust_remote_code, str(device()), model.device_map]
    return json.dumps([weights, shape], sort_keys=True)


def _pretrained(source: str, model: ModelConfig, place: torch.device, parts: Any) -> PreTrainedModel:
    """Load a checkpoint onto ``place``, or spread it as ``parts`` say, a device map of transformers."""
    pickled_too = may_unpickle(model)
    check_weights(source, pickled_too)
    hub = hub_options(model)
    config = _no_cache(AutoConfig.from_pretrained(source, **hub))
    options: dict[str, Any] = {} if parts is None else {"device_map": parts}
    if model.quantization != "none":
        options = {"device_map": {"": place}, **options, "quantization_config": quantization(model)}
    # with other labels than the file's, its head would be refused; ours replaces it later
    base, report = AutoModelForTokenClassification.from_pretrained(
        source,
        config=config,
        dtype=frozen_dtype(model),
        attn_implementation=attention(model),
        # None: safetensors if there are any, else pickled weights, from which torch then reads tensors only
        use_safetensors=None if pickled_too else True,
        output_loading_info=True,
        **hub,
        **options,
    )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_head_name(base) + "."))
    if missing:
        raise UserError(
            f"the weights of {model.model_name} must fill a {config.model_type} model, but {len(missing)} are missing, "
            f"{missing[0]} first; type another model.model_name"
        )
    if isinstance(parts, str):
        spread: dict[str, Any] = getattr(base, "hf_device_map", {})
        if {"cpu", "disk"} & {str(part) for part in spread.values()}:
            raise UserError(no_room(model))  # a training would copy the rest from the RAM or the disk in each step
    loaded: PreTrainedModel = base if options else base.to(place)
    return loaded


def _random(model: ModelConfig, vocab_size: int, place: torch.device, parts: Any) -> PreTrainedModel:
    assert model.random_init is not None
    config = build_random_config(model.random_init, vocab_size)
    base = AutoModelForTokenClassification.from_config(config, attn_implementation=attention(model))
    if model.quantization == "none" and parts is None:
        built: PreTrainedModel = base.to(device=place, dtype=frozen_dtype(model))
        return built
    # weights are quantised and spread while they are loaded, so they go through a file
    with tempfile.TemporaryDirectory() as folder:
        base.save_pretrained(folder)
        return _pretrained(folder, model, place, parts)


def _keep_packing(base: nn.Module) -> None:
    # on some CPUs the first evaluation repacks the weights of 4-bit layers in place and rounds their scales, which
    # would change the base under the adapter
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _head_name(base: nn.Module) -> str:
    for name in HEADS:
        if isinstance(getattr(base, name, None), nn.Linear):
            return name
    raise UserError(
        f"a model's head must be a linear layer named {' or '.join(HEADS)}, found neither in {type(base).__name__}; "
        "type another model.model_name"
    )


def _no_cache(config: PretrainedConfig) -> PretrainedConfig:
    if hasattr(config, "use_cache"):
        config.use_cache = False  # keys and values of past tokens serve generation; here they only take memory
    return config


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the progress bar and the expected report that the head is newly initialised."""
    log = transformers.utils.logging
    verbosity, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bar:
            log.enable_progress_bar()
