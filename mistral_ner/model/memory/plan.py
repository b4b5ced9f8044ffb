"""The memory plan of a training: weights, adapter and optimiser, activations, buffers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import psutil
import torch

from mistral_ner.config.schema import Config, ModelConfig
from mistral_ner.model.hardware import frozen_dtype, precision
from mistral_ner.model.memory.activations import GATED, Formats, of_head, of_input, of_layer
from mistral_ner.model.memory.network import Network, read_network

_TRAINED = 4 + 4 + 8  # bytes of a trained number: float32, its gradient, and Adam's two means
# of a weight: NF4 has 4 bits, an 8-bit scale for 64 weights and a float32 for 256 scales (QLoRA, section 3,
# https://arxiv.org/abs/2305.14314); LLM.int8 has a float32 for each row besides (https://arxiv.org/abs/2208.07339)
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
_CUDA = 0.6e9  # CUDA's own context, and the workspace of its products; not measured here


@dataclass(frozen=True)
class MemoryPlan:
    """What a training needs at its peak, in bytes.

    Attributes:
        weights: of the frozen network.
        trained: weights that are trained, with their gradients and the optimiser's state.
        activations: what a step keeps for the gradients; None if no formula holds for the network.
        buffers: what one layer needs while its gradients are computed, and on a GPU CUDA's own.
        numbers: how many numbers are trained.
    """

    weights: float
    trained: float
    activations: float | None
    buffers: float
    numbers: int

    @property
    def least(self) -> float:
        """What is needed whatever the batch."""
        return self.weights + self.trained

    @property
    def total(self) -> float | None:
        """The sum; None if the activations are not known."""
        return None if self.activations is None else self.least + self.activations + self.buffers

    def of_pass(self, trials: int) -> float | None:
        """Return what so many trials take that go through the network together; None if it is not known."""
        return None if self.total is None else self.weights + trials * (self.total - self.weights)

    def __str__(self) -> str:
        parts = f"weights {format_size(self.weights)}, adapter and optimiser {format_size(self.trained)}"
        if self.activations is None:
            return f"{parts}; activations are not known for this kind of network"
        parts += f", activations {format_size(self.activations)}, buffers {format_size(self.buffers)}"
        return f"{format_size(self.total or 0)}: {parts}"


def plan_memory(config: Config, labels: int, vocab_size: int, length: int, on_gpu: bool) -> MemoryPlan:
    """Return the plan of a training whose batches are all as long as they may get; nothing is loaded.

    Args:
        config: the training.
        labels: outputs of the head.
        vocab_size: entries of the tokenizer, used as by :func:`mistral_ner.model.base.base_model`.
        length: subwords of a row.
        on_gpu: plan for a GPU (one with bfloat16 where ``auto`` chooses), rather than for this machine's CPU.

    Raises:
        UserError: there is no such model, or the settings do not fit it.
    """
    model, network = config.model, read_network(config.model, vocab_size)
    formats = _formats(config, on_gpu, length)
    numbers = count_trained(network, model, labels)
    tokens = config.training.per_device_train_batch_size * length
    activations = None
    if network.config.model_type in GATED and model.tuning == "lora":
        activations = tokens * _a_token(network, config, formats, labels, length)
        if formats.products < 4 and not model.gradient_checkpointing:
            activations += formats.products * numbers  # autocast's copies of the trained weights
    buffers = tokens * _of_gradients(network) + _unpacked(network, formats)
    buffers += _CUDA * count_cards(config) if on_gpu else 0
    return MemoryPlan(_weights(network, model, formats), _TRAINED * numbers, activations, buffers, numbers)


def fits_whole(
    config: Config, labels: int, vocab_size: int, length: int, on_gpu: bool, room: float, trials: int = 1
) -> bool:
    """Whether a training fits into ``room`` bytes without computing activations again.

    Args:
        config, labels, vocab_size, length, on_gpu: as for :func:`plan_memory`.
        room: bytes, of which a tenth stays free: the plan is right to about that.
        trials: how many of its kind go through the network together.

    Raises:
        UserError: as :func:`plan_memory`.
    """
    whole = replace(config, model=replace(config.model, gradient_checkpointing=False))
    total = plan_memory(whole, labels, vocab_size, length, on_gpu).of_pass(trials)
    return total is not None and total <= 0.9 * room


def count_trained(network: Network, model: ModelConfig, labels: int) -> int:
    """Return how many numbers are trained: LoRA's two matrices of each layer, or every weight, and the head."""
    head = labels * (int(network.config.hidden_size) + 1)
    if model.tuning == "full":
        return network.parameters + head
    return sum(model.lora_r * (inputs + outputs) for inputs, outputs in network.adapted.values()) + head


