"""Token lines to sentences, once it is known which columns hold the words and the tags."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.columns.layout import Layout, find_layout
from mistral_ner.data.columns.lines import Line, Lines
from mistral_ner.data.columns.punctuation import split_at_punctuation
from mistral_ner.data.schemes import TAG_RULE, is_tag
from mistral_ner.data.source import BadLine, RawSentence, fault, faults
from mistral_ner.errors import UserError

log = logging.getLogger(__name__)


def read_columns(lines: Lines, data: DataConfig, like: Layout | None = None) -> tuple[list[RawSentence], Layout | None]:
    """Return the sentences of a file of columns and its layout; none of either for a file without a token line.

    Raises:
        UserError: names every line that cannot be read.
    """
    if not lines.width:
        return [], None
    if lines.width < 2:
        first = next(line for line in lines.lines if line.cells)
        raise _columns_fault(lines, first)
    layout = find_layout(lines, data, like)
    for note in layout.notes:
        log.info("%s: %s", lines.path, note)
    if layout.warning:
        log.warning("%s: %s", lines.path, layout.warning)
    sentences = lines.sentences(lambda line: is_hashed_token(line, lines, layout))
    bad = [found for sentence in sentences for line in sentence if (found := _find_fault(line, lines, layout))]
    if bad:
        raise faults(lines.path, bad)
    words = [_drop_ranges(sentence, layout) for sentence in sentences]
    if dropped := sum(map(len, sentences)) - sum(map(len, words)):
        log.info("%s: left out %d lines numbered 1-2 or 8.1, which hold no word of their own", lines.path, dropped)
    raw = [_sentence(sentence, layout) for sentence in words if sentence]
    return _split(lines.path, _mark_documents(raw, lines, layout), data), layout


def _mark_documents(sentences: Sequence[RawSentence], lines: Lines, layout: Layout) -> list[RawSentence]:
    """Say which sentences begin a document; a file without a line between documents is one."""
    starts = [
        line.number
        for line in lines.lines
        if lines.begins_document(line, lambda line: is_hashed_token(line, lines, layout))
    ]
    documents = [bisect.bisect(starts, sentence.lines[0]) for sentence in sentences]
    before = [None, *documents]
    return [
        replace(sentence, begins=own != other)
        for sentence, own, other in zip(sentences, documents, before, strict=False)
    ]


def is_hashed_token(line: Line, lines: Lines, layout: Layout) -> bool:
    """Tell a token such as ``#`` or ``#news`` from a comment: it has the columns of a token, and a tag in its place."""
    if lines.is_comment(line) or layout.brackets:
        return False
    first = next(other for other in lines.lines if other.cells)
    # at the start of a file, "# text is O" among lines of four columns is a comment
    if line is first and not lines.tabbed and lines.width > 2 and not lines.names:
        return False
    return is_tag(line.cells[layout.tag])


def _find_fault(line: Line, lines: Lines, layout: Layout) -> BadLine | None:
    """Return what is wrong with a token line."""
    cells = line.cells
    if layout.brackets:
        return None if cells[layout.token] else BadLine(line.number, "a token must not be empty", line.text, "")
    if len(cells) < 2:
        rule, fix = "a token line needs at least two columns", _TWO_COLUMNS
    elif len(cells) != lines.width:
        rule, fix = f"a line must have {lines.width} columns like the lines before", _EVEN_COLUMNS
    elif not cells[layout.token]:
        rule, fix = "a token must not be empty", "write a token before the tag"
    elif not is_tag(cells[layout.tag]) and not _is_range(line, layout):
        rule, fix = f"unknown tag {cells[layout.tag]!r}: {TAG_RULE}", _OTHER_TAGS
    else:
        return None
    return BadLine(line.number, rule, line.text, fix)


def _is_range(line: Line, layout: Layout) -> bool:
    return layout.index is not None and not line.cells[layout.index].isdecimal()


_TWO_COLUMNS = "give every token line a token and a tag, or name the format with data.format=csv, jsonl or parquet"
_EVEN_COLUMNS = "separate the columns by tabs if tokens hold spaces, and sentences by blank lines"
_OTHER_TAGS = "write tags as O, B-TYPE and I-TYPE; data.tag_column=N picks one"


def _columns_fault(lines: Lines, line: Line) -> UserError:
    return fault(lines.path, line.number, "a token line needs at least two columns", line.text, _TWO_COLUMNS)


def _drop_ranges(sentence: Sequence[Line], layout: Layout) -> list[Line]:
    """Leave out the lines of CoNLL-U that repeat the next words in one (1-2) or stand for none (8.1)."""
    return [line for line in sentence if not _is_range(line, layout)]


def _sentence(lines: Sequence[Line], layout: Layout) -> RawSentence:
    tags = [line.cells[layout.tag] for line in lines]
    tokens = [line.cells[layout.token] for line in lines]
    return RawSentence(tokens, _from_brackets(tags) if layout.brackets else tags, [line.number for line in lines])


def _from_brackets(cells: Sequence[str]) -> list[str]:
    """Return ``(GPE*``, ``*)`` and ``(PERSON)`` as IOB2 tags."""
    tags: list[str] = []
    kind = ""
    for cell in cells:
        if cell.startswith("("):
            kind = cell.strip("(*)")
            tags.append(f"B-{kind}")
        else:
            tags.append(f"I-{kind}" if kind else "O")
        if cell.endswith(")"):
            kind = ""
    return tags


def _split(path: Path, sentences: list[RawSentence], data: DataConfig) -> list[RawSentence]:
    """Split at punctuation where ``data.sentence_end`` says so.

    Raises:
        UserError: no line separates sentences, though there are several, and ``data.sentence_end`` is auto.
    """
    if data.sentence_end == "punctuation":
        return [part for sentence in sentences for part in split_at_punctuation(sentence)]
    if data.sentence_end == "auto" and len(sentences) == 1:
        parts = len(split_at_punctuation(sentences[0]))
        if parts > 2:
            first = sentences[0]
            rule = (
                f"no blank line separates sentences: the {len(first.tokens):,} tokens of the file are one, though "
                f"punctuation ends {parts:,}"
            )
            fix = "data.sentence_end=punctuation splits there (data.sentence_end=blank takes it as it is)"
            raise fault(path, first.lines[0], rule, f"{first.tokens[0]} ... {first.tokens[-1]}", fix)
    return sentences
