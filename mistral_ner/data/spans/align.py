"""From a text with spans of characters to sentences of words with tags."""

from __future__ import annotations

import bisect
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.columns.punctuation import split_at_punctuation
from mistral_ner.data.source import BadLine, RawSentence, faults
from mistral_ner.data.spans.document import Document, Documents, Span
from mistral_ner.data.words import split

log = logging.getLogger(__name__)

TRIMMED = "spans trimmed of white space"
WIDENED = "spans widened to whole words (data.on_partial_word=refuse refuses them)"
INSIDE = "spans inside or across others left out (the outermost is kept)"
_EMPTY = "spans without a word left out"
_HARMLESS = (TRIMMED,)


def to_sentences(path: Path, found: Documents, data: DataConfig) -> list[RawSentence]:
    """Return the sentences of documents, a line of text each; with ``data.sentence_end`` more or fewer.

    The words are the document's own, or those of :mod:`mistral_ner.data.words`. A span covers the words that it
    touches. Of spans that share a word the longest is kept.

    Args:
        path: the file, for messages.
        found: what it holds; what is changed or left out is added to its counts.
        data: ``on_partial_word`` and ``sentence_end``.

    Raises:
        UserError: names every span that is not within its text, or that cuts a word where that is refused.
    """
    bad: list[BadLine] = []
    sentences = []
    for document in found.read:
        words = document.words if document.words is not None else split(document.text)
        tags = _tags(document, words, data, found.counts, bad)
        sentences += cut(document, words, tags, data.sentence_end)
    if bad:
        raise faults(path, bad)
    return sentences


def log_counts(path: Path, counts: Counter[str]) -> None:
    """Say what was changed or left out of a file."""
    for what, count in counts.items():
        if count:
            log.log(logging.INFO if what in _HARMLESS else logging.WARNING, "%s: %d %s", path, count, what)


def _tags(
    document: Document, words: list[tuple[int, int]], data: DataConfig, counts: Counter[str], bad: list[BadLine]
) -> list[str]:
    """Return the IOB2 tags of a document's words; faults are added to ``bad``."""
    starts, ends = [start for start, _ in words], [end for _, end in words]
    placed: list[tuple[int, int, str]] = []
    for span in document.spans:
        if fault := _find_fault(document, span):
            bad.append(fault)
            continue
        start, end = _trim(document.text, span)
        counts[TRIMMED] += start < end and (start, end) != (span.start, span.end)
        first, last = bisect.bisect_right(ends, start), bisect.bisect_left(starts, end)
        if start >= end or first >= last:
            counts[_EMPTY] += 1
            continue
        if (starts[first], ends[last - 1]) != (start, end):
            counts[WIDENED] += 1
            if data.on_partial_word == "refuse":
                whole = document.text[starts[first] : ends[last - 1]]
                rule = f"a span must not cut a word, but {document.text[start:end]!r} is a part of {whole!r}"
                found = f"[{start}, {end}, {span.kind!r}]"
                bad.append(BadLine(document.line, rule, found, "data.on_partial_word=widen, or mend the span"))
        placed.append((first, last, span.kind))
    kept = _outermost(placed)
    counts[INSIDE] += len(set(placed)) - len(kept)
    tags = ["O"] * len(words)
    for first, last, kind in kept:
        tags[first:last] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first - 1)
    return tags


def _find_fault(document: Document, span: Span) -> BadLine | None:
    size, found = len(document.text), f"[{span.start}, {span.end}, {span.kind!r}]"
    if not 0 <= span.start < span.end <= size:
        rule = f"a span must lie within its text, which has {size} characters"
        return BadLine(document.line, rule, found, _OFFSETS)
    there = document.text[span.start : span.end]
    if span.text is not None and span.text.split() != there.split():
        return BadLine(document.line, f"a span's text must stand there: {span.text!r}, not {there!r}", found, _OFFSETS)
    return None


_OFFSETS = "count characters from 0, not bytes, with the end after the last one"


def _trim(text: str, span: Span) -> tuple[int, int]:
    there = text[span.start : span.end]
    return span.end - len(there.lstrip()), span.start + len(there.rstrip())


def _outermost(placed: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Return the longest of spans that share a word, of equally long ones the first."""
    kept = []
    taken: set[int] = set()
    for first, last, kind in sorted(placed, key=lambda span: span[0] - span[1]):
        if taken.isdisjoint(range(first, last)):
            taken.update(range(first, last))
            kept.append((first, last, kind))
    return kept


def cut(document: Document, words: list[tuple[int, int]], tags: list[str], sentence_end: str) -> list[RawSentence]:
    """Return a document's sentences: its lines, or with ``data.sentence_end=blank`` what blank lines separate."""
    if not words:
        return []
    text = document.text
    whole = RawSentence([text[start:end] for start, end in words], tags, [document.line] * len(words), text, words)
    least = 2 if sentence_end == "blank" else 1
    breaks = [
        place
        for place in range(1, len(words))
        if text.count("\n", words[place - 1][1], words[place][0]) >= least and not tags[place].startswith("I-")
    ]
    lines = [whole.part(start, end) for start, end in zip([0, *breaks], [*breaks, len(words)], strict=True)]
    if sentence_end == "punctuation":
        return [part for line in lines for part in split_at_punctuation(line)]
    return lines
