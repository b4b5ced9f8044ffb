"""Entity-level precision, recall and F1: exact spans of the exact type, as in CoNLL.

An entity counts as found only if its first word, its last word and its type are all right (Tjong Kim Sang and
Buchholz 2000, https://aclanthology.org/W00-0726; Tjong Kim Sang and De Meulder 2003,
https://aclanthology.org/W03-0419). Tags are IOB2, read strictly: an entity begins with its B- tag, and an I- tag
that does not continue an entity of its own type begins nothing. The numbers are those of
``seqeval.metrics.classification_report(mode="strict", scheme=IOB2)``, without a Python loop over the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

_OUTSIDE, _BEGIN, _INSIDE = 0, 1, 2


@dataclass(frozen=True)
class Score:
    """A split's metrics from :func:`entity_scores`, and its :func:`sentence_counts`, shape (sentences, 3)."""

    metrics: dict[str, float]
    counts: IntArray
    tags: IntArray  # predicted, (words,)


def entity_types(labels: Sequence[str]) -> list[str]:
    """Return the entity types of ``labels`` (``["O", "B-LOC", "I-LOC"]`` has ``["LOC"]``), sorted.

    Raises:
        ValueError: a label is neither O nor B-TYPE nor I-TYPE.
    """
    for label in labels:
        if label != "O" and (label[:2] not in ("B-", "I-") or len(label) < 3):
            raise ValueError(f"a label must be O, B-TYPE or I-TYPE, found {label!r}")
    return sorted({label[2:] for label in labels if label != "O"})


def entity_spans(tags: npt.ArrayLike, lengths: npt.ArrayLike, labels: Sequence[str]) -> IntArray:
    """Find the entities in the tags of some sentences.

    Args:
        tags: ids into ``labels``, shape (words,): the words of all sentences, one sentence after the other.
        lengths: words in each sentence, shape (sentences,).
        labels: ``["O", "B-LOC", "I-LOC", …]``.

    Returns:
        Shape (entities, 3): first word, last word + 1 (both counted over all sentences), and index into
        :func:`entity_types`; in the order of the words.

    Raises:
        ValueError: the lengths do not add up to the number of tags, or a tag is not an id of ``labels``.
    """
    tags, lengths = _check_tags(tags, lengths, len(labels))
    types = entity_types(labels)
    prefix_of = np.array([_prefix(label) for label in labels], dtype=np.int64)
    type_of = np.array([types.index(label[2:]) if label != "O" else -1 for label in labels], dtype=np.int64)
    prefix, kind = prefix_of[tags], type_of[tags]

    # a word is linked to the one before it if it goes on with the same type in the same sentence; a run of
    # links is an entity if its first word is a B-
    linked = np.zeros(len(tags), dtype=bool)
    linked[1:] = (prefix[1:] == _INSIDE) & (prefix[:-1] != _OUTSIDE) & (kind[1:] == kind[:-1])
    linked[_sentence_starts(lengths)] = False
    starts = np.flatnonzero(~linked)
    ends = np.append(starts[1:], len(tags))
    is_entity = prefix[starts] == _BEGIN
    starts, ends = starts[is_entity], ends[is_entity]
    return np.stack([starts, ends, kind[starts]], axis=1)


