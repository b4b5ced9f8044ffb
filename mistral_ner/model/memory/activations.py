"""What a training step keeps for the gradients, by formula, for decoders of Llama's kind.

The coefficients follow from what torch's derivatives read again (tools/autograd/derivatives.yaml of PyTorch) in the
operations of transformers' modelling code and of peft's LoRA layer. Frozen weights make it less than the 34 bytes of
Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198): a linear layer keeps its input for the gradient of its
weights only. tests/unit/test_memory_plan.py counts what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mistral_ner.model.memory.network import Network

GATED = ("llama", "mistral", "qwen2", "qwen3")  # model types that the formula holds for
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Formats:
    """What decides the bytes of a number.

    Attributes:
        stream: bytes of what passes from layer to layer, as of the frozen weights.
        products: bytes of what the matrix products take and give.
        on_gpu: whether kernels of a GPU compute.
        eager: whether attention is computed by plain products.
        bits: of the quantised weights; 16 and 32 mean none.
    """

    stream: int
    products: int
    on_gpu: bool
    eager: bool = False
    bits: int = 16


def of_layer(network: Network, formats: Formats, rank: int, dropout: float, length: int) -> float:
    """Return the bytes that one layer with LoRA keeps for a token.

    Args:
        network: of a type in :data:`GATED`.
        formats: of its numbers.
        rank: of LoRA.
        dropout: in front of LoRA.
        length: tokens of a row, padding included.
    """
    config, small = network.config, formats.products
    heads = int(config.num_attention_heads)
    width = heads * _head_dim(config)
    norms = 2 * _FLOAT * config.hidden_size  # each keeps its input in float32
    if config.model_type == "qwen3":  # which has two more, over queries and keys
        norms += _FLOAT * (width + config.num_key_value_heads * _head_dim(config))
    attention = 3 * small * width  # queries, and keys and values repeated for each head
    if formats.eager:
        attention += heads * length * (_FLOAT + (small if small < _FLOAT else 0))  # softmax, and its cast
    else:
        attention += small * width + _FLOAT * heads  # the result, and the sums of the softmax
    gate = 3 * small * config.intermediate_size  # the gate before and after its activation, and what it lets through
    lora = _of_lora(network, formats, rank, dropout)
    return float(norms + attention + gate) + lora + _of_int8(network, formats)


def _of_lora(network: Network, formats: Formats, rank: int, dropout: float) -> float:
    small, layers = formats.products, network.config.num_hidden_layers - network.frozen
    inputs = sum(shape[0] for shape in network.adapted.values()) / layers
    mask = (1 if formats.on_gpu else 2) if dropout else 0
    if not formats.on_gpu and formats.stream == _FLOAT:  # model/cpu/lora.py
        inputs = mask * inputs + small * (inputs if small < _FLOAT else _distinct(network, formats))
    elif dropout:
        inputs *= small + mask
    elif formats.stream != small:
        inputs *= small  # each gets a copy of its own, cast by autocast or by peft
    else:
        inputs = small * _distinct(network, formats)
    return float(inputs + small * rank * len(network.adapted) / layers)


def _distinct(network: Network, formats: Formats) -> float:
    """Return the numbers of the different inputs of a layer's LoRA; queries, keys and values share theirs."""
    config, names = network.config, {path.rpartition(".")[2] for path in network.adapted}
    width = config.num_attention_heads * _head_dim(config)
    found = config.hidden_size * (bool(names & {"q_proj", "k_proj", "v_proj"}) + bool(names & {"gate_proj", "up_proj"}))
    found += width * ("o_proj" in names and formats.eager)  # else it is what attention keeps
    return float(found + config.intermediate_size * ("down_proj" in names))


def _of_int8(network: Network, formats: Formats) -> float:
    if formats.bits != 8:
        return 0.0
    layers = network.config.num_hidden_layers
    # each input in 16 bits (bitsandbytes 0.50, MatMul8bitLt)
    return float(2 * sum(shape[0] for shape in network.linear.values()) / layers)


def of_head(network: Network, formats: Formats, labels: int) -> float:
    """Return the bytes that the last norm, dropout, the head and the loss keep for a token."""
    hidden = network.config.hidden_size
    dropped = 1 if formats.on_gpu else formats.stream
    return float(hidden * (_FLOAT + dropped + _FLOAT) + 2 * _FLOAT * labels)


def of_input(network: Network, formats: Formats) -> float:
    """Return the bytes of a layer's input for a token: all that checkpointing keeps of it."""
    return float(formats.stream * network.config.hidden_size)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
