"""A trained model that tags: texts or words in, entities out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mistral_ner.batches import batches_by_length, collate
from mistral_ner.config import DataConfig, UserError
from mistral_ner.data.windows import Window, WordTokenizer, cut
from mistral_ner.metrics import entity_spans, entity_types
from mistral_ner.model.products import wide_products
from mistral_ner.model.stored import Trained, load_trained
from mistral_ner.predict.words import split


@dataclass(frozen=True)
class Entity:
    """One entity: ``text`` is what lies from ``start`` to ``end`` (not included).

    ``score`` (0 to 1) is the mean, over the entity's words, of the probability that the model gives to the word's tag.
    """

    type: str
    start: int
    end: int
    text: str
    score: float


class Tagger:
    """A trained model with its tokenizer and labels.

    Tags are read as they are scored in training (IOB2, strict: an I- that continues nothing is no entity). A text
    longer than ``max_length`` subwords is tagged in overlapping windows: each decides about the words in its middle and
    sees those around them. A word of more subwords than a window is tagged by its first ones.
    """

    def __init__(self, trained: Trained, max_length: int | None = None) -> None:
        self.labels = trained.labels
        self._model = trained.model
        self._pad_id = int(trained.tokenizer.pad_token_id or 0)
        self._words = WordTokenizer(trained.tokenizer)
        default = trained.config.data.max_length if trained.config is not None else DataConfig().max_length
        self.max_length = _within(trained.model, max_length, default)

    @classmethod
    def load(cls, folder: str | Path, max_length: int | None = None) -> Tagger:
        """Load the model in ``folder``: an adapter, a merged model, or what a search or a training left there.

        Args:
            folder: for example ``multirun/STUDY/final``, ``outputs/DATE/TIME`` or ``multirun/STUDY/final/merged``.
            max_length: subwords a window, special ones included; left out, as in training.

        Raises:
            UserError: there is no trained model, or it cannot be loaded.
        """
        return cls(load_trained(folder), max_length)

    def tag(self, texts: Sequence[str], batch_size: int = 32) -> list[list[Entity]]:
        """Return the entities of each text in order; ``start`` and ``end`` count its characters.

        Args:
            texts: of any length and script; split into words as words.py says.
            batch_size: windows that go through the model at once; it changes speed and memory, not the entities.
        """
        places = [split(text) for text in texts]
        words = [[text[start:end] for start, end in spans] for text, spans in zip(texts, places, strict=True)]
        return [
            [
                Entity(found.type, start, end, text[start:end], found.score)
                for found in entities
                for start, end in [(spans[found.start][0], spans[found.end - 1][1])]
            ]
            for text, spans, entities in zip(texts, places, self.tag_words(words, batch_size), strict=True)
        ]

    def tag_words(self, sentences: Sequence[Sequence[str]], batch_size: int = 32) -> list[list[Entity]]:
        """Return the entities of each sentence of words; ``start`` and ``end`` count its words.

        An entity's ``text`` is its words, joined by single spaces.
        """
        tags, scores = self._predict(sentences, batch_size)
        lengths = np.array([len(words) for words in sentences], dtype=np.int64)
        firsts = np.cumsum(lengths) - lengths
        types = entity_types(self.labels)
        found: list[list[Entity]] = [[] for _ in sentences]
        spans = entity_spans(tags, lengths, self.labels)
        # the last first word that is not after it: sentences without words share theirs with the next
        owners = np.searchsorted(firsts, spans[:, 0], side="right") - 1
        for owner, (start, end, kind) in zip(owners.tolist(), spans.tolist(), strict=True):
            first, last = start - int(firsts[owner]), end - int(firsts[owner])
            text = " ".join(sentences[owner][first:last])
            found[owner].append(Entity(types[kind], first, last, text, round(float(scores[start:end].mean()), 4)))
        return found

    def _predict(
        self, sentences: Sequence[Sequence[str]], batch_size: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the label id of each word and its probability, both of shape (words,), over all sentences."""
        every_word = [_encodable(word) for words in sentences for word in words]
        subwords = self._words.encode(every_word)
        windows, kept = self._windows(sentences, subwords)
        tags = np.zeros(len(every_word), dtype=np.int64)
        scores = np.zeros(len(every_word))
        rows = [{"input_ids": window.input_ids, "first_subwords": window.first_subwords} for window in windows]
        for index, chances in word_probabilities(self._model, rows, self._pad_id, batches_by_length(rows, batch_size)):
            start, end, place = kept[index]
            chances = chances[start - windows[index].start : end - windows[index].start]
            tags[place : place + end - start] = chances.argmax(-1)
            scores[place : place + end - start] = chances.max(-1)
        return tags, scores

    def _windows(
        self, sentences: Sequence[Sequence[str]], subwords: list[list[int]]
    ) -> tuple[list[Window], list[tuple[int, int, int]]]:
        """Return all windows, and for each the words of its sentence that it decides and where they lie over all."""
        room = self.max_length - len(self._words.before) - len(self._words.after)
        if room < 1:
            raise UserError(
                f"--max-length must leave room for a subword, found {self.max_length}; type --max-length=128"
            )
        windows: list[Window] = []
        kept: list[tuple[int, int, int]] = []
        first = 0
        for words in sentences:
            own = subwords[first : first + len(words)]
            for (start, end), (left, right) in overlapping([len(ids) for ids in own], room):
                ids, firsts = list(self._words.before), []
                for word in own[left:right]:
                    firsts.append(len(ids))
                    ids += word[:room]
                windows.append(Window(ids + self._words.after, firsts, left, right))
                kept.append((start, end, first + start))
            first += len(words)
        return windows, kept


