"""What ``python -m mistral_ner.predict`` reads and writes, in any format: items to tag, and the lines that come back.

Each reader yields items while it reads, so that a file may have any size.
"""

from __future__ import annotations

import codecs
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mistral_ner.data.context import in_context
from mistral_ner.errors import UserError
from mistral_ner.predict.columns import Reading, column_items
from mistral_ner.predict.entity import Entity, Item
from mistral_ner.predict.records import record_items
from mistral_ner.predict.source import Source
from mistral_ner.predict.texts import brat_items, plain_items

if TYPE_CHECKING:
    from mistral_ner.predict.tagger import Tagger


@dataclass(frozen=True)
class Tagged:
    """The lines of output that an item gave, how many sentences it had, and its file, where each item has one."""

    lines: list[str]
    sentences: int
    file: Path | None = None


class Encoder:
    """Lines as the bytes of a file, in the encoding of the input.

    Args:
        source: what is read.
        goes_on: the file has lines already: a byte order mark stands before the first line only.
    """

    def __init__(self, source: Source, goes_on: bool = False) -> None:
        self._source = source
        errors = _AS_JSON if source.kind in ("text", "jsonl") else "strict"
        self._encoder = codecs.getincrementalencoder(source.encoding)(errors)
        if goes_on:
            self._encoder.encode("\n")

    def encode(self, tagged: Tagged) -> bytes:
        """Return the lines that an item gave.

        Raises:
            UserError: they have a letter that the encoding does not have, which can only be a type's of the model.
        """
        try:
            return self._encoder.encode("".join(f"{line}\n" for line in tagged.lines))
        except UnicodeEncodeError as error:
            letter, encoding = error.object[error.start], self._source.encoding
            raise UserError(
                f"{self._source.where}: the model's entity types must have letters of {encoding}, the encoding of the "
                f"input and the output, found {letter!r}\n"
                f"  fix: make UTF-8 of the input (iconv -f {encoding} -t utf-8), and type --encoding=utf-8"
            ) from None


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding does not have as JSON does, such as half of a surrogate pair in UTF-8."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


_AS_JSON = "mistral_ner.json"
codecs.register_error(_AS_JSON, _escape)


def read_items(source: Source, reading: Reading) -> Iterator[Item]:
    """Yield what a source holds.

    - text: a JSON object a line comes back, ``{"text": …, "entities": […]}``; empty lines have no entities.
    - jsonl: the same records come back, with what was found in them; see :mod:`mistral_ner.predict.records`.
    - conll and csv: the same lines come back with a column of tags added.
    - brat: the ``.ann`` file of each text comes back.

    Raises:
        UserError: names what is not of that format.
    """
    if source.kind in ("conll", "csv"):
        return column_items(source.lines, source.where, reading, source.kind == "csv")
    if source.kind == "jsonl":
        return record_items(source.lines, source.where, reading.data)
    if source.kind == "brat" and source.path is not None:
        return brat_items(source.path, reading.data.sentence_end, source.encoding)
    return plain_items(source.lines, reading.data.sentence_end)


def tag_items(tagger: Tagger, items: Iterable[Item], done: int = 0) -> Iterator[Tagged]:
    """Tag items, and yield what each gives, while items are read a little ahead.

    Args:
        tagger: the model.
        items: what to tag; each has a sentence at least, which may be empty.
        done: so many sentences are tagged already: their items are read only, and not yielded.
    """
    waiting: deque[tuple[Item, list[int]]] = deque()

    def sentences() -> Iterator[tuple[Sequence[str], bool]]:
        for item in items:
            starts = [0, *item.breaks]
            waiting.append((item, starts))
            for start, end in zip(starts, [*item.breaks, len(item.words)], strict=True):
                yield item.words[start:end], start == 0 and not item.continues

    results = iter(tagger.stream(in_context(sentences(), tagger.context_sentences), done))
    number = 0
    for first in results:
        item, starts = waiting.popleft()
        found = [first, *itertools.islice(results, len(starts) - 1)]
        number += len(starts)
        if number > done:
            entities = [_moved(one, start) for start, each in zip(starts, found, strict=True) for one in each]
            yield Tagged(list(item.render(entities)), len(starts), item.file)


def _moved(entity: Entity, start: int) -> Entity:
    return replace(entity, start=entity.start + start, end=entity.end + start) if start else entity
