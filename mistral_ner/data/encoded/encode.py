"""Sentences to model inputs: tokenised once, labels aligned to subwords, cached as Arrow, memory-mapped everywhere."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from mistral_ner import files
from mistral_ner.config.schema import DataConfig
from mistral_ner.data.columns.layout import Layout
from mistral_ner.data.encoded.cache import Columns, load_or_build
from mistral_ner.data.encoded.rows import Rows
from mistral_ner.data.encoded.windows import Window, WordTokenizer, cut
from mistral_ner.data.read import SPLITS, Sentence, Splits
from mistral_ner.data.schemes import spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["IGNORED", "Encoded", "Window", "WordTokenizer", "cut", "encode"]

log = logging.getLogger(__name__)

FORMAT = 3  # raise it whenever the same sentences would be encoded or written differently
IGNORED = -100  # the label of positions that are neither trained nor scored


@dataclass(frozen=True)
class Encoded:
    """The encoded splits. A row is a window of a sentence; the windows of a sentence follow each other in order.

    Row columns: ``input_ids`` and ``labels`` (one id a subword, ``IGNORED`` where there is nothing to learn),
    ``first_subwords`` (the place in ``input_ids`` of the first subword of each word that is the window's own) and
    ``sentence`` (its number in the split). Every word is one window's own.
    """

    train: datasets.Dataset
    dev: datasets.Dataset
    test: datasets.Dataset
    labels: list[str]
    fingerprint: str
    folder: Path
    layout: Layout | None = None  # the columns of the training file

    def split(self, name: str) -> datasets.Dataset:
        """Return the split called ``name``: train, dev or test."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]

    def rows(self, split: str) -> Rows:
        """Return the rows of a split as arrays, the same object each time."""
        return self._rows[split]

    @functools.cached_property
    def _rows(self) -> dict[str, Rows]:
        return {name: Rows(self.split(name)) for name in SPLITS}

    def gold(self, split: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the label ids of all words, shape (words,), and the words a sentence has, shape (sentences,)."""
        tag_ids, words = self.rows(split).word_labels()
        sentences = self.split(split).data.column("sentence").to_numpy()
        return tag_ids, np.bincount(np.repeat(sentences, words)).astype(np.int64)


def encode(splits: Splits, tokenizer: Any, data: DataConfig) -> Encoded:
    """Return ``splits`` encoded with ``tokenizer`` (of transformers), from ``data.cache_dir`` if it holds them.

    A sentence longer than ``data.max_length`` becomes several windows, cut between words. Those of train do not
    overlap, and break an entity only if it alone is longer. Those of dev and test overlap and know no entities: they
    are the windows in which new text is tagged. A word of more subwords than a window keeps those that fit. No word is
    lost. A sentence of one window has the words of its neighbours around it, without labels, as far as they fit.
    ``data.max_length`` is a number here, not ``auto``.

    Raises:
        UserError: ``data.max_length`` leaves no room for a word, or the cache cannot be written.
    """
    words = WordTokenizer(tokenizer)
    fingerprint = _fingerprint(splits, words, data)
    folder = files.expand(data.cache_dir) / "encoded" / fingerprint
    found = load_or_build(folder, lambda: _encode_all(splits, words, data))
    return Encoded(found["train"], found["dev"], found["test"], splits.labels, fingerprint, folder, splits.layout)


def _fingerprint(splits: Splits, words: WordTokenizer, data: DataConfig) -> str:
    """Return a hash of everything that decides the encoded rows."""
    settings = [FORMAT, splits.labels, data.max_length, data.label_all_subwords, words.fingerprint()]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name in SPLITS:
        content = [_content(sentence) for sentence in getattr(splits, name)]
        digest.update(json.dumps([name, content]).encode())
    return digest.hexdigest()[:32]


def _content(sentence: Sentence) -> list[Any]:
    """Return what decides a sentence's rows: with neighbours their words, too, which ``context_sentences`` chose."""
    context = [sentence.before, sentence.after]
    return [sentence.tokens, sentence.tags, *(context if any(context) else [])]


def _encode_all(splits: Splits, words: WordTokenizer, data: DataConfig) -> dict[str, Columns]:
    label_ids = {label: place for place, label in enumerate(splits.labels)}
    return {name: _encode_split(name, getattr(splits, name), words, label_ids, data) for name in SPLITS}


def _encode_split(
    name: str, sentences: list[Sentence], words: WordTokenizer, label_ids: dict[str, int], data: DataConfig
) -> Columns:
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "first_subwords": [], "sentence": []}
    every_word = iter(words.encode([token for sentence in sentences for token in sentence.tokens]))
    for number, sentence in enumerate(sentences):
        subwords = [next(every_word) for _ in sentence.tokens]
        for window in _windows(name, subwords, sentence, words, int(data.max_length)):
            columns["input_ids"].append(window.input_ids)
            columns["labels"].append(_labels(window, sentence.tags, label_ids, data))
            columns["first_subwords"].append(window.first_subwords)
            columns["sentence"].append(number)
    rows = len(columns["sentence"])
    longest = max(map(len, columns["input_ids"]), default=0)
    log.info("encoded %s: %d sentences in %d windows, the longest of %d subwords", name, len(sentences), rows, longest)
    return columns


def _windows(
    name: str, subwords: list[list[int]], sentence: Sentence, words: WordTokenizer, max_length: int
) -> list[Window]:
    context = words.encode(sentence.before), words.encode(sentence.after)
    if name != "train":
        return words.windows_with_context(subwords, max_length, context)
    return words.windows(subwords, max_length, [(start, end) for start, end, _ in spans(sentence.tags)], context)


def _labels(window: Window, tags: list[str], label_ids: dict[str, int], data: DataConfig) -> list[int]:
    """Return the labels of a window's subwords: those of its own words, on first subwords or on all."""
    labels = [IGNORED] * len(window.input_ids)
    ends = [*window.first_subwords[1:], window.stop]
    for tag, first, end in zip(tags[window.start : window.end], window.first_subwords, ends, strict=True):
        labels[first] = label_ids[tag]
        if data.label_all_subwords:
            inside = f"I-{tag[2:]}" if tag.startswith("B-") else tag
            labels[first + 1 : end] = [label_ids[inside]] * (end - first - 1)
    return labels
