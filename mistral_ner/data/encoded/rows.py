"""The encoded rows of a split as NumPy views into the Arrow file: a row costs microseconds and no copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray

Row = dict[str, Any]

_COLUMNS = ("input_ids", "labels", "first_subwords")


class Rows(Sequence[Row]):
    """The rows of a split: ``input_ids``, ``labels`` and ``first_subwords``, each a read-only int32 array.

    Attributes:
        lengths: subwords of each row, shape (rows,).
    """

    def __init__(self, split: datasets.Dataset) -> None:
        columns = {name: split.data.column(name) for name in _COLUMNS}
        self._flat = {name: _join([chunk.flatten() for chunk in column.chunks]) for name, column in columns.items()}
        counts = {name: _join([chunk.value_lengths() for chunk in column.chunks]) for name, column in columns.items()}
        # plain lists: indexing a NumPy array with one number costs ten times as much
        self._ends = {name: [0, *np.cumsum(count, dtype=np.int64).tolist()] for name, count in counts.items()}
        self.lengths: NDArray[np.int64] = counts["input_ids"].astype(np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {name: flat[self._ends[name][index] : self._ends[name][index + 1]] for name, flat in self._flat.items()}

    def word_labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the label ids of all words, shape (words,), and the words of each row, shape (rows,)."""
        words = np.diff(self._ends["first_subwords"])
        starts = np.repeat(self._ends["labels"][:-1], words).astype(np.int64)
        return self._flat["labels"][self._flat["first_subwords"] + starts].astype(np.int64), words


def _join(chunks: list[Any]) -> NDArray[np.int32]:
    if len(chunks) == 1:  # as cache.py writes it: this is a view
        view: NDArray[np.int32] = chunks[0].to_numpy()
        return view
    return np.concatenate([np.empty(0, dtype=np.int32), *(chunk.to_numpy() for chunk in chunks)], dtype=np.int32)
