"""A trained model that tags: texts or words in, entities out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mistral_ner.config.schema import Config
from mistral_ner.data.context import InContext
from mistral_ner.data.encoded.rows import Row
from mistral_ner.data.encoded.windows import Window, WordTokenizer
from mistral_ner.data.words import split
from mistral_ner.decoding import decode
from mistral_ner.errors import UserError
from mistral_ner.metrics import entity_spans, entity_types
from mistral_ner.model.cpu.attention import quick_attention
from mistral_ner.model.hardware import usable_precision
from mistral_ner.model.limits import AUTO, find_limit
from mistral_ner.model.stored import Trained, load_trained
from mistral_ner.predict.entity import Entity, in_text
from mistral_ner.training.evaluate import DONE, Forward


class Tagger:
    """A trained model with its tokenizer and labels.

    It tags as training scores: the same windows in the same batches and number format, decoded as ``model.decoding``
    says, so that the sentences of a split in their order get the very tags that were scored. Tags are read strictly as
    IOB2: an I- that continues nothing is not an entity. A text of more than ``max_length`` subwords is tagged in
    overlapping windows: each tags the words in its middle and sees those around them. A word of more subwords than a
    window is tagged by its first ones.

    Attributes:
        context_sentences: the neighbours that a sentence had on each side in training, for :func:`stream`. The other
            methods take each text and each sentence for a document of its own.
    """

    def __init__(self, trained: Trained, max_length: int | None = None, batch_tokens: int | None = None) -> None:
        self.labels = trained.labels
        self._outside = self.labels.index("O") if "O" in self.labels else -1
        self._model = trained.model
        self._words = WordTokenizer(trained.tokenizer)
        self.config = trained.config or Config(output_dir="")
        default = self.config.data.max_length
        self.context_sentences = self.config.data.context_sentences
        self.max_length = _choose_max_length(trained.model, max_length, default)
        training = self.config.training
        pad_id = int(trained.tokenizer.pad_token_id or 0)
        number_format = usable_precision(trained.model, training.precision)
        self._forward = Forward(pad_id, batch_tokens or training.eval_batch_tokens, number_format)

    @classmethod
    def load(cls, folder: str | Path, max_length: int | None = None, batch_tokens: int | None = None) -> Tagger:
        """Load the model in ``folder``: an adapter, a merged model, or the folder of a search or a training.

        Args:
            folder: for example ``multirun/STUDY/final``, ``outputs/DATE/TIME`` or ``multirun/STUDY/final/merged``.
            max_length: subwords a window, special ones included; None: as in training.
            batch_tokens: subwords that go through the model at once; None: as the training was scored. Other numbers
                change speed and memory, and the last bits of the scores.

        Raises:
            UserError: there is no trained model, or it cannot be loaded.
        """
        return cls(load_trained(folder), max_length, batch_tokens)

    def tag(self, texts: Iterable[str]) -> list[list[Entity]]:
        """Return the entities of each text in order; ``start`` and ``end`` count its characters.

        Args:
            texts: of any length and script; words.py splits them into words.
        """
        return list(self.stream_texts(texts))

    def tag_words(self, sentences: Iterable[Sequence[str]]) -> list[list[Entity]]:
        """Return the entities of each sentence of words; ``start`` and ``end`` count its words.

        An entity's ``text`` is its words, joined by single spaces.
        """
        return list(self.stream_words(sentences))

    def stream_texts(self, texts: Iterable[str]) -> Iterator[list[Entity]]:
        """Yield what :func:`tag` returns, text by text, while ``texts`` are read a little ahead."""
        waiting: deque[tuple[str, list[tuple[int, int]]]] = deque()

        def words() -> Iterator[list[str]]:
            for text in texts:
                places = split(text)
                waiting.append((text, places))
                yield [text[start:end] for start, end in places]

        for entities in self.stream_words(words()):
            text, places = waiting.popleft()
            yield [in_text(entity, text, places) for entity in entities]

    def stream_words(self, sentences: Iterable[Sequence[str]], done: int = 0) -> Iterator[list[Entity]]:
        """Yield what :func:`tag_words` returns, sentence by sentence, while ``sentences`` are read a little ahead.

        Args:
            sentences: lists of words.
            done: as :func:`stream` has it.
        """
        return self.stream(map(InContext, sentences), done)

    def stream(self, sentences: Iterable[InContext], done: int = 0) -> Iterator[list[Entity]]:
        """Yield the entities of sentences in their context, sentence by sentence, while they are read a little ahead.

        Args:
            sentences: as :func:`mistral_ner.data.context.in_context` yields them.
            done: so many sentences are tagged already. They get no entities, and only those that share a buffer with
                others go through the model, so that these get the very bits that they would get otherwise.
        """
        waiting: deque[tuple[Sequence[str], int]] = deque()  # sentences, and how many windows each has
        logits: list[npt.NDArray[np.float32]] = []  # of the windows of the first of them

        def rows() -> Iterator[Row]:
            for number, one in enumerate(sentences):
                context = self._encode(one.before), self._encode(one.after)
                windows = self._words.windows_with_context(self._encode(one.words), self.max_length, context)
                waiting.append((one.words, len(windows)))
                yield from (_row(window, number < done) for window in windows)

        with quick_attention(self._model, self.config):
            for of_window in self._forward.word_logits(self._model, rows()):
                while not waiting[0][1]:
                    yield self._entities(waiting.popleft()[0], [])
                logits.append(of_window)
                if len(logits) == waiting[0][1]:
                    yield self._entities(waiting.popleft()[0], logits)
                    logits = []
        for words, _ in waiting:
            yield self._entities(words, [])

    def _encode(self, words: Sequence[str]) -> list[list[int]]:
        return self._words.encode([_replace_surrogates(word) for word in words])

    def _entities(self, words: Sequence[str], logits: Sequence[npt.NDArray[np.float32]]) -> list[Entity]:
        """Return the entities of a sentence from the logits of its windows."""
        if not logits or not all(map(len, logits)):
            return []
        of_words = np.concatenate(logits)
        tags = decode(of_words, [len(words)], self.labels, self.config.model.decoding)
        if (tags == self._outside).all():
            return []
        scores = np.take_along_axis(_softmax(of_words), tags[:, None], axis=1)[:, 0].astype(np.float64)
        types = entity_types(self.labels)
        return [
            Entity(types[kind], start, end, " ".join(words[start:end]), round(float(scores[start:end].mean()), 4))
            for start, end, kind in entity_spans(tags, [len(words)], self.labels).tolist()
        ]


def _row(window: Window, done: bool) -> Row:
    labels = [-100] * len(window.input_ids)  # unknown
    return {"input_ids": window.input_ids, "first_subwords": window.first_subwords, "labels": labels, DONE: done}


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    chances: npt.NDArray[np.float32] = powers / powers.sum(-1, keepdims=True)
    return chances


def _replace_surrogates(word: str) -> str:
    """Replace halves of surrogate pairs, which JSON may hold: they are not characters, and tokenizers refuse them."""
    return re.sub("[\ud800-\udfff]", "\ufffd", word)


def _choose_max_length(model: Any, wanted: int | None, default: int | str) -> int:
    limit = find_limit(model.config)
    if wanted is None:
        default = AUTO if isinstance(default, str) else default
        return default if limit is None else min(default, limit)
    if limit is not None and wanted > limit:
        raise UserError(
            f"--max-length must be at most {limit} for this model, found {wanted}; type --max-length={limit}"
        )
    return wanted
