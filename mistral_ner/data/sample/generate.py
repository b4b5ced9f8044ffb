"""The embedded data set ``sample``: 700 generated sentences with PER, ORG, LOC and MISC, the same on every machine.

It is meant for first runs and comparisons of settings, not for a useful tagger. Sentence patterns and names of dev and
test do not occur in train, many names can be of several types, and some sentences have the noise of casual text. A
score well above chance therefore needs what a base model knows of English.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

from mistral_ner.data.sample.names import NAMES, Names
from mistral_ner.data.sample.text import FILLERS, PATTERNS, SLOT_TYPES
from mistral_ner.data.schemes import Sentence

SIZES = {"train": 400, "dev": 150, "test": 150}
_SEED = 20261107
_HASHTAGS = ("#news", "#Throwback", "#monday", "#fail", "#nofilter", "#Live")
_OPENERS = ("RT @user :", "> ", "Breaking :", "UPDATE -", "lol", "...")

T = TypeVar("T")


@lru_cache(maxsize=1)
def sample_splits() -> dict[str, list[Sentence]]:
    """Return the ``train``, ``dev`` and ``test`` sentences; treat them as read-only: a process generates them once."""
    return {split: _Generator(split).sentences(size) for split, size in SIZES.items()}


class _Generator:
    """Generates the sentences of one split.

    It draws from ``Random.random()`` only, the one method that is promised to give the same sequence in every version
    of Python.
    """

    def __init__(self, split: str) -> None:
        self._random = random.Random(_SEED + sorted(SIZES).index(split))
        self._names: Names = NAMES[split]
        self._patterns = PATTERNS[split]

    def sentences(self, count: int) -> list[Sentence]:
        """Return ``count`` different sentences, every pattern used about equally often."""
        found: dict[tuple[str, ...], Sentence] = {}
        while len(found) < count:
            for pattern in self._shuffle(self._patterns):
                sentence = self._noise(self._fill(pattern))
                found.setdefault(tuple(sentence.tokens), sentence)
        return list(found.values())[:count]

    def _fill(self, pattern: str) -> Sentence:
        tokens: list[str] = []
        tags: list[str] = []
        used: set[str] = set()
        for word in pattern.split():
            slot = word.strip("{}") if word.startswith("{") else ""
            if slot in SLOT_TYPES:
                words = self._entity(slot, used).split()
                kind = SLOT_TYPES[slot]
                tags += [f"B-{kind}"] + [f"I-{kind}"] * (len(words) - 1)
            else:
                words = (self._pick(FILLERS[slot]) if slot else word).split()
                tags += ["O"] * len(words)
            tokens += words
        return Sentence(tokens, tags)

    def _entity(self, slot: str, used: set[str]) -> str:
        """Return a name for ``slot`` that is not in ``used``, and add it there."""
        while True:
            name = self._ambiguous(slot) or self._form(self._pick(self._names.forms[slot]))
            if name not in used:
                used.add(name)
                return name

    def _ambiguous(self, slot: str) -> str:
        """Return now and then an ambiguous name for ``slot``, more often if there are many, so that few repeat."""
        kind = "last" if slot == "per" else slot
        fitting = [name for name, slots in self._names.ambiguous.items() if kind in slots]
        return self._pick(fitting) if self._chance(0.03 * len(fitting)) else ""

    def _form(self, form: str) -> str:
        parts = {"<c>": self._names.coined, "<first>": self._names.first, "<last>": self._names.last}
        parts |= {"<city>": self._names.city, "<country>": self._names.country, "<nat>": self._names.nat}
        parts |= {"<theme>": self._names.theme, "<work>": self._names.work}
        return " ".join(self._pick(parts[word]) if word in parts else word for word in form.split())

    def _noise(self, sentence: Sentence) -> Sentence:
        """Return ``sentence`` with the noise of casual text: letter case, punctuation, hashtags."""
        pairs = list(zip(sentence.tokens, sentence.tags, strict=True))
        if pairs[-1][0] == "." and self._chance(0.15):
            pairs = pairs[:-1]
        elif self._chance(0.05):
            pairs.append((self._pick(("!", "...", "!!", "?!", ".")), "O"))
        if self._chance(0.06):
            pairs = self._quote(pairs)
        if self._chance(0.05):
            pairs = [("-" if token == "," else token, tag) for token, tag in pairs]
        if self._chance(0.06):
            pairs.append((self._pick(_HASHTAGS), "O"))
        if self._chance(0.06):
            pairs = [(word, "O") for word in self._pick(_OPENERS).split()] + pairs
        roll = self._random.random()
        change = str.lower if roll < 0.12 else str.upper if roll < 0.17 else str
        return Sentence([change(token) for token, _ in pairs], [tag for _, tag in pairs])

    def _quote(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Put a stray quote, or a pair of them, around some word that does not continue an entity."""
        starts = [place for place, (_, tag) in enumerate(pairs) if not tag.startswith("I-")]
        start = self._pick(starts)
        end = start + 1
        while end < len(pairs) and pairs[end][1].startswith("I-"):
            end += 1
        closing = [('"', "O")] if self._chance(0.7) else []
        return [*pairs[:start], ('"', "O"), *pairs[start:end], *closing, *pairs[end:]]

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self._random.random() * len(items))]

    def _shuffle(self, items: Sequence[T]) -> list[T]:
        rest = list(items)
        return [rest.pop(int(self._random.random() * len(rest))) for _ in items]
