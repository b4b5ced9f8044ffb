"""Words to subword ids, and sentences to windows of a bounded length. Used for training data and for new text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mistral_ner.errors import UserError

_REMEMBERED = 50_000  # words; about 20 MB
Subwords = Sequence[Sequence[int]]  # of each word
Context = tuple[Subwords, Subwords]  # the words before and after a sentence
_ALONE: Context = ((), ())


@dataclass(frozen=True)
class Window:
    """Some consecutive words of a sentence, ready for a model.

    ``first_subwords`` has the place in ``input_ids`` of the first subword of each of the words ``start`` to ``end``
    (not included), counted in the sentence, and ``stop`` the place behind the last subword of these words. What else
    the window holds is context.
    """

    input_ids: list[int]
    first_subwords: list[int]
    start: int
    end: int
    stop: int


class WordTokenizer:
    """Encodes single words exactly as ``tokenizer`` encodes them inside a text, and knows its special tokens.

    The backend tokenizer is copied, because others may have set its padding and truncation for their own use.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = _plain_copy(tokenizer) if getattr(tokenizer, "is_fast", False) else None
        # Byte-level BPE and some SentencePiece tokenizers mark a word by the space before it; others add the mark
        # themselves. The ids of "x y" tell which kind this is.
        inside, first, second, spaced = self._ids(["x y", "x", "y", " y"])
        self._prefix = " " if inside != first + second and inside == first + spaced else ""
        self.before, self.after = self._special_ids()
        unknown = getattr(tokenizer, "unk_token_id", None)
        self._unknown_id = unknown
        self._known: dict[str, list[int]] = {}
        self._unknown = [int(unknown)] if unknown is not None else self._ids([f"{self._prefix}?"])[0][:1]

    def fingerprint(self) -> str:
        """Return text that changes with anything that can change the ids of a word."""
        if self._backend is not None:
            return str(self._backend.to_str())
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        return f"{type(self._tokenizer).__name__} {vocabulary} {self._tokenizer.init_kwargs}"

    def encode(self, words: Sequence[str]) -> list[list[int]]:
        """Return the subword ids of each word, at least one: a word without any becomes the unknown token.

        Words are remembered, as a call of the tokenizer costs more than the few new words of a sentence.
        """
        if len(self._known) > _REMEMBERED:
            self._known = {}
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        if new:
            ids = self._ids([self._prefix + word for word in new])
            self._known.update((word, found or self._unknown) for word, found in zip(new, ids, strict=True))
        return [self._known[word] for word in words]

    def find_unknown(self, words: Iterable[str]) -> set[str]:
        """Return the words of which the tokenizer does not know a part; a tokenizer of bytes knows all."""
        if self._unknown_id is None:
            return set()
        unique = list(dict.fromkeys(words))
        return {word for word, ids in zip(unique, self.encode(unique), strict=True) if self._unknown_id in ids}

    def windows(
        self,
        subwords: Subwords,
        max_length: int,
        spans: Iterable[tuple[int, int]] = (),
        context: Context = _ALONE,
    ) -> list[Window]:
        """Return the windows of a sentence to train on, of ``max_length`` ids at most; see :func:`cut`.

        A sentence of one window has ``context`` around it, as far as it fits.

        Raises:
            UserError: ``max_length`` leaves no room for a subword.
        """
        room = self._room(max_length)
        ranges = cut([len(ids) for ids in subwords], room, spans)
        if len(ranges) == 1 and any(context):
            return [self._fill_up(subwords, context, room)]
        return [self._window(subwords, words, words, room) for words in ranges]

    def windows_with_context(self, subwords: Subwords, max_length: int, context: Context = _ALONE) -> list[Window]:
        """Return the windows of a sentence to tag, of ``max_length`` ids at most; see :func:`overlapping`.

        A sentence of one window has ``context`` around it, as far as it fits.

        Raises:
            UserError: ``max_length`` leaves no room for a subword.
        """
        room = self._room(max_length)
        ranges = list(overlapping([len(ids) for ids in subwords], room))
        if len(ranges) == 1 and any(context):
            return [self._fill_up(subwords, context, room)]
        return [self._window(subwords, words, around, room) for words, around in ranges]

    def _fill_up(self, subwords: Subwords, context: Context, room: int) -> Window:
        """Return the window of a whole sentence with the nearest words of its neighbours, half of what is free a side.

        What one side leaves free goes to the other.
        """
        before, own, after = ([min(len(ids), room) for ids in words] for words in (context[0], subwords, context[1]))
        free = room - sum(own)
        nearest = range(len(before) - 1, -1, -1)
        left = _count_fitting(before, nearest, free // 2)
        right = _count_fitting(after, range(len(after)), free - sum(before[len(before) - left :]))
        left = _count_fitting(before, nearest, free - sum(after[:right]))
        words = [*context[0][len(before) - left :], *subwords, *context[1][:right]]
        window = self._window(words, (left, left + len(own)), (0, len(words)), room)
        return replace(window, start=0, end=len(own))

    def _room(self, max_length: int) -> int:
        room = max_length - len(self.before) - len(self.after)
        if room < 1:
            rule = f"must leave room for a subword beside {max_length - room} special tokens, found {max_length}"
            raise UserError(f"data.max_length: {rule}\n  fix: data.max_length=128")
        return room

    def _window(
        self, subwords: Sequence[Sequence[int]], words: tuple[int, int], around: tuple[int, int], room: int
    ) -> Window:
        ids = list(self.before)
        places = []
        for word in subwords[around[0] : around[1]]:
            places.append(len(ids))
            ids += word[:room]
        places.append(len(ids))
        first, last = words[0] - around[0], words[1] - around[0]
        return Window(ids + self.after, places[first:last], *words, places[last])

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


def cut(lengths: Sequence[int], room: int, spans: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Return consecutive word ranges that cover all words, each of at most ``room`` subwords.

    Args:
        lengths: the number of subwords of each word; a word longer than ``room`` counts as ``room``.
        room: subwords a window.
        spans: word ranges to keep in one window if they fit into one.
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


def overlapping(lengths: Sequence[int], room: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield word ranges that cover all words once, each with the range around it that fits into a window.

    The words in a window's middle are its own; those before and behind them, a quarter of the window on each side, are
    context. A sentence that fits into one window is one range.

    Args:
        lengths: subwords of each word; a word longer than ``room`` counts as ``room``.
        room: subwords a window.
    """
    lengths = [min(length, room) for length in lengths]
    context = room // 4
    start = 0
    while start < len(lengths):
        left = start - _count_fitting(lengths, range(start - 1, -1, -1), min(context, room - lengths[start]))
        right = start + _count_fitting(lengths, range(start, len(lengths)), room - sum(lengths[left:start]))
        end = len(lengths)
        if right < len(lengths):
            end = max(start + 1, right - _count_fitting(lengths, range(right - 1, start, -1), context))
        else:  # room that the end of the sentence left
            left -= _count_fitting(lengths, range(left - 1, -1, -1), room - sum(lengths[left:]))
        yield (start, end), (left, right)
        start = end


def _count_fitting(lengths: Sequence[int], places: Iterable[int], room: int) -> int:
    """Return how many of the words at ``places``, from the first on, fit into ``room``."""
    count = 0
    for place in places:
        room -= lengths[place]
        if room < 0:
            break
        count += 1
    return count


def _plain_copy(tokenizer: Any) -> Any:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return backend
