"""Tags from scores: by word, or the best sequence that keeps to IOB2."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from mistral_ner.decoding import decode
from mistral_ner.metrics import entity_spans
from mistral_ner.training.evaluate import _in_sentences

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def keeps_to_iob2(tags: Sequence[int], labels: Sequence[str]) -> bool:
    names = ["O", *(labels[tag] for tag in tags)]
    return all(
        one in (f"B-{other[2:]}", f"I-{other[2:]}")
        for one, other in itertools.pairwise(names)
        if other.startswith("I-")
    )


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        ["O", "B-X", "I-X"],
        ["I-PER", "B-PER", "O", "B-LOC"],
        ["O", "B-a", "I-a", "I-b"],
        ["O", "B-a-b", "I-a-b"],
    ],
    ids=["two types", "one", "in another order", "an I- without a B-", "a hyphen"],
)
def test_it_is_the_best_of_all_sequences_that_keep_to_iob2(labels: list[str]) -> None:
    rng, valid = np.random.default_rng(0), {}
    for words in range(1, 6):
        every = np.array(list(itertools.product(range(len(labels)), repeat=words)))
        valid[words] = every[[keeps_to_iob2(tags, labels) for tags in every]]
    changed = 0
    for _ in range(150):
        words = int(rng.integers(1, 6))
        scores = rng.normal(size=(words, len(labels))).astype(np.float32)
        sums = scores.astype(np.float64)[np.arange(words), valid[words]].sum(1)
        found = decode(scores, [words], labels, "iob2")
        assert found.tolist() == valid[words][sums.argmax()].tolist()
        changed += not np.array_equal(found, scores.argmax(-1))
    assert changed > 30, "what need not be repaired shows nothing"


def random_sentences(rng: np.random.Generator, labels: int) -> tuple[np.ndarray, np.ndarray]:
    lengths = rng.integers(0, 30, size=60)
    return rng.normal(scale=2, size=(lengths.sum(), labels)).astype(np.float32), lengths


def test_no_inside_tag_lacks_its_beginning_in_any_sentence() -> None:
    for seed in range(20):
        scores, lengths = random_sentences(np.random.default_rng(seed), len(LABELS))
        tags = decode(scores, lengths, LABELS, "iob2")
        assert tags.dtype == np.int64
        assert all(keeps_to_iob2(part, LABELS) for part in np.split(tags, np.cumsum(lengths)[:-1]))
        spans = entity_spans(tags, lengths, LABELS)
        assert (tags > 0).sum() == (spans[:, 1] - spans[:, 0]).sum(), "every tag belongs to an entity"


def test_a_sentence_gets_the_same_tags_alone_and_among_others() -> None:
    """So that predict, sentence by sentence, tags what an evaluation of a whole split has scored."""
    scores, lengths = random_sentences(np.random.default_rng(1), len(LABELS))
    together = np.split(decode(scores, lengths, LABELS, "iob2"), np.cumsum(lengths)[:-1])
    alone = [decode(part, [len(part)], LABELS, "iob2") for part in np.split(scores, np.cumsum(lengths)[:-1])]
    assert [one.tolist() for one in together] == [one.tolist() for one in alone]


def test_logits_and_log_probabilities_give_the_same_tags() -> None:
    scores, lengths = random_sentences(np.random.default_rng(2), len(LABELS))
    chances = scores - np.log(np.exp(scores.astype(np.float64)).sum(-1, keepdims=True))
    assert np.array_equal(decode(scores, lengths, LABELS, "iob2"), decode(chances, lengths, LABELS, "iob2"))


def test_tags_that_keep_to_iob2_stay_as_they_are() -> None:
    scores, lengths = random_sentences(np.random.default_rng(3), len(LABELS))
    by_word = decode(scores, lengths, LABELS, "argmax")
    assert np.array_equal(by_word, scores.argmax(-1))
    repaired = decode(scores, lengths, LABELS, "iob2")
    ends = np.cumsum(lengths)[:-1]
    for before, after in zip(np.split(by_word, ends), np.split(repaired, ends), strict=True):
        assert np.array_equal(before, after) == keeps_to_iob2(before, LABELS)


def test_an_entity_whose_beginning_looks_like_the_inside_is_found() -> None:
    scores = np.array([[2, 0, 0, 0, 0], [0, 0, 0, 1, 1.1], [0, 0, 0, 0, 3], [2, 0, 0, 0, 0]], dtype=np.float32)
    assert decode(scores, [4], LABELS, "argmax").tolist() == [0, 4, 4, 0]
    assert decode(scores, [4], LABELS, "iob2").tolist() == [0, 3, 4, 0]


@pytest.mark.parametrize("decoding", ["argmax", "iob2"])
def test_nothing_to_decode(decoding: str) -> None:
    nothing = np.empty((0, 0), dtype=np.float32)
    assert decode(nothing, [], LABELS, decoding).tolist() == []
    assert decode(nothing, [0, 0], LABELS, decoding).tolist() == []


def test_windows_are_decoded_in_whole_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistral_ner.training.evaluate._DECODED", 5)
    windows = [np.full((words, 1), number, dtype=np.float32) for number, words in enumerate([3, 2, 2, 4, 1, 1])]
    found = list(_in_sentences(windows, np.array([3, 4, 0, 5, 1])))
    assert [lengths.tolist() for _, lengths in found] == [[3, 4, 0], [5], [1]]
    assert [len(logits) for logits, _ in found] == [7, 5, 1]
    assert np.array_equal(np.concatenate([logits for logits, _ in found]), np.concatenate(windows))
    assert list(_in_sentences([], np.array([], dtype=np.int64))) == []
