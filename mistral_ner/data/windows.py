"""Words to subword ids, and sentences to windows of a bounded length. Used for training data and for new text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_ner.config import UserError


@dataclass(frozen=True)
class Window:
    """Some consecutive words of a sentence, ready for a model.

    ``first_subwords`` has the place in ``input_ids`` of the first subword of each of the words ``start`` to ``end``
    (not included), counted in the sentence.
    """

    input_ids: list[int]
    first_subwords: list[int]
    start: int
    end: int


class WordTokenizer:
    """Encodes single words exactly as ``tokenizer`` encodes them inside a text, and knows its special tokens.

    A backend tokenizer is copied, because its settings for padding and truncation may be those of another use.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = _plain_copy(tokenizer) if getattr(tokenizer, "is_fast", False) else None
        # Byte-level BPE and some SentencePiece tokenizers mark a word by the space before it; others add the mark
        # themselves. What "x y" becomes tells which kind this is.
        inside, first, second, spaced = self._ids(["x y", "x", "y", " y"])
        self._prefix = " " if inside != first + second and inside == first + spaced else ""
        self.before, self.after = self._special_ids()
        unknown = getattr(tokenizer, "unk_token_id", None)
        self._unknown = [int(unknown)] if unknown is not None else self._ids([f"{self._prefix}?"])[0][:1]

    def fingerprint(self) -> str:
        """Return text that changes with anything that can change the ids of a word."""
        if self._backend is not None:
            return str(self._backend.to_str())
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        return f"{type(self._tokenizer).__name__} {vocabulary} {self._tokenizer.init_kwargs}"

    def encode(self, words: Sequence[str]) -> list[list[int]]:
        """Return the subword ids of each word, at least one: a word that leaves nothing becomes the unknown token."""
        unique = list(dict.fromkeys(words))
        ids = self._ids([self._prefix + word for word in unique])
        of_word = {word: found or self._unknown for word, found in zip(unique, ids, strict=True)}
        return [of_word[word] for word in words]

    def windows(
        self, subwords: Sequence[Sequence[int]], max_length: int, spans: Iterable[tuple[int, int]] = ()
    ) -> list[Window]:
        """Return the windows of a sentence, of ``max_length`` ids at most with the special ones; see :func:`cut`.

        Raises:
            UserError: ``max_length`` leaves no room for a subword.
        """
        room = max_length - len(self.before) - len(self.after)
        if room < 1:
            rule = f"must leave room for a subword beside {max_length - room} special tokens, found {max_length}"
            raise UserError(f"data.max_length: {rule}\n  fix: data.max_length=128")
        ranges = cut([len(ids) for ids in subwords], room, spans)
        return [self._window(subwords, start, end, room) for start, end in ranges]

    def _window(self, subwords: Sequence[Sequence[int]], start: int, end: int, room: int) -> Window:
        ids = list(self.before)
        first_subwords = []
        for word in subwords[start:end]:
            first_subwords.append(len(ids))
            ids += word[:room]
        return Window(ids + self.after, first_subwords, start, end)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self._backend is not None:
            return [found.ids for found in self._backend.encode_batch(list(texts), add_special_tokens=False)]
        return [list(self._tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    def _special_ids(self) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before and after a text."""
        bare = self._ids(["x"])[0]
        if self._backend is not None:
            full = list(self._backend.encode("x", add_special_tokens=True).ids)
        else:
            full = list(self._tokenizer.encode("x", add_special_tokens=True))
        for place in range(len(full) - len(bare) + 1):
            if full[place : place + len(bare)] == bare:
                return full[:place], full[place + len(bare) :]
        raise UserError(f"the tokenizer encodes 'x' as {bare}, but as {full} with special tokens\n  fix: model=minilm")


def encode_words(words: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return the subword ids of each of ``words`` without special tokens, at least one id a word."""
    return WordTokenizer(tokenizer).encode(words)


def cut(lengths: Sequence[int], room: int, spans: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Return consecutive word ranges that cover all words, each of at most ``room`` subwords.

    Args:
        lengths: the number of subwords of each word; a word longer than ``room`` counts as ``room``.
        room: subwords a window.
        spans: word ranges to keep in one window where they fit into one.
    """
    lengths = [min(length, room) for length in lengths]
    breakable = [True] * (len(lengths) + 1)
    for start, end in spans:
        if sum(lengths[start:end]) <= room:
            breakable[start + 1 : end] = [False] * (end - start - 1)
    ranges: list[tuple[int, int]] = []
    start = filled = 0
    last_break = 0  # the latest place in this window where it may end
    for place, length in enumerate(lengths):
        if breakable[place]:
            last_break = place
        if filled + length > room:
            ranges.append((start, last_break))
            start = last_break
            filled = sum(lengths[start:place])
        filled += length
    return [*ranges, (start, len(lengths))] if lengths else []


def _plain_copy(tokenizer: Any) -> Any:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return backend