def _formats(config: Config, on_gpu: bool, length: int) -> Formats:
    model = config.model
    dtype = torch.bfloat16 if on_gpu and model.dtype == "auto" else frozen_dtype(model)
    wanted = config.training.precision
    products = "bf16" if on_gpu and wanted == "auto" else precision(wanted)
    eager = model.attention == "eager" or (not on_gpu and model.attention == "auto" and length <= _EAGER)
    bits = {"4bit": 4, "8bit": 8}.get(model.quantization, 8 * dtype.itemsize)
    return Formats(dtype.itemsize, 4 if products == "fp32" else 2, on_gpu, eager, bits)


_EAGER = 128  # as mistral_ner.model.cpu.attention


def _weights(network: Network, model: ModelConfig, formats: Formats) -> float:
    if model.quantization == "none":
        return float(network.parameters * formats.stream)
    packed = sum(inputs * outputs for inputs, outputs in network.linear.values())
    rest = (network.parameters - packed) * formats.stream
    if model.quantization == "4bit":
        return rest + _NF4 * packed
    return rest + packed + 4 * sum(outputs for _, outputs in network.linear.values())


def _a_token(network: Network, config: Config, formats: Formats, labels: int, length: int) -> float:
    """Return the bytes that are kept for a token until the gradients reach it."""
    model, layers = config.model, network.config.num_hidden_layers - network.frozen
    layer = of_layer(network, formats, model.lora_r, model.lora_dropout, length)
    kept = layers * of_input(network, formats) + layer if model.gradient_checkpointing else layers * layer
    return float(kept + of_head(network, formats, labels))


def _of_gradients(network: Network) -> float:
    """Return the bytes for a token of one gradient in float32 in the widest part of a layer, between its products."""
    return 4.0 * int(getattr(network.config, "intermediate_size", 4 * network.config.hidden_size))


def _unpacked(network: Network, formats: Formats) -> float:
    """Return the bytes of the largest quantised weight, which is unpacked for each product."""
    if formats.bits != 4:
        return 0.0
    return float(formats.products * max(inputs * outputs for inputs, outputs in network.linear.values()))


def count_cards(config: Config) -> int:
    """Return how many GPUs hold a training's model: one, unless ``model.device_map`` spreads it."""
    if config.model.device_map is None:
        return 1
    return int(config.hyperopt.resources_per_trial.gpu or max(1, torch.cuda.device_count()))


def _cards(count: int) -> range:
    return range(min(count, torch.cuda.device_count()))


def memory_of_machine(cards: int = 1) -> tuple[str, float]:
    """Return what a training of this process has at most: the name and the bytes of its GPUs' memory, or the RAM."""
    if torch.cuda.is_available():
        total = sum(torch.cuda.get_device_properties(card).total_memory for card in _cards(cards))
        return f"{f'{cards} times ' if cards > 1 else ''}{torch.cuda.get_device_name()}", float(total)
    return "this machine", float(psutil.virtual_memory().total)


def room_of_process(cards: int = 1) -> float:
    """Return the bytes that a training of this process may use now: what is free of its GPUs and what it holds itself.

    On a CPU it is what the machine has available.
    """
    if not torch.cuda.is_available():
        return float(psutil.virtual_memory().available)
    return float(sum(torch.cuda.mem_get_info(card)[0] + torch.cuda.memory_reserved(card) for card in _cards(cards)))


def free_on_card(cards: int = 1) -> float | None:
    """Return the bytes that are free on this process's GPUs now; None without one."""
    if not torch.cuda.is_available():
        return None
    return float(sum(torch.cuda.mem_get_info(card)[0] for card in _cards(cards)))


def format_size(size: float) -> str:
    """Return bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
