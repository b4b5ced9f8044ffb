"""The network of a pass: the base's own layers over the tokens of all trials, an adapter and a head for each trial.

The tokens lie one after the other, each trial's with the padding that its batch has alone, so that what a trial
computes has the same shapes, the same random numbers and, rounding aside, the same values as without the others.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import ConfigError, Fault
from mistral_ner.model.adapter import let_see_both_sides, switch_checkpointing_on
from mistral_ner.model.hardware import HEADS, autocast
from mistral_ner.model.layers import frozen_layers, switch_off_dropout
from mistral_ner.model.limits import choose_max_length, read_model_config
from mistral_ner.model.lora import LoraLayer, PeftModel
from mistral_ner.model.padding import MASKED_ONCE, whole_mask
from mistral_ner.model.together.layers import ATTENTION, TogetherDropout, TogetherLinear
from mistral_ner.model.together.random import RandomState
from mistral_ner.model.together.shared import share_weights

KINDS = MASKED_ONCE  # model types whose layers, attention aside, treat every token by itself


def check_kind(model: ModelConfig, max_length: int | str) -> None:
    """Check that several trials can go through the network that ``model`` names together; it is not loaded.

    Args:
        model: the base model.
        max_length: as ``data.max_length``, the largest of the search.

    Raises:
        ConfigError: its layers mix tokens, or limit attention, in a way that the passes do not reproduce.
        UserError: there is no such model.
    """
    config, longest = read_model_config(model), choose_max_length(model, max_length)
    window = getattr(config, "sliding_window", None)
    if config.model_type not in KINDS:
        rule = f"trials go through networks of {', '.join(KINDS)} together, found a {config.model_type}"
        raise ConfigError([Fault("hyperopt.trials_per_pass", rule, "hyperopt.trials_per_pass=1")])
    if window is not None and window <= longest:
        rule = f"the network's attention reaches {window} subwords, and windows may have {longest}"
        raise ConfigError([Fault("hyperopt.trials_per_pass", rule, f"data.max_length={window - 1}")])


class Member:
    """A trial of the pass: its own model, on a network that shares the base's weights, and its random numbers."""

    def __init__(self, model: PeftModel, random: RandomState) -> None:
        base: Any = model.get_base_model()
        self.random, self.base = random, base
        self.layers = {path: one for path, one in base.named_modules() if isinstance(one, LoraLayer)}
        self.dropouts = {path: one for path, one in base.named_modules() if isinstance(one, nn.Dropout)}


@dataclass(eq=False)
class Part:
    """The batch of one trial in a pass.

    Attributes:
        member: the trial.
        rows: sentences.
        tokens: of a row, padding included.
        seen: the mask of its attention, (rows, 1, tokens, tokens).
        unused: tokens that fill its block up to the largest one's.
    """

    member: Member
    rows: int
    tokens: int
    seen: torch.Tensor
    unused: int = 0


