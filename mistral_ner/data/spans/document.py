"""The form between every file with spans and the sentences: a text and its spans, in characters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """An entity as a tool marks it: from character ``start`` to ``end`` (not included).

    ``text`` is what the tool says stands there; None where it does not say.
    """

    start: int
    end: int
    kind: str
    text: str | None = None


@dataclass(frozen=True)
class Document:
    """A text with its spans, which may overlap; ``line`` is its place in the file, for messages.

    ``words`` has the start and the end of each word where the file gives them; None: they are found in the text.
    """

    line: int
    text: str
    spans: list[Span]
    words: list[tuple[int, int]] | None = None


@dataclass
class Documents:
    """What a file holds, and counts of what was left out of it, by the words of a message."""

    read: list[Document] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
