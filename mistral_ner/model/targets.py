"""Which modules LoRA changes."""

from __future__ import annotations

from torch import nn
from transformers import Conv1D, PreTrainedModel

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError, nearest
from mistral_ner.model.hardware import HEADS
from mistral_ner.model.lora import TARGETS_OF_TYPES

# attention and feed-forward of Llama, Mistral, Qwen, Gemma and similar networks: for decoders, adapters on every linear
# layer matter more than their rank (QLoRA, section 4, https://arxiv.org/abs/2305.14314)
_LLAMA_LIKE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def lora_targets(model: ModelConfig, base: PreTrainedModel) -> list[str] | str:
    """Return what peft calls target_modules: names that end the path of a module, or a pattern.

    ``auto`` is all seven projections if the network has them, else peft's default for its type (query and value for
    BERT and similar networks, as in https://arxiv.org/abs/2106.09685), else every linear layer.

    Raises:
        UserError: a name in ``model.lora_target_modules`` is not a module of the network, or is its head.
    """
    names = linear_names(base)
    wanted = model.lora_target_modules
    if wanted == "all-linear":
        return names
    if wanted == "auto":
        if set(_LLAMA_LIKE) <= set(names):
            return _LLAMA_LIKE
        chosen = TARGETS_OF_TYPES.get(base.config.model_type, names)
        return chosen if isinstance(chosen, str) else list(chosen)
    for name in wanted:
        _check_target(name, base, names)
    return list(wanted)


def linear_names(base: nn.Module) -> list[str]:
    """Return the last parts of the paths of the linear layers without the head, sorted, each once."""
    return sorted({path.rpartition(".")[2] for path in _linear_paths(base)})


def _linear_paths(base: nn.Module) -> list[str]:
    # bitsandbytes' quantised layers are subclasses of nn.Linear
    return [
        path for path, module in base.named_modules() if isinstance(module, nn.Linear | Conv1D) and path not in HEADS
    ]


def _check_target(name: str, base: nn.Module, names: list[str]) -> None:
    if name in HEADS:
        raise UserError(
            f"model.lora_target_modules must not name the head, found {name!r}: it is trained in full anyway; "
            "type model.lora_target_modules=auto"
        )
    if not any(path == name or path.endswith(f".{name}") for path in _linear_paths(base)):
        raise UserError(
            f"model.lora_target_modules must name linear layers of the model, found {name!r}{nearest(name, names)}; "
            f"type model.lora_target_modules=[{','.join(names)}] or fewer of them"
        )
