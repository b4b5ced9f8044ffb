"""The neighbours of a sentence in its document, which a model may see beside it: one path for training and new text."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice


@dataclass(frozen=True)
class InContext:
    """The words of a sentence, and those of the sentences before and after it in its document."""

    words: Sequence[str]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def in_context(sentences: Iterable[tuple[Sequence[str], bool]], count: int) -> Iterator[InContext]:
    """Yield each sentence with up to ``count`` neighbours on each side; so many sentences are read ahead.

    Args:
        sentences: words, and whether they begin a document. A sentence without words is no neighbour.
        count: neighbours a side, as ``data.context_sentences``.
    """
    past: deque[Sequence[str]] = deque(maxlen=count)
    waiting: deque[Sequence[str]] = deque()  # of one document

    def take_first() -> InContext:
        words = waiting.popleft()
        before, after = chain.from_iterable(past), chain.from_iterable(islice(filter(None, waiting), count))
        found = InContext(words, tuple(before), tuple(after))
        if words:
            past.append(words)
        return found

    for words, begins in sentences:
        while begins and waiting:
            yield take_first()
        if begins:
            past.clear()
        waiting.append(words)
        while waiting and sum(map(bool, islice(waiting, 1, None))) >= count:
            yield take_first()
    while waiting:
        yield take_first()
