"""Tags from a model's scores: the best tag of each word by itself, or the best sequence that keeps to IOB2.

In IOB2 an ``I-`` tag continues a ``B-`` or ``I-`` of its own type. Tags that are chosen word by word need not keep to
that, and the metrics take an ``I-`` that continues nothing for no entity (metrics.py).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mistral_ner.metrics import IntArray

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Grammar:
    """Which label may follow which; the row after the last label stands for the beginning of a sentence."""

    allowed: BoolArray  # (labels + 1, labels)
    inside: IntArray  # the I- labels
    begin: IntArray  # the B- label of each; the I- label itself where there is none


def decode(scores: FloatArray, lengths: npt.ArrayLike, labels: Sequence[str], decoding: str) -> IntArray:
    """Return the tag of every word.

    ``argmax`` takes the label with the highest score of each word. ``iob2`` takes, of the sequences y of a sentence in
    which IOB2 holds, the one with the greatest sum of s_t(y_t) over its words t: Viterbi's algorithm with steps that
    are free or forbidden (Viterbi 1967, IEEE Transactions on Information Theory 13, 260-269; for tags of spans He et
    al. 2017, https://aclanthology.org/P17-1044). It keeps for each word and label the best sum that ends there::

        b_t(j) = s_t(j) + max over i that j may follow of b_{t-1}(i)

    If the scores are log-probabilities, this is the most probable sequence. Logits give the same one: they differ from
    log-probabilities by a number for each word, whatever its tag. A sentence's tags depend on its own scores alone.

    Args:
        scores: of all words, sentence by sentence, shape (words, labels); logits or log-probabilities.
        lengths: words of each sentence, shape (sentences,).
        labels: ``["O", "B-LOC", "I-LOC", …]``.
        decoding: ``argmax`` or ``iob2``.

    Returns:
        Ids into ``labels``, shape (words,).
    """
    if not len(scores):
        return np.empty(0, dtype=np.int64)
    tags: IntArray = scores.argmax(-1).astype(np.int64)
    if decoding == "argmax":
        return tags
    grammar, lengths = _grammar(tuple(labels)), np.asarray(lengths, dtype=np.int64)
    ends: IntArray = np.cumsum(lengths)
    starts = ends - lengths
    before = np.empty_like(tags)
    before[1:] = tags[:-1]
    before[starts[lengths > 0]] = len(labels)
    broken = np.flatnonzero(~grammar.allowed[before, tags])
    if len(broken):  # the tags of the other sentences are the best that there are
        found = np.unique(np.searchsorted(ends, broken, side="right"))
        longest_first = found[np.argsort(-lengths[found], kind="stable")]
        _repair(tags, scores, starts[longest_first], lengths[longest_first], grammar)
    return tags


@functools.cache
def _grammar(labels: tuple[str, ...]) -> _Grammar:
    inside = [place for place, label in enumerate(labels) if label.startswith("I-")]
    begins = {label[2:]: place for place, label in enumerate(labels) if label.startswith("B-")}
    begin = [begins.get(labels[place][2:], place) for place in inside]
    allowed = np.ones((len(labels) + 1, len(labels)), dtype=bool)
    allowed[:, inside] = False
    allowed[inside, inside] = allowed[begin, inside] = True
    return _Grammar(allowed, np.array(inside, dtype=np.int64), np.array(begin, dtype=np.int64))


def _repair(tags: IntArray, scores: FloatArray, starts: IntArray, lengths: IntArray, grammar: _Grammar) -> None:
    """Put the best sequences in the place of the tags of some sentences, the longest first; all step side by side."""
    counts = [int((lengths > place).sum()) for place in range(int(lengths[0]))]  # sentences that have this word
    best = np.where(grammar.allowed[-1], scores[starts], -np.inf).astype(np.float64)
    came_from = []
    for place, count in enumerate(counts[1:], 1):
        sums, source = _step(best[:count], grammar)
        best[:count] = sums + scores[starts[:count] + place]
        came_from.append(source)
    tag = best.argmax(1)
    for place in range(len(counts) - 1, -1, -1):
        here = tag[: counts[place]]
        tags[starts[: len(here)] + place] = here
        if place:
            tag[: len(here)] = came_from[place - 1][np.arange(len(here)), here]


def _step(best: npt.NDArray[np.float64], grammar: _Grammar) -> tuple[npt.NDArray[np.float64], IntArray]:
    """Return for each sentence and next label the best sum before it, and the label where that sum ends.

    An ``I-`` may follow two labels, any other may follow all: so no step looks at pairs of labels.
    """
    any_label = best.argmax(1)
    source: IntArray = np.repeat(any_label[:, None], best.shape[1], axis=1)
    source[:, grammar.inside] = np.where(
        best[:, grammar.inside] > best[:, grammar.begin], grammar.inside, grammar.begin
    )
    return np.take_along_axis(best, source, axis=1), source
