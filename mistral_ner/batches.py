"""Rows to batches: of like length, so that little is padded, in an order that follows from seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from mistral_ner.data.rows import Row

_BATCHES_A_POOL = 8  # sorted by length together; more of them would pad less, but 50 cost F1 (bench/LOG.md)


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad rows on the right to the longest; labels are -100 where ignored.

    Returns:
        ``attention_mask`` and ``labels``, (rows, longest) int64, and either ``input_ids`` of the same kind or, where
        the rows hold activations (``hidden``), ``inputs_embeds``, (rows, longest, width).
    """
    longest = max(len(row["input_ids"]) for row in rows)
    shape = (len(rows), longest)
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


def pieces(batch: Mapping[str, torch.Tensor], size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the rows of a collated batch, ``size`` at a time, each piece as wide as its own longest row."""
    for start in range(0, len(batch["attention_mask"]), size):
        longest = int(batch["attention_mask"][start : start + size].sum(1).max())
        yield {name: values[start : start + size, :longest] for name, values in batch.items()}


def batches_by_length(rows: Sequence[Row], size: int) -> Iterator[list[int]]:
    """Yield the indices of ``rows`` in batches of ``size``, longest rows first, so that little is padded."""
    order = _longest_first(rows)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def batches_by_tokens(rows: Sequence[Row], tokens: int) -> Iterator[list[int]]:
    """Yield the indices of ``rows``, longest first, in batches of at most ``tokens`` with their padding.

    A row that is longer than that alone is a batch of its own.
    """
    order = _longest_first(rows)
    while order:
        size = max(1, tokens // max(1, len(rows[order[0]]["input_ids"])))
        yield order[:size]
        order = order[size:]


def _longest_first(rows: Sequence[Row]) -> list[int]:
    lengths = [len(row["input_ids"]) for row in rows]
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


class ByLength(Sampler[int]):
    """Draws every row once an epoch, such that each ``batch_size`` in turn are of like length.

    Rows are shuffled, cut into pools of some batches, sorted inside each pool, and the batches shuffled. Transformers'
    own sampler of this kind draws from the global random state, so that a training that goes on after a crash would
    see another order; this one's follows from ``seed`` and the epoch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch, counted from 0, the next iteration is."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        size = self.batch_size
        # at least four pools: one pool of all, with blurred lengths, pads less but costs F1 (bench/LOG.md)
        pool = size * max(1, min(_BATCHES_A_POOL, len(self) // (4 * size)))
        shuffled = rng.permutation(len(self))
        ordered = np.concatenate([self._sorted(shuffled[at : at + pool]) for at in range(0, len(self), pool)])
        whole = len(self) // size
        # the batch that is not whole stays last, or all after it would be cut at other places
        yield from ordered[: whole * size].reshape(whole, size)[rng.permutation(whole)].ravel().tolist()
        yield from ordered[whole * size :].tolist()

    def _sorted(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(-self.lengths[rows], kind="stable")]