class _Logits(Protocol):
    logits: torch.Tensor


def word_probabilities(
    model: Any, rows: Sequence[dict[str, Any]], pad_id: int, batches: Iterable[list[int]]
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield the number of each row and its words' probabilities, shape (words, labels); longest rows first.

    Args:
        model: a token classifier in eval mode.
        rows: ``input_ids`` and ``first_subwords`` of windows.
        pad_id: fills rows up to the longest of their batch.
        batches: numbers of the rows that go through the model together.
    """
    device = next(model.parameters()).device
    for indices in batches:
        batch = collate(
            [{**rows[index], "labels": [-100] * len(rows[index]["input_ids"])} for index in indices], pad_id
        )
        del batch["labels"]
        with torch.inference_mode(), wide_products():
            output: _Logits = model(**{name: value.to(device) for name, value in batch.items()})
            chances = output.logits.float().softmax(-1).cpu().numpy()
        for index, line in zip(indices, chances, strict=True):
            yield index, line[np.asarray(rows[index]["first_subwords"], dtype=np.int64)]


def overlapping(lengths: Sequence[int], room: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield word ranges that cover all words once, each with the range around it that fits into a window.

    Args:
        lengths: subwords of each word; a word longer than ``room`` counts as ``room``.
        room: subwords a window. Half of it is for the words that are decided, the rest for those on both sides.
    """
    lengths = [min(length, room) for length in lengths]
    if sum(lengths) <= room:
        if lengths:
            yield (0, len(lengths)), (0, len(lengths))
        return
    for start, end in cut(lengths, max(1, room // 2)):
        spare = room - sum(lengths[start:end])
        left = start - _fitting(lengths[max(0, start - room) : start][::-1], spare // 2)
        spare -= sum(lengths[left:start])
        right = end + _fitting(lengths[end : end + room], spare)
        spare -= sum(lengths[end:right])
        left -= _fitting(lengths[max(0, left - room) : left][::-1], spare)  # what the end of the text left over
        yield (start, end), (left, right)


def _fitting(lengths: Iterable[int], room: int) -> int:
    """How many of the lengths, from the first on, fit into ``room``."""
    count = 0
    for length in lengths:
        room -= length
        if room < 0:
            break
        count += 1
    return count


def _encodable(word: str) -> str:
    """Half of a surrogate pair, as JSON may hold, is no character: tokenizers refuse it."""
    return re.sub("[\ud800-\udfff]", "\ufffd", word)


def _within(model: Any, wanted: int | None, default: int) -> int:
    limit = getattr(model.config, "max_position_embeddings", None)
    if wanted is None:
        return default if limit is None else min(default, int(limit))
    if limit is not None and wanted > limit:
        raise UserError(
            f"--max-length must be at most {limit} for this model, found {wanted}; type --max-length={limit}"
        )
    return wanted
