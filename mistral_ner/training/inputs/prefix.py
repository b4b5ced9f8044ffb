"""The frozen prefix: if LoRA changes the upper layers only, the activations below them never change.

They are computed once for all trials of all studies with the same data and network, kept beside the encoded data, and
memory-mapped; every training then starts from them.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from mistral_ner import files
from mistral_ner.config.schema import Config
from mistral_ner.data.encoded.encode import Encoded
from mistral_ner.data.encoded.rows import Row, Rows
from mistral_ner.errors import UserError
from mistral_ner.model.base import added_tokens
from mistral_ner.model.hardware import autocast, place_of_inputs, precision
from mistral_ner.model.layers import SKIPPABLE, compute_activations, frozen_layers, frozen_modules, skip_layers
from mistral_ner.model.lora import PeftModel
from mistral_ner.training.inputs.batches import batches_by_tokens, collate

log = logging.getLogger(__name__)

_SPLITS = ("train", "dev")
_SHARE_OF_DISK = 0.5  # of the free space; using more takes model.frozen_prefix=true
_WHAT = "the stored output of the frozen layers"


class PrefixRows:
    """The rows of a split, each with its activations: ``hidden``, (tokens, width)."""

    def __init__(self, rows: Rows, path: Path, dtype: torch.dtype, width: int) -> None:
        self.rows, self.lengths = rows, rows.lengths
        ends = np.cumsum(rows.lengths).tolist()
        self.places = list(zip([0, *ends], ends, strict=False))
        self.states = torch.from_file(str(path), size=ends[-1] * width, dtype=dtype).view(ends[-1], width)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        start, end = self.places[index]
        return {**self.rows[index], "hidden": self.states[start:end]}


@dataclass(frozen=True)
class Prefix:
    """Activations of the training and dev rows at the first layer that LoRA changes."""

    train: PrefixRows
    dev: PrefixRows
    frozen: int

    def in_use(self, model: PeftModel) -> AbstractContextManager[None]:
        """Let the model start from the activations, and restore it afterwards."""
        return skip_layers(model.get_base_model(), self.frozen)  # type: ignore[arg-type]


def frozen_prefix(config: Config, model: Any, data: Encoded, pad_id: int) -> Prefix | None:
    """Return the activations to train from, computed unless they are on disk; None to train without them.

    The process keeps them as long as the base model.

    Args:
        config: ``model.frozen_prefix`` true, false, or None: only for a known network and with room on the disk.
        model: from :func:`mistral_ner.model.lend_model`.
        data: the encoded splits.
        pad_id: the tokenizer's.

    Raises:
        UserError: ``model.frozen_prefix=true`` with a network whose layers cannot be skipped, or a full disk.
    """
    wanted = config.model.frozen_prefix
    if wanted is False or config.model.lora_layers == "all":
        return None
    base: Any = model.get_base_model()
    if not (frozen := frozen_layers(config.model, base)) or added_tokens(base):
        return None
    if base.config.model_type not in SKIPPABLE:
        if wanted is None:
            return None
        raise UserError(
            f"model.frozen_prefix=true works with {', '.join(SKIPPABLE)}, found a {base.config.model_type}; "
            "type model.frozen_prefix=null"
        )
    folder = files.expand(config.data.cache_dir) / "prefix"
    key = (folder, frozen, config.model.bidirectional, data.fingerprint)
    kept = _kept.setdefault(base, {})
    if key not in kept:
        kept.clear()  # a study needs only one
        path = folder / _name(config, base, frozen, data.fingerprint)
        found = _read_or_compute(path, base, frozen, {name: data.rows(name) for name in _SPLITS}, pad_id, config)
        if found is None:
            return None
        kept[key] = found
    return kept[key]


# weak, so that the activations of a base model are freed together with it
_kept: weakref.WeakKeyDictionary[PreTrainedModel, dict[Any, Prefix]] = weakref.WeakKeyDictionary()


def _read_or_compute(
    folder: Path, base: Any, frozen: int, splits: dict[str, Rows], pad_id: int, config: Config
) -> Prefix | None:
    read = functools.partial(_read, splits=splits, frozen=frozen)
    if (found := files.open_if_whole(folder, _WHAT, read)) is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    width, dtype = int(base.config.hidden_size), _states(base, frozen, [splits["train"][0]], pad_id, config).dtype
    size = sum(int(rows.lengths.sum()) for rows in splits.values()) * width * dtype.itemsize
    free = shutil.disk_usage(folder.parent).free
    need = f"the activations of the {frozen} frozen layers take {size / 1e6:,.1f} MB in {folder.parent}"
    if config.model.frozen_prefix is None and size > _SHARE_OF_DISK * free:
        log.warning("%s, where %.1f MB are free: every trial computes them again", need, free / 1e6)
        return None
    log.info("%s: computed once", need)

    def write(temporary: Path) -> None:
        for name, rows in splits.items():
            _write(temporary / f"{name}.bin", base, frozen, rows, pad_id, width * dtype.itemsize, config)
        files.write_json(temporary / "shape.json", {"width": width, "dtype": str(dtype).removeprefix("torch.")})

    try:
        return files.build_folder(folder, _WHAT, read, write)
    except OSError as error:
        kind = files.DiskFullError if error.errno in files.NO_ROOM else UserError
        raise kind(
            f"{need}, and cannot be written ({error.strerror})\n"
            "  fix: model.frozen_prefix=false, or data.cache_dir=PATH"
        ) from None


def _read(folder: Path, splits: dict[str, Rows], frozen: int) -> Prefix:
    shape = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, shape["dtype"])
    train, dev = (PrefixRows(splits[name], folder / f"{name}.bin", dtype, shape["width"]) for name in _SPLITS)
    return Prefix(train, dev, frozen)


def _write(path: Path, base: Any, frozen: int, rows: Rows, pad_id: int, bytes_a_token: int, config: Config) -> None:
    ends = np.cumsum(rows.lengths)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(ends[-1]) * bytes_a_token)  # a full disk is an error, not a SIGBUS
        for indices in batches_by_tokens(rows, config.training.eval_batch_tokens):
            states = _states(base, frozen, [rows[index] for index in indices], pad_id, config)
            for index, state in zip(indices, states, strict=True):
                length = int(rows.lengths[index])
                file.seek((int(ends[index]) - length) * bytes_a_token)
                file.write(state[:length].contiguous().view(torch.uint8).numpy().tobytes())


def _states(base: Any, frozen: int, rows: Sequence[Row], pad_id: int, config: Config) -> torch.Tensor:
    batch = {name: value.to(place_of_inputs(base)) for name, value in collate(rows, pad_id).items()}
    training = base.training
    base.eval()
    try:
        with torch.inference_mode(), autocast(config.training.precision):
            return compute_activations(base, frozen, batch).cpu()
    finally:
        base.train(training)


def _name(config: Config, base: PreTrainedModel, frozen: int, fingerprint: str) -> str:
    """Return a hash of everything that decides the activations, including the bytes of the frozen weights."""
    model = config.model
    digest = hashlib.sha256(json.dumps([fingerprint, frozen, model.bidirectional, torch.__version__]).encode())
    number_format = precision(config.training.precision)
    device = str(next(base.parameters()).device)
    digest.update(json.dumps([model.quantization, model.attention, number_format, device]).encode())
    for module in frozen_modules(base, frozen):
        for name, parameter in module.named_parameters():
            digest.update(f"{name} {parameter.dtype}".encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
