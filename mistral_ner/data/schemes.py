"""Sentences and tag schemes: IOB1, IOB2 and BIOES (with the letters of BILOU, BMES and BMEWO) become IOB2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

PREFIXES = {"iob1": "BI", "iob2": "BI", "bioes": "BIESLUMW"}
TAG_RULE = "a tag must be O or one of B- I- E- S- L- U- M- W- and a type"
_BEGINS = {"B", "S", "U", "W"}
_ENDS = {"E", "L", "S", "U", "W"}


@dataclass(frozen=True)
class Sentence:
    """A tokenised sentence: as many IOB2 ``tags`` as ``tokens``, at least one of each.

    ``line`` is where it begins in its file (or its row), 0 where there is none. ``before`` and ``after`` are the words
    of its neighbours, if ``data.context_sentences`` asks for them; they have no tags here.
    """

    tokens: list[str]
    tags: list[str]
    line: int = field(default=0, compare=False)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def is_tag(text: str) -> bool:
    """Tell whether ``text`` is O, or a prefix of any scheme with a hyphen and an entity type."""
    return text == "O" or (len(text) > 2 and text[1] == "-" and text[0] in PREFIXES["bioes"])


def detect(sentences: Iterable[Sequence[str]]) -> str:
    """Return the scheme of these tag sequences: ``bioes``, ``iob1`` or ``iob2``.

    A letter of BIOES, BILOU, BMES or BMEWO decides at once. IOB1 begins an entity with B- only right after another one
    of its type, so a file is IOB1 if some entities begin with I-, and none begins with B- anywhere else.
    """
    begins_with_b = begins_with_i = False
    for tags in sentences:
        before = "O"
        for tag in tags:
            if tag[0] in "ESLUMW":
                return "bioes"
            if tag != "O" and before[2:] != tag[2:]:
                begins_with_b |= tag[0] == "B"
                begins_with_i |= tag[0] == "I"
            before = tag
    return "iob1" if begins_with_i and not begins_with_b else "iob2"


def to_iob2(tags: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return ``tags`` of any scheme as IOB2, and the places where a B- had to replace an I-, E- or L-."""
    converted: list[str] = []
    placed: list[int] = []
    open_type = ""
    for place, tag in enumerate(tags):
        if tag == "O":
            converted.append("O")
            open_type = ""
            continue
        prefix, kind = tag[0], tag[2:]
        begins = prefix in _BEGINS
        if not begins and kind != open_type:
            begins = True
            placed.append(place)
        converted.append(f"{'B' if begins else 'I'}-{kind}")
        open_type = "" if prefix in _ENDS else kind
    return converted, placed


def spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return the entities of IOB2 ``tags`` as (first word, word after the last, type)."""
    found: list[tuple[int, int, str]] = []
    for place, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((place, place + 1, tag[2:]))
        elif tag.startswith("I-") and found and found[-1][1] == place and found[-1][2] == tag[2:]:
            found[-1] = (found[-1][0], place + 1, tag[2:])
    return found
