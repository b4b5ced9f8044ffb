"""Lines in and out of a tagger, as ``python -m mistral_ner.predict`` reads and writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mistral_ner.predict.columns import Reading
from mistral_ner.predict.formats import read_items, tag_items
from mistral_ner.predict.source import Source


def tag_lines(tagger: Any, kind: str, texts: Iterable[str], reading: Reading | None = None) -> list[str]:
    """Return the lines that come back for those of a file called x.conll."""
    source = Source("x.conll", kind, enumerate(texts, 1))
    return [line for tagged in tag_items(tagger, read_items(source, reading or Reading())) for line in tagged.lines]
