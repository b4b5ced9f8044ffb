"""What is trained: LoRA weights and a head, put on the frozen network and taken off without a trace.

With ``model.tuning=full`` it is a copy of every weight and a head, in the network itself until it is taken off.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoConfig, AutoModelForTokenClassification, PretrainedConfig, PreTrainedModel

from mistral_ner.config import ModelConfig, UserError
from mistral_ner.model.base import NoHead, base_model, fixed_rng, forget_base, headless, random_config
from mistral_ner.model.layers import frozen_layers, layer_stack, without_dropout
from mistral_ner.model.source import hub_options, loading_errors, locate
from mistral_ner.model.targets import lora_targets


class Head(nn.Linear):
    """A linear layer in float32 on a network that may compute in 16 bits: (…, hidden) to (…, labels)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.to(self.weight.dtype))


@dataclass
class _Bare:
    """What attach changes in a base model besides its modules, as it was before."""

    head_name: str
    head: NoHead
    attributes: dict[str, Any]  # vars() of the base
    config: dict[str, Any]  # vars() of its config
    is_causal: list[tuple[nn.Module, bool]]
    weights: list[tuple[torch.Tensor, torch.Tensor]]  # parameters and buffers that attach gave a copy, and their own
    checkpointing: bool  # whether attach switched gradient checkpointing on
    dropout: list[tuple[nn.Module, str, float]]  # what was switched off: module, attribute, value


@contextlib.contextmanager
def adapted(
    model: ModelConfig, labels: Sequence[str], seed: int, vocab_size: int, adapter: str | Path | None = None
) -> Iterator[PeftModel | PreTrainedModel]:
    """Lend the kept base model with a fresh adapter on it, and take the adapter off again whatever happens.

    With ``model.tuning=full`` it is the base model itself, with a fresh head and copies of its weights to train.

    Args:
        model, labels, seed: as for :func:`attach`.
        vocab_size: as for :func:`mistral_ner.model.base.base_model`.
        adapter: a folder written by ``save_adapter``; its weights replace the fresh ones. With LoRA only.

    Raises:
        UserError: the model cannot be loaded, or the settings or the adapter do not fit it.
    """
    base = base_model(model, vocab_size)
    try:
        attached = attach(model, base, labels, seed)
        if adapter is not None:
            from mistral_ner.model.stored import load_adapter

            load_adapter(cast(PeftModel, attached), adapter)
        yield attached
    finally:
        try:
            _restore(base)
        except BaseException:
            forget_base()  # half restored, it must not serve another trial
            raise


def attach(model: ModelConfig, base: PreTrainedModel, labels: Sequence[str], seed: int) -> PeftModel | PreTrainedModel:
    """Put a fresh adapter on ``base``, or with ``model.tuning=full`` a fresh head, and make all of it trainable.

    Args:
        model: ``tuning``, the LoRA settings, ``bidirectional`` and ``gradient_checkpointing``.
        base: from :func:`mistral_ner.model.base.base_model`, with nothing attached.
        labels: names of the outputs, in order.
        seed: of the adapter's first weights; the same seed gives the same bits, on a new base and on a used one.

    Returns:
        The peft model, of which only the adapter's parameters are trainable, or ``base``, of which all are; what is
        trainable is float32. Logits: (batch, tokens, labels).

    Raises:
        UserError: ``lora_target_modules`` do not fit the network; the base is as it was.
    """
    if hasattr(base, "mistral_ner_bare"):
        raise RuntimeError("this base model has an adapter already; detach it first")
    if model.tuning == "full":
        return _attach_whole(model, base, labels, seed)
    targets, frozen = lora_targets(model, base), frozen_layers(model, base)
    layers = _only_upper(targets, base, frozen) if frozen else {}
    bare = _remember(base, model.gradient_checkpointing)
    base.mistral_ner_bare = bare  # type: ignore[assignment]
    _set_labels(base, labels)
    bare.dropout += without_dropout(base, frozen)
    if model.bidirectional:
        _uncover(base)
    with fixed_rng(seed), warnings.catch_warnings():
        # peft reads a property of transformers under its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        setattr(base, bare.head_name, _new_head(base, bare.head.in_features, len(labels)))
        attached = cast(PeftModel, get_peft_model(base, _lora_config(model, targets, bare.head_name, layers)))
    if model.gradient_checkpointing:
        # after peft: both hook the embeddings to require gradients, and only the last hook would be taken off again
        base.activation_checkpointing_enable({"use_reentrant": False})
    # peft takes the base's own name, which is empty for random weights
    attached.peft_config["default"].base_model_name_or_path = model.model_name
    return attached


def _attach_whole(model: ModelConfig, base: PreTrainedModel, labels: Sequence[str], seed: int) -> PreTrainedModel:
    """Let ``base`` train copies of its weights, in float32: added to 16 bits, most updates would round to nothing."""
    bare = _remember(base, model.gradient_checkpointing)
    base.mistral_ner_bare = bare  # type: ignore[assignment]
    for tensor in (*base.parameters(), *base.buffers()):
        bare.weights.append((tensor, tensor.data))
        trained = isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
        tensor.data = tensor.data.to(dtype=torch.float32 if trained else tensor.dtype, copy=True)
    _set_labels(base, labels)
    if model.bidirectional:
        _uncover(base)
    with fixed_rng(seed):
        setattr(base, bare.head_name, _new_head(base, bare.head.in_features, len(labels)))
    if model.gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    return base.requires_grad_(True)


