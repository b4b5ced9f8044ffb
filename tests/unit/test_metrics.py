import warnings

import numpy as np
import pytest
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from mistral_ner.metrics import entity_scores, entity_spans, entity_types

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-ORG", "I-ORG"]


def seqeval_scores(gold, predicted, lengths, labels):
    cuts = np.cumsum(lengths)[:-1]
    gold, predicted = (
        [[labels[tag] for tag in part] for part in np.split(np.asarray(tags), cuts)] for tags in (gold, predicted)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)


def random_case(rng, labels=LABELS):
    """Sentences of one word and more; tags that are mostly O, or wild (stray I-, adjacent entities), or all O."""
    lengths = rng.integers(1, 12, size=rng.integers(1, 6))
    words = lengths.sum()
    outside = rng.choice([0.0, 0.3, 0.9])
    weights = np.append(outside, np.full(len(labels) - 1, (1 - outside) / (len(labels) - 1)))
    gold = rng.choice(len(labels), size=words, p=weights)
    style = rng.integers(4)
    if style == 0:
        predicted = np.zeros(words, dtype=int)
    elif style == 1:
        predicted = rng.choice(len(labels), size=words, p=weights)
    else:  # mostly right
        predicted = np.where(rng.random(words) < 0.8, gold, rng.choice(len(labels), size=words))
    return gold, predicted, lengths


def assert_like_seqeval(gold, predicted, lengths, labels):
    scores = entity_scores(gold, predicted, lengths, labels)
    expected = seqeval_scores(gold, predicted, lengths, labels)
    micro = expected["micro avg"]
    assert scores["precision"] == micro["precision"]
    assert scores["recall"] == micro["recall"]
    assert scores["f1"] == micro["f1-score"]
    assert scores["macro_f1"] == pytest.approx(expected["macro avg"]["f1-score"], abs=1e-12)
    for name in entity_types(labels):
        entry = expected.get(name, {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
        assert scores[f"precision_{name}"] == entry["precision"]
        assert scores[f"recall_{name}"] == entry["recall"]
        assert scores[f"f1_{name}"] == entry["f1-score"]
        assert scores[f"support_{name}"] == entry["support"]


def test_equals_seqeval_strict_on_thousands_of_random_sentences():
    rng = np.random.default_rng(7)
    sentences = 0
    while sentences < 4000:
        gold, predicted, lengths = random_case(rng)
        if not (len(entity_spans(gold, lengths, LABELS)) or len(entity_spans(predicted, lengths, LABELS))):
            continue  # seqeval cannot report on nothing
        assert_like_seqeval(gold, predicted, lengths, LABELS)
        sentences += len(lengths)


@pytest.mark.parametrize(
    ("tags", "lengths", "spans"),
    [
        ([1, 2, 2, 0, 3], [5], [[0, 3, 0], [4, 5, 2]]),
        ([2, 2, 0], [3], []),  # stray I-
        ([1, 1, 2], [3], [[0, 1, 0], [1, 3, 0]]),  # adjacent
        ([1, 4, 4], [3], [[0, 1, 0]]),  # an I- of another type ends it and begins nothing
        ([1, 2], [1, 1], [[0, 1, 0]]),  # a sentence ends it
        ([2, 1, 2], [1, 0, 2], [[1, 3, 0]]),  # an empty sentence between
        ([], [], []),
        ([0], [1], []),
    ],
)
def test_spans(tags, lengths, spans):
    found = entity_spans(tags, lengths, LABELS)
    assert found.shape == (len(spans), 3)
    assert found.tolist() == spans


def test_types_are_sorted_and_index_the_spans():
    assert entity_types(LABELS) == ["LOC", "ORG", "PER"]
    assert entity_types(["O"]) == []


def test_nothing_found_and_nothing_to_find_score_zero():
    scores = entity_scores([0, 0], [0, 0], [2], LABELS)
    assert scores["f1"] == scores["macro_f1"] == scores["precision"] == scores["recall_LOC"] == 0.0
    assert scores["accuracy"] == 1.0
    assert entity_scores([], [], [], LABELS)["accuracy"] == 0.0


def test_a_type_with_a_hyphen_and_labels_without_i():
    assert_like_seqeval([1, 2, 3, 0], [1, 2, 0, 3], [4], ["O", "B-work-of-art", "I-work-of-art", "B-PER"])


def test_values_are_plain_floats_and_keys_complete():
    scores = entity_scores([1, 0], [1, 0], [2], LABELS)
    assert {type(value) for value in scores.values()} == {float}
    assert set(scores) == {"precision", "recall", "f1", "macro_f1", "accuracy"} | {
        f"{score}_{name}" for score in ("precision", "recall", "f1", "support") for name in ("LOC", "ORG", "PER")
    }
    assert scores["f1"] == 1.0


def test_a_million_words():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, len(LABELS), 1_000_000)
    lengths = np.full(50_000, 20)
    assert entity_scores(gold, gold, lengths, LABELS)["f1"] == 1.0
    assert 0 < entity_scores(gold, rng.permutation(gold), lengths, LABELS)["f1"] < 1


@pytest.mark.parametrize(
    ("gold", "predicted", "lengths", "labels", "message"),
    [
        ([1, 0], [1], [2], LABELS, "one tag a word"),
        ([1, 0], [1, 0], [3], LABELS, "must add up to the 2 tags, found 3"),
        ([1, 0], [1, -100], [2], LABELS, "must be 0 to 6, found -100"),
        ([1, 9], [1, 0], [2], LABELS, "must be 0 to 6, found 0 to 9|found 1 to 9"),
        ([0], [0], [1], ["O", "LOC"], "must be O, B-TYPE or I-TYPE, found 'LOC'"),
    ],
)
def test_input_that_does_not_fit_is_refused(gold, predicted, lengths, labels, message):
    with pytest.raises(ValueError, match=message):
        entity_scores(gold, predicted, lengths, labels)