class TogetherNetwork:
    """Computes the logits of several trials in one pass.

    Args:
        base: from :func:`mistral_ner.model.base.base_model`, with nothing attached; it is not changed.
        model: the settings, of which LoRA's do not matter.
        attention: the implementation that each trial's own network uses.
        precision: ``training.precision``.
        equal_blocks: fill each trial's tokens up to the largest number, so that LoRA's products are batched; None: on
            a GPU, where the number of kernels counts more than that of tokens.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        model: ModelConfig,
        attention: str,
        precision: str,
        equal_blocks: bool | None = None,
    ) -> None:
        self.attention, self.precision = attention, precision
        self.parts: list[Part] = []
        self.has_blocks = False
        self._equal_blocks = base.device.type != "cpu" if equal_blocks is None else equal_blocks
        self._constants: dict[Any, torch.Tensor] = {}
        network: Any = share_weights(base)
        network.set_attn_implementation(ATTENTION)
        switch_off_dropout(network, frozen_layers(model, network))
        if model.bidirectional:
            let_see_both_sides(network)
        for path, module in list(network.named_modules()):
            module.owner = self
            if isinstance(module, nn.Dropout):
                network.set_submodule(path, TogetherDropout(self, path, module.p))
        if model.gradient_checkpointing:
            switch_checkpointing_on(network, model, context_fn=self._random_again)
        self.network = network.train()

    def add(self, member: Member) -> None:
        """Make room for a trial's LoRA in the layers that it changes."""
        for path in member.layers:
            layer = self.network.get_submodule(path)
            if not isinstance(layer, TogetherLinear):
                self.network.set_submodule(path, TogetherLinear(self, path, layer))

    def logits(self, batches: Sequence[tuple[Member, Mapping[str, torch.Tensor]]]) -> list[torch.Tensor]:
        """Return the logits of each trial's batch, (rows, tokens, labels) in float32, with one graph for all.

        Args:
            batches: trials, each once, with ``input_ids`` and ``attention_mask``, (rows, tokens).
        """
        self.parts = [self._part(member, batch) for member, batch in batches]
        counts = [part.rows * part.tokens for part in self.parts]
        if self._equal_blocks:
            for part, count in zip(self.parts, counts, strict=True):
                part.unused = max(counts) - count
        self.has_blocks = self._equal_blocks
        with autocast(self.precision):
            embedded = [
                member.base.get_input_embeddings()(batch["input_ids"]).flatten(0, 1)[None] for member, batch in batches
            ]
            positions = [self._positions(batch["input_ids"]).reshape(1, -1) for _, batch in batches]
            hidden = self.network(
                inputs_embeds=self.join(embedded, 1), position_ids=self.join(positions, 1), attention_mask=None
            ).logits
            pieces = zip(self.parts, self.split(hidden, 1), strict=True)
            return [self._head(part, piece.reshape(part.rows, part.tokens, -1)) for part, piece in pieces]

    def forget_batches(self) -> None:
        """Drop what belongs to the last batches; their gradients have been computed."""
        self.parts = []

    def _part(self, member: Member, batch: Mapping[str, torch.Tensor]) -> Part:
        mask, config = batch["attention_mask"], member.base.config
        rows, tokens = mask.shape
        seen = whole_mask(config, mask)
        if self.attention == "eager":  # which adds it to the scores
            dtype = self.network.dtype
            seen = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
        return Part(member, rows, tokens, seen)

    def _positions(self, ids: torch.Tensor) -> torch.Tensor:
        embeddings: Any = getattr(self.network.base_model, "embeddings", None)
        if (of_ids := getattr(embeddings, "create_position_ids_from_input_ids", None)) is not None:  # RoBERTa
            positions: torch.Tensor = of_ids(ids, embeddings.padding_idx)
            return positions
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)

    def _head(self, part: Part, hidden: torch.Tensor) -> torch.Tensor:
        base = part.member.base
        name = next(name for name in HEADS if hasattr(base, name))
        logits: torch.Tensor = getattr(base, name)(hidden)
        return logits.float()

    def split(self, values: torch.Tensor, dim: int) -> list[torch.Tensor]:
        """Return each trial's own tokens of ``values``, along ``dim``."""
        sizes = [size for part in self.parts for size in (part.rows * part.tokens, part.unused)]
        return list(values.split(sizes, dim)[::2])

    def join(self, pieces: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
        """Return the tokens of all trials along ``dim``, as :meth:`split` takes them apart."""
        filled = []
        for part, piece in zip(self.parts, pieces, strict=True):
            filled.append(piece)
            if part.unused:
                shape = list(piece.shape)
                shape[dim] = part.unused
                filled.append(piece.new_zeros(shape))
        return torch.cat(filled, dim) if len(filled) > 1 else filled[0]

    def constant(self, values: list[float], device: torch.device) -> torch.Tensor:
        """Return numbers on the device; they are copied there once, since a copy waits for the device."""
        key = (*values, device)
        if key not in self._constants:
            self._constants[key] = torch.tensor(values, device=device)
        return self._constants[key]

    def _random_again(self) -> tuple[Any, Any]:
        """Return contexts that let a layer that is computed again draw the numbers that it drew at first."""
        before = {part.member: part.member.random.of_torch() for part in self.parts}
        return contextlib.nullcontext(), _drawn_again(before)


@contextlib.contextmanager
def _drawn_again(before: Mapping[Member, dict[str, torch.Tensor]]) -> Iterator[None]:
    after = {member: member.random.of_torch() for member in before}
    for member, states in before.items():
        member.random.set_torch(states)
    try:
        yield
    finally:
        for member, states in after.items():
            member.random.set_torch(states)
