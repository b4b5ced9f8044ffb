"""The embedded data set: the same bits everywhere, and nothing of dev or test in train."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.read import load_splits
from mistral_ner.data.sample.generate import SIZES, sample_splits
from mistral_ner.data.sample.names import NAMES
from mistral_ner.data.sample.text import FILLERS, PATTERNS, SLOT_TYPES
from mistral_ner.data.schemes import spans

# a change of it makes earlier scores on the sample incomparable: say so in the changelog
SHA256 = "5b183c96fcac805638e955231567ce403d56f7d893d6e65609eb699fad1b927e"

_PRINT = """
import hashlib, json
from mistral_ner.data.sample.generate import sample_splits
content = {name: [[s.tokens, s.tags] for s in sentences] for name, sentences in sample_splits().items()}
print(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())
"""


def entities(split: str) -> set[str]:
    return {
        " ".join(sentence.tokens[start:end]).casefold()
        for sentence in sample_splits()[split]
        for start, end, _ in spans(sentence.tags)
    }


def digest() -> str:
    content = {name: [[s.tokens, s.tags] for s in sentences] for name, sentences in sample_splits().items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def test_sizes_types_and_tags() -> None:
    splits = load_splits(DataConfig())
    assert {name: len(getattr(splits, name)) for name in SIZES} == {"train": 400, "dev": 150, "test": 150}
    assert splits.types == ["LOC", "MISC", "ORG", "PER"]
    for sentence in itertools.chain(splits.train, splits.dev, splits.test):
        assert len(sentence.tokens) == len(sentence.tags) > 0
        assert all(token and not token.isspace() for token in sentence.tokens)
        rebuilt = ["O"] * len(sentence.tags)
        for start, end, kind in spans(sentence.tags):
            rebuilt[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
        assert rebuilt == sentence.tags


def test_content_is_fixed() -> None:
    assert digest() == SHA256


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_content_is_fixed_in_another_process(hash_seed: str) -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", _PRINT],
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == SHA256


@pytest.mark.parametrize(("one", "other"), [("train", "dev"), ("train", "test"), ("dev", "test")])
def test_splits_share_neither_entities_nor_patterns_nor_sentences(one: str, other: str) -> None:
    assert not entities(one) & entities(other)
    assert not set(PATTERNS[one]) & set(PATTERNS[other])
    texts = [{" ".join(s.tokens).casefold() for s in sample_splits()[name]} for name in (one, other)]
    assert not texts[0] & texts[1]


def test_there_are_enough_patterns_and_all_are_well_formed() -> None:
    every = [pattern for patterns in PATTERNS.values() for pattern in patterns]
    assert len(every) == len(set(every)) >= 80
    slots = {word[1:-1] for pattern in every for word in pattern.split() if word.startswith("{")}
    assert slots == set(SLOT_TYPES) | set(FILLERS)


@pytest.mark.parametrize("split", SIZES)
def test_some_names_are_of_two_types_and_noise_is_there(split: str) -> None:
    sentences = sample_splits()[split]
    kinds: dict[str, set[str]] = {}
    for sentence in sentences:
        for start, end, kind in spans(sentence.tags):
            kinds.setdefault(" ".join(sentence.tokens[start:end]).casefold(), set()).add(kind)
    assert sum(len(found) > 1 for found in kinds.values()) >= 5
    assert set(NAMES[split].ambiguous) & {" ".join(s.tokens[a:b]) for s in sentences for a, b, _ in spans(s.tags)}
    texts = [" ".join(sentence.tokens) for sentence in sentences]
    assert sum(text.islower() for text in texts) >= 10
    assert sum(text.isupper() for text in texts) >= 3
    assert sum(text[-1] not in ".?!" for text in texts) >= 10
    assert any("#" in text for text in texts)
    assert sum(set(sentence.tags) == {"O"} for sentence in sentences) >= 10
