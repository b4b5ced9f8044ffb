"""What is trained: LoRA weights and a head, attached to the frozen network and detached without a trace.

With ``model.tuning=full`` it is a head and a copy of every weight, in the network itself until it is detached.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.model.base import NoHead, added_tokens, base_model, fixed_rng, forget_base
from mistral_ner.model.layers import frozen_layers, layer_stack, switch_off_dropout
from mistral_ner.model.lora import (
    BaseTunerLayer,
    LoraConfig,
    PeftModel,
    TaskType,
    TrainableTokensWrapper,
    get_peft_model,
    without_bitsandbytes,
)
from mistral_ner.model.targets import lora_targets


class Head(nn.Linear):
    """A linear layer on a network that may compute in 16 bits: (…, hidden) to (…, labels).

    It computes in the format of its own weights, float32, under autocast too: its products are few, and scores that are
    close would be rounded to the same 16 bits.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight))  # the device, too: a spread network may end on another one


@dataclass
class _Bare:
    """What attach changes in a base model besides its modules: the values before."""

    head_name: str
    head: NoHead
    attributes: dict[str, Any]  # vars() of the base
    config: dict[str, Any]  # vars() of its config
    is_causal: list[tuple[nn.Module, bool]]
    weights: list[tuple[torch.Tensor, torch.Tensor]]  # parameters and buffers that train on a copy, and their own data
    checkpointing: bool  # whether attach switched on gradient checkpointing
    dropout: list[tuple[nn.Module, str, float]]  # what was switched off: module, attribute, value


@contextlib.contextmanager
def lend_model(
    model: ModelConfig, labels: Sequence[str], seed: int, vocab_size: int
) -> Iterator[PeftModel | PreTrainedModel]:
    """Lend the kept base model with a fresh adapter attached, and detach it at the end, whatever happens.

    With ``model.tuning=full`` the base model itself gets a fresh head and trains copies of its weights.

    Args:
        model, labels, seed: as for :func:`attach`.
        vocab_size: as for :func:`mistral_ner.model.base.base_model`.

    Raises:
        UserError: the model cannot be loaded, or the settings do not fit it.
    """
    base = base_model(model, vocab_size)
    try:
        yield attach(model, base, labels, seed)
    finally:
        try:
            _restore(base)
        except BaseException:
            forget_base()  # half restored: no other trial may use it
            raise


def attach(model: ModelConfig, base: PreTrainedModel, labels: Sequence[str], seed: int) -> PeftModel | PreTrainedModel:
    """Attach a fresh adapter to ``base``, or with ``model.tuning=full`` a fresh head, and make that trainable.

    Args:
        model: ``tuning``, the LoRA settings, ``bidirectional`` and ``gradient_checkpointing``.
        base: from :func:`mistral_ner.model.base.base_model`, with nothing attached.
        labels: names of the outputs, in order.
        seed: of the adapter's initial weights; the same seed gives the same bits on a new base and on a used one.

    Returns:
        The peft model, of which only the adapter's parameters are trainable, or ``base``, of which all are. Trainable
        parameters are float32. Logits: (batch, tokens, labels).

    Raises:
        UserError: ``lora_target_modules`` or ``gradient_checkpointing`` do not fit the network; the base is unchanged.
    """
    if model.gradient_checkpointing and not base.supports_gradient_checkpointing:
        raise UserError(
            f"model.gradient_checkpointing=true needs a network that can compute its activations again, found a "
            f"{base.config.model_type}\n  fix: model.gradient_checkpointing=false"
        )
    if hasattr(base, "mistral_ner_bare"):
        raise RuntimeError("this base model has an adapter already; detach it first")
    if model.tuning == "full":
        return _attach_whole(model, base, labels, seed)
    targets, frozen = lora_targets(model, base), frozen_layers(model, base)
    more = _only_upper(targets, base, frozen) if frozen else {}
    if added := list(added_tokens(base)):
        more["trainable_token_indices"] = {_embeddings_name(base): added}
    bare = _remember(base, bool(model.gradient_checkpointing))
    base.mistral_ner_bare = bare  # type: ignore[assignment]
    _set_labels(base, labels)
    bare.dropout += switch_off_dropout(base, frozen)
    if model.bidirectional:
        let_see_both_sides(base)
    # quantised layers need it, and have imported it by now
    with fixed_rng(seed), warnings.catch_warnings(), without_bitsandbytes():
        # peft reads a property of transformers by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        setattr(base, bare.head_name, _new_head(base, bare.head, len(labels)))
        attached = cast(PeftModel, get_peft_model(base, _lora_config(model, targets, bare.head_name, more)))
    if model.gradient_checkpointing:
        # after peft: both hook the embeddings to require gradients, and only the last hook would be removed again
        switch_checkpointing_on(base, model)
    # peft takes the base's own name, which is empty for random weights
    attached.peft_config["default"].base_model_name_or_path = model.model_name
    return attached