def detach(attached: PeftModel | PreTrainedModel) -> PreTrainedModel:
    """Take the adapter off and return the base model, bit for bit as it was before :func:`attach`."""
    base: PreTrainedModel = attached.get_base_model() if isinstance(attached, PeftModel) else attached  # type: ignore[assignment]
    _restore(base)
    return base


def empty_model(
    model: ModelConfig, labels: Sequence[str], config: PretrainedConfig | None = None
) -> PeftModel | PreTrainedModel:
    """Build the model with its adapter in shape only (meta tensors): no weights, no memory, no download of them.

    Args:
        config: the network's transformers config; left out, it is read from where ``model`` points.

    Raises:
        UserError: the config cannot be read, or the settings do not fit it.
    """
    if config is None and model.random_init is not None:
        config = random_config(model.random_init, vocab_size=1000)
    with loading_errors(model), torch.device("meta"):
        if config is None:
            config = AutoConfig.from_pretrained(locate(model), **hub_options(model))
        base = headless(AutoModelForTokenClassification.from_config(config))
    return attach(model, base, labels, seed=0)


def _only_upper(targets: list[str] | str, base: PreTrainedModel, frozen: int) -> dict[str, Any]:
    """Return the settings of peft that keep LoRA off the first ``frozen`` layers.

    Raises:
        UserError: peft cannot choose layers for a network whose targets it holds as a pattern.
    """
    path, stack = layer_stack(base)
    if isinstance(targets, str):
        raise UserError(
            f"model.lora_layers=top:N needs the names of the modules for a {base.config.model_type}; "
            "type model.lora_target_modules=all-linear"
        )
    return {"layers_to_transform": list(range(frozen, len(stack))), "layers_pattern": path.rpartition(".")[2]}


def _lora_config(model: ModelConfig, targets: list[str] | str, head_name: str, layers: dict[str, Any]) -> LoraConfig:
    alpha = model.lora_alpha if model.lora_alpha is not None else model.lora_alpha_ratio * model.lora_r
    return LoraConfig(
        task_type=TaskType.TOKEN_CLS,
        r=model.lora_r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # declared int, used as a float
        lora_dropout=model.lora_dropout,
        target_modules=targets,
        modules_to_save=[head_name],
        use_rslora=model.use_rslora,
        bias="none",
        **layers,
    )


def _new_head(base: PreTrainedModel, width: int, number_of_labels: int) -> Head:
    # drawn on the CPU, so that the bits do not depend on the device
    head = Head(width, number_of_labels, dtype=torch.float32, device="meta" if base.device.type == "meta" else "cpu")
    nn.init.normal_(head.weight, std=getattr(base.config, "initializer_range", 0.02))
    nn.init.zeros_(head.bias)
    return head.to(base.device)


def _set_labels(base: PreTrainedModel, labels: Sequence[str]) -> None:
    base.config.id2label = dict(enumerate(labels))  # num_labels follows
    base.config.label2id = {label: index for index, label in enumerate(labels)}
    base.num_labels = len(labels)  # type: ignore[assignment]


def _uncover(base: PreTrainedModel) -> None:
    """Let every token see both sides; without effect on an encoder, whose tokens do already."""
    base.config.is_causal = False  # the masks
    for module in base.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False  # type: ignore[assignment]  # flash attention builds no mask: it asks the layer


def _remember(base: PreTrainedModel, checkpointing: bool) -> _Bare:
    head_name, head = next((name, child) for name, child in base.named_children() if isinstance(child, NoHead))
    return _Bare(
        head_name=head_name,
        head=head,
        attributes=dict(vars(base)),
        config=copy.deepcopy(vars(base.config)),
        is_causal=[(module, bool(module.is_causal)) for module in base.modules() if hasattr(module, "is_causal")],
        weights=[],
        checkpointing=checkpointing,
        dropout=[],
    )


def _restore(base: PreTrainedModel) -> None:
    """Undo :func:`attach`, also one that broke off in the middle. Does nothing where nothing is attached."""
    bare: _Bare | None = getattr(base, "mistral_ner_bare", None)
    if bare is None:
        return
    setattr(base, bare.head_name, bare.head)
    for tensor, own in bare.weights:
        tensor.data, tensor.grad = own, None
    for path, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            base.set_submodule(path, module.get_base_layer())
    if bare.checkpointing:
        base.activation_checkpointing_disable()
        base.disable_input_require_grads()
    for module, name, rate in bare.dropout:
        setattr(module, name, rate)
    for layer, value in bare.is_causal:
        layer.is_causal = value  # type: ignore[assignment]
    # the parts of the network share the config, so it must stay the same object
    vars(base.config).clear()
    vars(base.config).update(bare.config)
    # with half precision accelerate leaves a forward of its own on the network, and where it keeps the old one
    for name in vars(base).keys() - bare.attributes.keys():
        del vars(base)[name]
    vars(base).update(bare.attributes)
    base.requires_grad_(False)
    base.eval()
