"""The frozen prefix: where LoRA changes the upper layers only, what comes out of those under them never changes.

It is computed once for all trials of all studies on the same data and network, kept beside the encoded data, and
memory-mapped; every training then starts from there.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from mistral_ner import files
from mistral_ner.batches import Row, batches_by_tokens, collate
from mistral_ner.config import Config, UserError
from mistral_ner.data.encode import Encoded
from mistral_ner.model.layers import CUTTABLE, activations, cut, frozen_layers, layer_stack

log = logging.getLogger(__name__)

_SPLITS = ("train", "dev")
_SHARE_OF_DISK = 0.5  # of what is free: more of it is not taken without being asked


class PrefixRows:
    """The rows of a split, each with its activations: ``hidden``, (tokens, width)."""

    def __init__(self, rows: Sequence[Row], path: Path, dtype: torch.dtype, width: int) -> None:
        self.rows = rows
        self.ends = np.cumsum([len(row["input_ids"]) for row in rows])
        tokens = int(self.ends[-1])
        self.states = torch.from_file(str(path), size=tokens * width, dtype=dtype).view(tokens, width)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        end = int(self.ends[index])
        return {**row, "hidden": self.states[end - len(row["input_ids"]) : end]}


@dataclass(frozen=True)
class Prefix:
    """Activations of the training and dev rows at the first layer that LoRA changes."""

    train: PrefixRows
    dev: PrefixRows
    frozen: int

    def in_use(self, model: PeftModel) -> AbstractContextManager[None]:
        """Let the model start from the activations, and take it back afterwards."""
        return cut(model.get_base_model(), self.frozen)  # type: ignore[arg-type]


def frozen_prefix(config: Config, model: PeftModel, data: Encoded, pad_id: int) -> Prefix | None:
    """Return the activations to train from, computed where they are not on disk yet; None where it is not to be done.

    Args:
        config: ``model.frozen_prefix`` true, false, or None for where it pays: a known network, room on the disk.
        model: with its adapter on.
        data: the encoded splits.
        pad_id: the tokenizer's.

    Raises:
        UserError: asked for, but the network is not one that can be cut; or the disk is full.
    """
    base: Any = model.get_base_model()
    frozen = frozen_layers(config.model, base)
    wanted = config.model.frozen_prefix
    if not frozen or wanted is False:
        return None
    if base.config.model_type not in CUTTABLE:
        if wanted is None:
            return None
        raise UserError(
            f"model.frozen_prefix=true works with {', '.join(CUTTABLE)}, found a {base.config.model_type}; "
            "type model.frozen_prefix=null"
        )
    folder = Path(config.data.cache_dir).expanduser() / "prefix" / _key(config, base, frozen, data.fingerprint)
    splits = {name: list(data.split(name)) for name in _SPLITS}
    if not _whole(folder, splits) and not _make(folder, base, frozen, splits, pad_id, config):
        return None
    shape = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, shape["dtype"])
    train, dev = (PrefixRows(splits[name], folder / f"{name}.bin", dtype, shape["width"]) for name in _SPLITS)
    return Prefix(train, dev, frozen)


def _whole(folder: Path, splits: dict[str, list[Row]]) -> bool:
    """Whether the activations are on disk; what is not as long as it was written is removed, with a warning."""
    if not folder.is_dir():
        return False
    try:
        shape = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
        bytes_a_token = int(shape["width"]) * getattr(torch, shape["dtype"]).itemsize
        sizes = {name: _tokens(rows) * bytes_a_token for name, rows in splits.items()}
        if all((folder / f"{name}.bin").stat().st_size == size for name, size in sizes.items()):
            return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    log.warning("the activations in %s are damaged: computing them again", folder)
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _tokens(rows: Sequence[Row]) -> int:
    return sum(len(row["input_ids"]) for row in rows)


def _make(folder: Path, base: Any, frozen: int, splits: dict[str, list[Row]], pad_id: int, config: Config) -> bool:
    """Compute the activations of all splits into ``folder``, whole or not at all; False where there is no room."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    tokens = sum(_tokens(rows) for rows in splits.values())
    width, dtype = int(base.config.hidden_size), _dtype(base, frozen, splits, pad_id)
    size, free = tokens * width * dtype.itemsize, shutil.disk_usage(folder.parent).free
    need = f"the activations of the {frozen} frozen layers take {size / 1e6:,.1f} MB in {folder.parent}"
    if config.model.frozen_prefix is None and size > _SHARE_OF_DISK * free:
        log.warning("%s, where %.1f MB are free: every trial computes them anew", need, free / 1e6)
        return False
    log.info("%s: computed once", need)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, rows in splits.items():
            _write(temporary / f"{name}.bin", base, frozen, rows, pad_id, width * dtype.itemsize, config)
        files.write_json(temporary / "shape.json", {"width": width, "dtype": str(dtype).removeprefix("torch.")})
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "shape.json").is_file():
                raise  # else another process was faster
    except OSError as error:
        raise UserError(
            f"{need}, and cannot be written ({error.strerror})\n"
            "  fix: model.frozen_prefix=false, or data.cache_dir=PATH"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _write(
    path: Path, base: Any, frozen: int, rows: list[Row], pad_id: int, bytes_a_token: int, config: Config
) -> None:
    ends = np.cumsum([len(row["input_ids"]) for row in rows])
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(ends[-1]) * bytes_a_token)  # a full disk is an error, not a SIGBUS
        for indices in batches_by_tokens(rows, config.training.eval_batch_tokens):
            states = _states(base, frozen, [rows[index] for index in indices], pad_id)
            for index, state in zip(indices, states, strict=True):
                length = len(rows[index]["input_ids"])
                file.seek((int(ends[index]) - length) * bytes_a_token)
                file.write(state[:length].contiguous().view(torch.uint8).numpy().tobytes())
        file.flush()
        os.fsync(file.fileno())


def _states(base: Any, frozen: int, rows: list[Row], pad_id: int) -> torch.Tensor:
    batch = {name: value.to(base.device) for name, value in collate(rows, pad_id).items()}
    training = base.training
    base.eval()
    try:
        with torch.inference_mode():
            return activations(base, frozen, batch).cpu()
    finally:
        base.train(training)


def _dtype(base: Any, frozen: int, splits: dict[str, list[Row]], pad_id: int) -> torch.dtype:
    return _states(base, frozen, splits["train"][:1], pad_id).dtype


def _key(config: Config, base: nn.Module, frozen: int, fingerprint: str) -> str:
    """Return a hash of all that decides the activations: the frozen weights themselves among it."""
    model = config.model
    digest = hashlib.sha256(json.dumps([fingerprint, frozen, model.bidirectional, torch.__version__]).encode())
    digest.update(json.dumps([model.quantization, model.attention, str(next(base.parameters()).device)]).encode())
    stack = layer_stack(base)[1]
    for module in (base.get_input_embeddings(), *stack[:frozen]):  # type: ignore[operator]
        for name, parameter in module.named_parameters():
            digest.update(f"{name} {parameter.dtype} {float(parameter.double().sum())!r}".encode())
    return digest.hexdigest()[:32]