def entity_scores(
    gold: npt.ArrayLike, predicted: npt.ArrayLike, lengths: npt.ArrayLike, labels: Sequence[str]
) -> dict[str, float]:
    """Score predicted tags against gold ones.

    Args:
        gold: ids into ``labels``, shape (words,): the words of all sentences, one sentence after the other.
        predicted: the same for the prediction.
        lengths: words in each sentence, shape (sentences,).
        labels: ``["O", "B-LOC", "I-LOC", …]``.

    Returns:
        ``precision``, ``recall``, ``f1`` over all entities (micro), ``macro_f1`` (the mean over the types that
        occur in gold or prediction), ``accuracy`` over words, and for each type of ``labels``
        ``precision_LOC``, ``recall_LOC``, ``f1_LOC`` (all 0 to 1; 0 if there is nothing to divide by) and
        ``support_LOC`` (gold entities).

    Raises:
        ValueError: gold, prediction and lengths do not fit together, or hold ids that are not in ``labels``.
    """
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    if gold.shape != predicted.shape:
        raise ValueError(f"gold and predicted must have one tag a word each, found {gold.shape} and {predicted.shape}")
    types = entity_types(labels)
    wanted = entity_spans(gold, lengths, labels)
    found = entity_spans(predicted, lengths, labels)
    right = _common_spans(wanted, found, words=len(gold))

    support, proposed, correct = (
        np.bincount(spans[:, 2], minlength=len(types)).astype(float) for spans in (wanted, found, right)
    )
    precision, recall, f1 = scores_of_counts(correct, proposed, support)
    occurs = (support + proposed) > 0

    overall = scores_of_counts(correct.sum(), proposed.sum(), support.sum())
    scores = {
        "precision": float(overall[0]),
        "recall": float(overall[1]),
        "f1": float(overall[2]),
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
        "accuracy": float((gold == predicted).mean()) if len(gold) else 0.0,
    }
    for index, name in enumerate(types):
        scores[f"precision_{name}"] = float(precision[index])
        scores[f"recall_{name}"] = float(recall[index])
        scores[f"f1_{name}"] = float(f1[index])
        scores[f"support_{name}"] = float(support[index])
    return scores


def sentence_counts(
    gold: npt.ArrayLike, predicted: npt.ArrayLike, lengths: npt.ArrayLike, labels: Sequence[str]
) -> IntArray:
    """Count the entities of each sentence; the sums over sentences give precision, recall and F1.

    Arguments and errors are those of :func:`entity_scores`.

    Returns:
        Shape (sentences, 3): gold entities, proposed entities, and entities that are in both.
    """
    wanted = entity_spans(gold, lengths, labels)
    found = entity_spans(predicted, lengths, labels)
    lengths = np.asarray(lengths, dtype=np.int64)
    sentence_of = np.repeat(np.arange(len(lengths)), lengths)
    right = _common_spans(wanted, found, words=len(sentence_of))
    columns = [np.bincount(sentence_of[spans[:, 0]], minlength=len(lengths)) for spans in (wanted, found, right)]
    return np.stack(columns, axis=1).astype(np.int64)


def _prefix(label: str) -> int:
    return {"O": _OUTSIDE, "B": _BEGIN, "I": _INSIDE}[label[0]]


def _check_tags(tags: npt.ArrayLike, lengths: npt.ArrayLike, number_of_labels: int) -> tuple[IntArray, IntArray]:
    tags, lengths = np.asarray(tags, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    if tags.ndim != 1 or lengths.ndim != 1:
        raise ValueError(f"tags and lengths must be flat, found shapes {tags.shape} and {lengths.shape}")
    if lengths.sum() != len(tags) or (lengths < 0).any():
        raise ValueError(f"the sentence lengths must add up to the {len(tags)} tags, found {lengths.sum()}")
    # a negative id would silently index from the end of the labels
    if len(tags) and not (tags.min() >= 0 and tags.max() < number_of_labels):
        raise ValueError(f"tags must be 0 to {number_of_labels - 1}, found {tags.min()} to {tags.max()}")
    return tags, lengths


def _sentence_starts(lengths: IntArray) -> IntArray:
    """Return the first word of each sentence that has words."""
    lengths = lengths[lengths > 0]
    ends: IntArray = np.cumsum(lengths)
    return ends - lengths


def _common_spans(wanted: IntArray, found: IntArray, words: int) -> IntArray:
    """Return the spans that are in both, with the same start, end and type."""
    # a word starts at most one entity in each, so the start alone says which two spans to compare
    at_start = np.full(words, -1, dtype=np.int64)
    at_start[wanted[:, 0]] = np.arange(len(wanted))
    partner = at_start[found[:, 0]]
    paired = partner >= 0
    candidates = found[paired]
    common: IntArray = candidates[(wanted[partner[paired]] == candidates).all(axis=1)]
    return common


def scores_of_counts(
    correct: npt.ArrayLike, proposed: npt.ArrayLike, support: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return precision, recall and F1 of counts of entities, as seqeval computes them, so that all digits agree."""
    precision, recall = _ratio(correct, proposed), _ratio(correct, support)
    return precision, recall, _ratio(2 * precision * recall, precision + recall)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return ``part / whole``, and 0 where ``whole`` is 0."""
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    ratio: npt.NDArray[np.float64] = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return ratio
