"""Running text in and out of predict: a text a line, and the pairs of files of brat."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from mistral_ner.data.source import Line
from mistral_ner.data.spans.align import cut
from mistral_ner.data.spans.brat import find_texts
from mistral_ner.data.spans.document import Document
from mistral_ner.data.words import split
from mistral_ner.predict.entity import Entity, Item, as_json, as_object, in_text
from mistral_ner.predict.source import read_whole

InText = Callable[[list[Entity]], Iterable[str]]  # lines of output from entities whose places count characters


def plain_items(lines: Iterable[Line], sentence_end: str) -> Iterator[Item]:
    """Yield each line as a text; its output is ``{"text": …, "entities": […]}``."""
    for _, text in lines:
        yield text_item(text, sentence_end, partial(_render_plain, text))


def text_item(
    text: str, sentence_end: str, render: InText, places: list[tuple[int, int]] | None = None, file: Path | None = None
) -> Item:
    """Return a text as an item, cut into sentences as a training cuts it.

    Args:
        text: of any length.
        sentence_end: as ``data.sentence_end``.
        render: called with the entities, whose places count the text's characters.
        places: start and end of each word; None: words.py finds them.
        file: as :class:`Item` has it.
    """
    words = split(text) if places is None else places
    found = [text[start:end] for start, end in words]
    breaks = _breaks(text, words, sentence_end)
    return Item(found, lambda entities: render([in_text(one, text, words) for one in entities]), breaks, file)


def _breaks(text: str, words: list[tuple[int, int]], sentence_end: str) -> list[int]:
    """Return the places of the words that begin a sentence, but the first one's."""
    if "\n" not in text and sentence_end != "punctuation":
        return []
    sentences = cut(Document(0, text, []), words, ["O"] * len(words), sentence_end)
    return list(itertools.accumulate(len(one.tokens) for one in sentences[:-1]))


def _render_plain(text: str, entities: list[Entity]) -> Iterator[str]:
    yield as_json({"text": text, "entities": list(map(as_object, entities))})


def brat_items(path: Path, sentence_end: str, encoding: str) -> Iterator[Item]:
    """Yield the texts that a path stands for; the output of each is the content of its ``.ann`` file.

    Raises:
        UserError: there is no text, or one cannot be read.
    """
    for file in find_texts(path):
        yield text_item(read_whole(file, encoding), sentence_end, _render_brat, file=file)


def _render_brat(entities: list[Entity]) -> Iterator[str]:
    for number, entity in enumerate(entities, 1):
        kind = re.sub(r"\s+", "_", entity.type)  # a space would end the name
        text = re.sub(r"[\r\n]", " ", entity.text)
        yield f"T{number}\t{kind} {entity.start} {entity.end}\t{text}"
