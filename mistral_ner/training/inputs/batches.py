"""Rows to batches of similar length, so that little is padded, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from mistral_ner.data.encoded.rows import Row

_MULTIPLE = 8  # of the lengths of batches; the units of a GPU, too, work on eight numbers at once
_BATCHES_A_POOL = 8  # sorted by length together; more of them would pad less, but 50 cost F1 (bench/LOG.md)


def choose_width(longest: int, limit: int | None) -> int:
    """Return the tokens to pad a batch to: a multiple of eight, or ``limit``, the positions that the model has.

    Libraries compile a product for each shape. With a shape for every length a training step in bfloat16 on a CPU
    spent a third of its time on that.
    """
    rounded = -(-longest // _MULTIPLE) * _MULTIPLE
    return rounded if limit is None else max(longest, min(rounded, limit))


def collate(rows: Sequence[Row], pad_id: int, limit: int | None = 0) -> dict[str, torch.Tensor]:
    """Pad rows on the right to one width; padding has the label -100, which is ignored.

    Args:
        rows: windows.
        pad_id: the tokenizer's.
        limit: as for :func:`choose_width`; 0: as wide as the longest row.

    Returns:
        ``attention_mask`` and ``labels``, (rows, width) int64, and ``input_ids`` of the same kind; for rows with
        activations (``hidden``) ``inputs_embeds`` instead, (rows, width, hidden).
    """
    shape = (len(rows), choose_width(max(len(row["input_ids"]) for row in rows), limit))
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, -100, dtype=np.int64)
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[index, :length] = row["input_ids"]
        mask[index, :length] = 1
        labels[index, :length] = row["labels"]
    batch = {"attention_mask": torch.from_numpy(mask), "labels": torch.from_numpy(labels)}
    if "hidden" not in rows[0]:
        return {"input_ids": torch.from_numpy(ids), **batch}
    hidden = torch.zeros(*shape, rows[0]["hidden"].shape[-1], dtype=rows[0]["hidden"].dtype)
    for index, row in enumerate(rows):
        hidden[index, : len(row["hidden"])] = row["hidden"]
    return {"inputs_embeds": hidden, **batch}


def pieces(batch: Mapping[str, torch.Tensor], lengths: Sequence[int], size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the rows of a collated batch, ``size`` at a time, each piece as wide as its own longest row needs.

    Args:
        batch: from :func:`collate`, on any device.
        lengths: tokens of each row; to read them from a batch on a GPU would wait for all that it has to compute.
        size: rows.
    """
    if size >= len(lengths):
        yield dict(batch)
        return
    for start in range(0, len(lengths), size):
        width = choose_width(max(lengths[start : start + size]), batch["labels"].shape[1])
        yield {name: values[start : start + size, :width] for name, values in batch.items()}


def buffers(rows: Iterable[Row], tokens: int) -> Iterator[list[Row]]:
    """Yield consecutive rows, as many as reach ``tokens`` tokens together; the last ones may be fewer."""
    buffer: list[Row] = []
    filled = 0
    for row in rows:
        buffer.append(row)
        filled += len(row["input_ids"])
        if filled >= tokens:
            yield buffer
            buffer, filled = [], 0
    if buffer:
        yield buffer


def batches_by_tokens(rows: Sequence[Row], tokens: int, one_length: bool = False) -> Iterator[list[int]]:
    """Yield the indices of ``rows``, longest first, in batches of at most ``tokens`` tokens, padding included.

    A longer row is a batch of its own. With ``one_length`` all rows of a batch have the same length.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        size = max(1, tokens // choose_width(max(1, longest), 0 if one_length else None))
        if one_length:
            size = sum(lengths[index] == longest for index in order[start : start + size])
        yield order[start : start + size]
        start += size


class ByLength(Sampler[int]):
    """Draws every row once an epoch, so that each run of ``batch_size`` rows is of similar length.

    Rows are shuffled, cut into pools of some batches and sorted inside each pool; then the batches are shuffled. The
    order follows from ``seed`` and the epoch, so a training that continues after a crash sees the same one. (The
    sampler of transformers draws from the global random state.)
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        size = self.batch_size
        # at least four pools: a single one, with blurred lengths, pads less but costs F1 (bench/LOG.md)
        pool = size * max(1, min(_BATCHES_A_POOL, len(self) // (4 * size)))
        shuffled = rng.permutation(len(self))
        ordered = np.concatenate([self._sorted(shuffled[at : at + pool]) for at in range(0, len(self), pool)])
        whole = len(self) // size
        # the incomplete batch stays last, or the batches after it would be cut at other places
        yield from ordered[: whole * size].reshape(whole, size)[rng.permutation(whole)].ravel().tolist()
        yield from ordered[whole * size :].tolist()

    def _sorted(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(-self.lengths[rows], kind="stable")]
