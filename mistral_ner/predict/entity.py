"""An entity that was found, with its place in words or in characters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entity:
    """One entity: ``text`` is the text from ``start`` to ``end`` (not included).

    ``score`` (0 to 1) is the mean, over the entity's words, of the probability that the model gives to the word's tag.
    """

    type: str
    start: int
    end: int
    text: str
    score: float


def in_text(entity: Entity, text: str, places: Sequence[tuple[int, int]]) -> Entity:
    """Return an entity of words as one of characters; ``places`` are those of the words in ``text``."""
    start, end = places[entity.start][0], places[entity.end - 1][1]
    return Entity(entity.type, start, end, text[start:end], entity.score)


@dataclass(frozen=True)
class Item:
    """Words to tag, and the lines of output that their entities give; an entity's places count words.

    ``breaks`` has the places of the words that begin another sentence. ``file`` is the text's own, where each text
    has one. ``continues``: the words belong to the document of the item before.
    """

    words: list[str]
    render: Callable[[list[Entity]], Iterable[str]]
    breaks: Sequence[int] = ()
    file: Path | None = None
    continues: bool = False


def iob2_tags(words: int, entities: Iterable[Entity]) -> list[str]:
    """Return the IOB2 tags of entities whose places count words."""
    tags = ["O"] * words
    for entity in entities:
        tags[entity.start : entity.end] = [f"B-{entity.type}"] + [f"I-{entity.type}"] * (entity.end - entity.start - 1)
    return tags


def as_object(entity: Entity) -> dict[str, Any]:
    """Return an entity as a JSON object."""
    return dict(vars(entity))


def as_json(value: Any) -> str:
    """Return ``value`` as JSON on one line; characters beyond ASCII stay as they are."""
    return json.dumps(value, ensure_ascii=False)
