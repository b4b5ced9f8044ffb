"""Files of columns: the words where the model's training file had them, and a column of tags added behind the others.

Every other line comes back as it was. Lines, headers, comments and the ends of sentences are those of training.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.columns.layout import Layout, find_layout
from mistral_ner.data.columns.lines import Line, Lines, csv_lines, token_lines, with_header
from mistral_ner.data.columns.punctuation import split_at_punctuation
from mistral_ner.data.columns.read import is_hashed_token
from mistral_ner.data.schemes import is_tag
from mistral_ner.data.source import RawSentence, fault
from mistral_ner.errors import UserError, nearest
from mistral_ner.predict.entity import Entity, Item, iob2_tags

ADDED = "predicted"  # the name of the added column, in a file with a header
_LOOKED_AT = 5000  # lines that say what the columns hold
_PIECE = 1000  # lines after which a sentence may also end by its number or a note, not only by a blank line
_NUMBERS = re.compile(r"\d+(?:[-.]\d+)?")


def read_layout(folder: Path) -> Layout | None:
    """Return the columns of the file that the model in ``folder`` was trained on; None if it had none."""
    from mistral_ner.model.stored import COLUMNS  # late, because it imports torch

    try:
        saved = json.loads((folder / COLUMNS).read_text(encoding="utf-8"))
        known: dict[str, Any] = {one.name: saved[one.name] for one in fields(Layout) if one.name in saved}
        return replace(Layout(**known), names=tuple(saved["names"]), notes=())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder / COLUMNS} must hold what a training wrote, but cannot be read: {error}; "
            "delete it, and name the column with --token-column=N"
        ) from None


@dataclass(frozen=True)
class Reading:
    """How a file is read: the column of the words is ``typed`` by the user, else ``saved`` with the model.

    ``data`` has the training's keys.
    """

    saved: Layout | None = None
    typed: str | None = None
    data: DataConfig = field(default_factory=DataConfig)


def column_items(numbered: Iterable[tuple[int, str]], where: str, reading: Reading, rows: bool) -> Iterator[Item]:
    """Yield the sentences of a file of columns, each with the lines up to its end; ``rows``: of a CSV file.

    Raises:
        UserError: names a line that does not fit, or the column that does not hold words.
    """
    lines, gap = (
        csv_lines(numbered, where, "--format=conll")
        if rows
        else (token_lines(numbered, where, "--format=text is for running text"), "")
    )
    looked_at = list(itertools.islice(lines, _LOOKED_AT))
    known = with_header(Path(where), looked_at, [reading.typed] if reading.typed else [])
    layout = _choose(known, reading)
    header = next((line for line in looked_at if known.names and line.cells == known.names), None)
    file = _File(known, layout, header, gap, reading.data.sentence_end, where)
    begun = True
    for piece in _pieces(itertools.chain(looked_at, lines), known):
        begun = yield from file.items(piece, begun)


@dataclass(frozen=True)
class _File:
    known: Lines  # the first lines, the header's names, and how many columns there are
    layout: Layout
    header: Line | None
    gap: str  # what separates columns; "" for what each line has
    sentence_end: str
    where: str

    def items(self, piece: list[Line], begun: bool) -> Generator[Item, None, bool]:
        """Yield the sentences of consecutive lines, which end where a sentence ends; every line is in one item.

        ``begun``: a document begins before the next sentence; returned for the lines that follow.
        """
        header = next((line for line in piece if line is self.header), None)
        body = [line for line in piece if line is not header]
        found = replace(self.known, lines=body).sentences(self._is_token)
        sentences = [part for sentence in found for part in self._parts(sentence)]
        rest = iter(piece)
        for number, sentence in enumerate(sentences, 1):
            last = sentence[-1]
            own = list(rest) if number == len(sentences) else list(_up_to(rest, last))
            words = [line for line in sentence if not self._is_range(line)]
            for line in words:
                self._check(line)
            texts = [line.cells[self.layout.token] for line in words]
            starts = self._document_starts(own)
            begins = begun or any(start < sentence[0].number for start in starts)
            begun = any(start > last.number for start in starts)
            yield Item(texts, partial(self._render, own, header, sentence, words), continues=not begins)
        if not sentences:
            begun = begun or bool(self._document_starts(piece))
            yield Item([], partial(self._render, piece, header, [], []), continues=True)
        return begun

    def _document_starts(self, lines: Sequence[Line]) -> list[int]:
        return [line.number for line in lines if self.known.begins_document(line, self._is_token)]

    def _parts(self, sentence: list[Line]) -> list[list[Line]]:
        """Return a sentence, or its parts where punctuation ends sentences in the training data, too."""
        if self.sentence_end != "punctuation":
            return [sentence]
        for line in sentence:
            self._check(line)
        words = [line.cells[self.layout.token] for line in sentence]
        parts = split_at_punctuation(RawSentence(words, ["O"] * len(words), list(range(len(words)))))
        return [[sentence[place] for place in part.lines] for part in parts]

    def _is_token(self, line: Line) -> bool:
        """Tell a token that begins with ``#`` from a comment, as training does where the file has tags."""
        if self.layout.tag >= 0:
            return is_hashed_token(line, self.known, self.layout)
        return not self.known.is_comment(line)

    def _is_range(self, line: Line) -> bool:
        index = self.layout.index
        return index is not None and index < len(line.cells) and not line.cells[index].isdecimal()

    def _check(self, line: Line) -> None:
        width, token = self.known.width, self.layout.token
        if len(line.cells) != width and not (self.layout.brackets and len(line.cells) > token):
            fix = "separate sentences by blank lines; for running text type --format=text"
            raise fault(self.where, line.number, f"a line must have {width} columns like those before", line.text, fix)
        if not line.cells[token]:
            rule = f"a token must not be empty, and column {self.known.name(token)} has none"
            raise fault(self.where, line.number, rule, line.text, "write a token there")

    def _render(
        self,
        lines: Sequence[Line],
        header: Line | None,
        sentence: Sequence[Line],
        words: Sequence[Line],
        entities: list[Entity],
    ) -> Iterator[str]:
        cells = dict.fromkeys((line.number for line in sentence), "_")  # what is left out, such as 1-2 in CoNLL-U
        cells.update(zip((line.number for line in words), iob2_tags(len(words), entities), strict=True))
        if header is not None:
            cells[header.number] = ADDED
        for line in lines:
            if line.number not in cells:
                yield line.text
                continue
            text = line.text if self.gap else line.text.rstrip(" \t")
            gap = self.gap or ("\t" if "\t" in text or len(line.cells) == 1 else " ")
            yield text + gap + cells[line.number]


