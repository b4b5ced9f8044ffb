"""Decoding by IOB2's rules: what is allowed stays, and what is not becomes the best sequence that is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mistral_ner.decoding import decode

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def allowed(path: tuple[int, ...]) -> bool:
    texts = [LABELS[tag] for tag in path]
    pairs = zip(["O", *texts], texts, strict=False)
    return all(not one.startswith("I-") or (before != "O" and before[2:] == one[2:]) for before, one in pairs)


def test_it_is_the_best_of_all_allowed_sequences() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        lengths = rng.integers(0, 5, 3)
        logits = rng.normal(size=(lengths.sum(), len(LABELS))).astype(np.float32)
        tags, start = decode(logits, lengths, LABELS), 0
        for length in lengths.tolist():
            paths = [one for one in itertools.product(range(len(LABELS)), repeat=length) if allowed(one)]
            sums = [sum(logits[start + place, tag] for place, tag in enumerate(path)) for path in paths]
            found = tuple(tags[start : start + length].tolist())
            assert allowed(found)
            assert sum(logits[start + place, tag] for place, tag in enumerate(found)) == pytest.approx(max(sums))
            start += length


def test_what_is_allowed_stays_as_it_is_and_sentences_do_not_touch() -> None:
    one_hot = np.eye(len(LABELS), dtype=np.float32)
    tags = [1, 2, 2, 0, 3, 4]
    assert decode(one_hot[tags], [4, 2], LABELS).tolist() == tags
    broken = decode(one_hot[[1, 2, 4, 4]], [1, 3], LABELS).tolist()
    assert broken[0] == 1
    assert allowed(tuple(broken[1:])), "an I- cannot begin the second sentence"
    assert decode(np.empty((0, 5), dtype=np.float32), [0, 0], LABELS).tolist() == []