def _attach_whole(model: ModelConfig, base: PreTrainedModel, labels: Sequence[str], seed: int) -> PreTrainedModel:
    """Let ``base`` train float32 copies of its weights: in 16 bits most updates would be rounded away."""
    bare = _remember(base, bool(model.gradient_checkpointing))
    base.mistral_ner_bare = bare  # type: ignore[assignment]
    for tensor in (*base.parameters(), *base.buffers()):
        bare.weights.append((tensor, tensor.data))
        trained = isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
        tensor.data = tensor.data.to(dtype=torch.float32 if trained else tensor.dtype, copy=True)
    _set_labels(base, labels)
    if model.bidirectional:
        let_see_both_sides(base)
    with fixed_rng(seed):
        setattr(base, bare.head_name, _new_head(base, bare.head, len(labels)))
    if model.gradient_checkpointing:
        switch_checkpointing_on(base, model)
    return base.requires_grad_(True)


def detach(attached: PeftModel | PreTrainedModel) -> PreTrainedModel:
    """Detach the adapter and return the base model, bit for bit as it was before :func:`attach`."""
    base: PreTrainedModel = attached.get_base_model() if isinstance(attached, PeftModel) else attached  # type: ignore[assignment]
    _restore(base)
    return base


def _only_upper(targets: list[str] | str, base: PreTrainedModel, frozen: int) -> dict[str, Any]:
    """Return the settings of peft that keep LoRA off the first ``frozen`` layers.

    Raises:
        UserError: peft has a pattern as targets of this network, and cannot choose layers then.
    """
    path, stack = layer_stack(base)
    if isinstance(targets, str):
        raise UserError(
            f"model.lora_layers=top:N needs the names of the modules for a {base.config.model_type}; "
            "type model.lora_target_modules=all-linear"
        )
    return {"layers_to_transform": list(range(frozen, len(stack))), "layers_pattern": path.rpartition(".")[2]}


def _embeddings_name(base: PreTrainedModel) -> str:
    embeddings = base.get_input_embeddings()
    return str(next(path for path, module in base.named_modules() if module is embeddings))


def _lora_config(model: ModelConfig, targets: list[str] | str, head_name: str, more: dict[str, Any]) -> LoraConfig:
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
        **more,
    )


def _new_head(base: PreTrainedModel, none: NoHead, number_of_labels: int) -> Head:
    # drawn on the CPU, so that the bits do not depend on the device
    head = Head(none.in_features, number_of_labels, dtype=torch.float32, device="cpu")
    nn.init.normal_(head.weight, std=getattr(base.config, "initializer_range", 0.02))
    nn.init.zeros_(head.bias)
    return head.to(none.place)


def find_head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the head that is trained; of a model without one of ours, none."""
    heads = (module for module in model.modules() if isinstance(module, Head))
    return [one for head in heads for one in head.parameters() if one.requires_grad]


def _set_labels(base: PreTrainedModel, labels: Sequence[str]) -> None:
    base.config.id2label = dict(enumerate(labels))  # num_labels follows
    base.config.label2id = {label: index for index, label in enumerate(labels)}
    base.num_labels = len(labels)  # type: ignore[assignment]


def let_see_both_sides(base: PreTrainedModel) -> None:
    """Let every token see both sides; no change for an encoder, whose tokens do so already."""
    base.config.is_causal = False  # the masks
    for module in base.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False  # type: ignore[assignment]  # flash attention reads it from the layer and builds no mask


def switch_checkpointing_on(base: PreTrainedModel, model: ModelConfig, **more: Any) -> None:
    """Let ``base`` compute its activations again; ``more`` goes to torch's ``checkpoint``."""
    # an 8-bit layer keeps its input where only re-entrant checkpointing drops it (bitsandbytes 0.50)
    _checkpointing_method(base, "enable")({"use_reentrant": model.quantization == "8bit", **more})


def _checkpointing_method(base: PreTrainedModel, verb: str) -> Callable[..., None]:
    """Return the method of ``base`` that switches checkpointing; transformers renamed it after 5.17."""
    name = f"activation_checkpointing_{verb}"
    method: Callable[..., None] = getattr(base, name, None) or getattr(base, f"gradient_checkpointing_{verb}")
    return method


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
    """Undo :func:`attach`, even if it failed halfway; do nothing if nothing is attached."""
    bare: _Bare | None = getattr(base, "mistral_ner_bare", None)
    if bare is None:
        return
    setattr(base, bare.head_name, bare.head)
    for tensor, own in bare.weights:
        tensor.data, tensor.grad = own, None
    for path, module in list(base.named_modules()):
        if isinstance(module, TrainableTokensWrapper):
            base.set_submodule(path, module.original_module)
    for path, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            base.set_submodule(path, module.get_base_layer())
    if bare.checkpointing:
        _checkpointing_method(base, "disable")()
        base.disable_input_require_grads()
    for module, name, rate in bare.dropout:
        setattr(module, name, rate)
    for layer, value in bare.is_causal:
        layer.is_causal = value  # type: ignore[assignment]
    # the parts of the network share the config, so it must remain the same object
    vars(base.config).clear()
    vars(base.config).update(bare.config)
    # in half precision accelerate leaves its own forward on the network, beside the original one
    for name in vars(base).keys() - bare.attributes.keys():
        del vars(base)[name]
    vars(base).update(bare.attributes)
    base.requires_grad_(False)
    base.eval()