def _up_to(lines: Iterator[Line], last: Line) -> Iterator[Line]:
    for line in lines:
        yield line
        if line is last:
            return


def _pieces(lines: Iterable[Line], known: Lines) -> Iterator[list[Line]]:
    """Yield consecutive lines that end where a sentence ends: at a blank line, or by a number or a note of the file."""
    piece: list[Line] = []
    tokens = False
    before = ""
    for line in lines:
        own = known.sentence_id(line)
        if len(piece) >= _PIECE and own and before and own != before:
            yield piece
            piece, tokens = [], False
        before = own or before
        piece.append(line)
        tokens = tokens or bool(line.cells)
        if (tokens and not line.cells) or (len(piece) >= _PIECE and "EndOfSentence" in line.text):
            yield piece
            piece, tokens = [], False
    if piece:
        yield piece


def _choose(lines: Lines, reading: Reading) -> Layout:
    """Return the places of words, and of tags (-1 where the file has none)."""
    if not lines.width:
        return Layout(0, -1)
    _refuse_commas(lines)
    layout = _typed(lines, reading) if reading.typed is not None else _fitting(lines, reading.saved)
    if layout is None:
        layout = _found(lines)
    rows = [line for line in lines.lines if len(line.cells) > layout.token and not line.is_hashed]
    if (what := _holds_no_words(rows, layout.token)) and lines.width > 1:
        rule = f"column {lines.name(layout.token)} must hold words, and holds {what}"
        others = (place for place in range(lines.width) if not _holds_no_words(rows, place))
        place = next(others, None)
        fix = f"--token-column={lines.name(place)}" if place is not None else "give a file with a column of words"
        raise fault(lines.path, rows[0].number, rule, rows[0].text, fix)
    whole = [line for line in rows if len(line.cells) == lines.width]
    if layout.tag >= lines.width or not all(is_tag(line.cells[layout.tag]) for line in whole):
        layout = replace(layout, tag=-1)
    return layout


def _holds_no_words(rows: Sequence[Line], place: int) -> str:
    """Return what the cells of a column are, if they are no words; an empty text if they may be."""
    cells = {line.cells[place] for line in rows if place < len(line.cells)}
    if len(cells) < 2:
        return ""
    return "numbers" if all(map(_NUMBERS.fullmatch, cells)) else "tags" if all(map(is_tag, cells)) else ""


def _refuse_commas(lines: Lines) -> None:
    """Refuse lines of one column that are rows of separated values."""
    rows = [line for line in lines.lines if line.cells]
    for separator in ",;":
        counts = {line.text.count(separator) for line in rows}
        if lines.width == 1 and len(rows) > 1 and len(counts) == 1 and 0 not in counts:
            rule = f"tabs or spaces must separate columns, and every line has {counts.pop()} {separator!r}"
            raise fault(lines.path, rows[0].number, rule, rows[0].text, "--format=csv")


def _typed(lines: Lines, reading: Reading) -> Layout:
    typed = str(reading.typed)
    place = lines.names.index(typed) if typed in lines.names else int(typed) if re.fullmatch(r"-?\d+", typed) else None
    if place is None or not -lines.width <= place < lines.width:
        there = ", ".join(lines.names) if lines.names else f"0 to {lines.width - 1}"
        hint = nearest(typed, lines.names)
        raise UserError(f"--token-column={typed} is not a column of {lines.path}{hint}; there are {there}")
    place %= lines.width
    saved = reading.saved
    return replace(saved, token=place) if saved is not None and _fits(lines, saved) else Layout(place, -1)


def _fits(lines: Lines, saved: Layout) -> bool:
    return saved.brackets or (lines.width == saved.width and tuple(lines.names) == saved.names)


def _fitting(lines: Lines, saved: Layout | None) -> Layout | None:
    """Return the training's columns as this file has them, by name or place; None if they are not there."""
    if saved is None:
        return None
    if _fits(lines, saved):
        return saved
    if saved.names and lines.names and saved.names[saved.token] in lines.names:
        tag = lines.names.index(saved.names[saved.tag]) if saved.names[saved.tag] in lines.names else -1
        return Layout(lines.names.index(saved.names[saved.token]), tag)
    if not saved.names and not lines.names and saved.token < lines.width:
        return replace(saved, tag=saved.tag if saved.tag < lines.width else -1)
    return None


def _found(lines: Lines) -> Layout:
    """Return the columns that the file's own cells show, as for a training; the first, where they do not."""
    named = next((place for place in range(lines.width) if lines.names_tokens(place)), None)
    try:
        if lines.width > 1:
            return find_layout(lines, DataConfig())
    except UserError:
        pass  # it has no tags: it is not a file to train on
    return Layout(named or 0, -1)
