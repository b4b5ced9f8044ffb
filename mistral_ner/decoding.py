"""From a model's logits to tags: the most likely sequence among those that IOB2 allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mistral_ner.metrics import IntArray

FloatArray = npt.NDArray[np.float32]


def decode(logits: FloatArray, lengths: npt.ArrayLike, labels: Sequence[str]) -> IntArray:
    """Return the tags of words: of each sentence the sequence with the greatest sum of logits in which IOB2 holds.

    In IOB2 an ``I-`` tag continues a ``B-`` or ``I-`` of its own type. The tags of each word by itself need not hold
    to that, and what breaks it counts as no entity. The model's chance of a sequence is the product of its words'
    chances, so this is Viterbi's algorithm with steps that are either allowed or not (Viterbi 1967, IEEE Transactions
    on Information Theory 13).

    Args:
        logits: of all words, sentence by sentence, shape (words, labels).
        lengths: words of each sentence.
        labels: ``["O", "B-LOC", "I-LOC", …]``.
    """
    tags: IntArray = logits.argmax(-1).astype(np.int64)
    allowed, begins = _steps(labels)
    words = np.asarray(lengths, dtype=np.int64)
    ends = np.cumsum(words)
    starts = ends - words
    broken = np.zeros(len(tags), dtype=bool)
    broken[1:] = ~allowed[tags[:-1], tags[1:]]
    first = starts[ends > starts]
    broken[first] = ~begins[tags[first]]
    sums = np.concatenate([[0], np.cumsum(broken)])
    for place in np.flatnonzero(sums[ends] > sums[starts]):  # the others are the best sequences already
        start, end = starts[place], ends[place]
        tags[start:end] = _best_path(logits[start:end], allowed, begins)
    return tags


def _steps(labels: Sequence[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return whether one label may follow another, shape (labels, labels), and whether it may begin a sentence."""
    inside = np.array([label[:2] == "I-" for label in labels])
    same = np.array([[one[2:] == other[2:] and one != "O" for other in labels] for one in labels])
    return ~inside[None, :] | same, ~inside


def _best_path(
    logits: FloatArray, allowed: npt.NDArray[np.bool_], begins: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Return the allowed sequence with the greatest sum of logits, shape (words,)."""
    penalty = np.where(allowed, 0.0, -np.inf)
    best = np.where(begins, logits[0], -np.inf)
    came_from = np.zeros(logits.shape, dtype=np.int64)
    for place in range(1, len(logits)):
        sums = best[:, None] + penalty
        came_from[place] = sums.argmax(0)
        best = sums.max(0) + logits[place]
    path = np.empty(len(logits), dtype=np.int64)
    path[-1] = best.argmax()
    for place in range(len(logits) - 1, 0, -1):
        path[place - 1] = came_from[place, path[place]]
    return path
