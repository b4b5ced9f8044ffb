"""The lines of a file of columns: token lines, comments, header, and where sentences end."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mistral_ner.data.columns.conll import is_boundary, split_columns
from mistral_ner.data.source import Line as Numbered
from mistral_ner.data.source import fault, numbered_lines

_MAX_LINE = 1_000_000  # characters of a token's line or a cell; more is a file of another kind
_DOCUMENT = re.compile(r"#\s*(?:(?:\S+:)?document(?:_id)?|newdoc|(?:begin|end) document)\b")
_KEY_VALUE = re.compile(r"#\s*\S+ = ")  # as CoNLL-U writes its comments
_TOKENS = {"token", "tokens", "word", "words", "form", "text", "surface"}
_TAGS = {"tag", "tags", "ner", "nertag", "nertags", "label", "labels", "iob", "bio", "entity", "nelabel"}
_SENTENCES = {"sentence", "sentenceid", "sentid", "sentenceno", "sentencenumber", "sentence#"}
_OTHERS = {"pos", "lemma", "id", "index", "misc", "chunk", "upos", "xpos"}


@dataclass(frozen=True)
class Line:
    """One line of a file with its number; no ``cells`` where it ends a sentence."""

    number: int
    text: str
    cells: list[str]

    @property
    def is_hashed(self) -> bool:
        """Whether it begins with ``#``: a comment, or a token such as ``#news``."""
        return self.text.startswith("#")


@dataclass(frozen=True)
class Lines:
    """The lines of a file and the names that its header gives to the columns (none without a header).

    ``width`` is the number of columns that most token lines have, ``tabbed`` whether tabs separate them.
    """

    path: Path
    lines: list[Line]
    names: list[str]
    width: int
    tabbed: bool

    def sentences(self, is_token: Callable[[Line], bool]) -> list[list[Line]]:
        """Return the token lines by sentence; of the lines that begin with ``#`` those that ``is_token`` picks."""
        found: list[list[Line]] = [[]]
        ids = self._column(_SENTENCES)
        notes = self._column({"misc"})
        before = ""
        for line in self.lines:
            ends = not line.cells
            if line.cells and line.is_hashed and not is_token(line):
                ends = _DOCUMENT.match(line.text) is not None
            elif line.cells:
                own = _cell(line, ids)
                if own and own != before and found[-1]:
                    found.append([])
                before = own or before
                found[-1].append(line)
                ends = "EndOfSentence" in _cell(line, notes).split("|")
            if ends and found[-1]:
                found.append([])
        return [sentence for sentence in found if sentence]

    def is_comment(self, line: Line) -> bool:
        """Whether a line that begins with ``#`` has other columns than a token."""
        if len(line.cells) != self.width or (self.tabbed and "\t" not in line.text):
            return True
        return not self.tabbed and bool(_KEY_VALUE.match(line.text))

    def begins_document(self, line: Line, is_token: Callable[[Line], bool]) -> bool:
        """Whether a line stands between two documents; ``is_token`` as in :func:`sentences`."""
        if not line.cells:
            return line.text.lstrip().startswith("-DOCSTART-")
        return line.is_hashed and _DOCUMENT.match(line.text) is not None and not is_token(line)

    def name(self, place: int) -> str:
        """Return what a message and ``data.tag_column`` call a column: its name in the header, or its number."""
        return self.names[place] if self.names else str(place)

    def names_tokens(self, place: int) -> bool:
        """Whether the header calls a column the words."""
        return bool(self.names) and plain_name(self.names[place]) in _TOKENS

    def sentence_id(self, line: Line) -> str:
        """Return what the line says its sentence is, where the header has such a column; else an empty text."""
        return _cell(line, self._column(_SENTENCES))

    def _column(self, names: set[str]) -> int | None:
        return next((place for place, name in enumerate(self.names) if plain_name(name) in names), None)


def read_lines(path: Path, named: Sequence[str] = (), encoding: str = "utf-8") -> Lines:
    """Return the lines of a file whose columns are separated by tabs or spaces.

    A first line that holds one of the column names ``named`` is a header; without them, one of common names is.
    """
    lines = token_lines(numbered_lines(path, encoding), path, "data.format=csv, jsonl or parquet names its format")
    return with_header(path, list(lines), named)


def token_lines(numbered: Iterable[Numbered], where: str | Path, other: str) -> Iterator[Line]:
    """Yield lines with their columns, which tabs or spaces separate.

    Args:
        numbered: the lines of the file.
        where: names it in messages.
        other: what the person types if it is a file of another kind.
    """
    for number, text in numbered:
        if len(text) > _MAX_LINE:
            rule = f"a line may have {_MAX_LINE:,} characters at most"
            raise fault(where, number, rule, text, f"check that this is the right file; {other}")
        cells = split_columns(text)
        yield Line(number, text, [] if is_boundary(cells) else cells)


def read_csv(path: Path, named: Sequence[str] = (), encoding: str = "utf-8") -> Lines:
    """Return the lines of a file of values separated by commas, or by what the first line has more of: ; or tabs.

    Raises:
        UserError: it has no header, which names the columns.
    """
    rows, _ = csv_lines(numbered_lines(path, encoding), path, "data.format=conll")
    found = with_header(path, list(rows), named)
    if not found.names and found.width:
        fix = "write the names of the columns into the first line, such as sentence_id,word,tag"
        row = next(line for line in found.lines if line.cells)
        raise fault(path, row.number, "the first line must name the columns", row.text, fix)
    return found


def csv_lines(numbered: Iterable[Numbered], where: str | Path, other: str) -> tuple[Iterator[Line], str]:
    """Return the rows of a file of separated values, each with its text as it is written, and the separator.

    Args:
        numbered: the lines of the file.
        where: names it in messages.
        other: what the person types to read it as columns without quotes.
    """
    numbered = iter(numbered)
    first: list[Numbered] = []
    for line in numbered:
        first.append(line)
        if line[1].strip():
            break
    separator = max(",;\t", key=first[-1][1].count) if first else ","

    def rows() -> Iterator[Line]:
        csv.field_size_limit(_MAX_LINE)
        reader = csv.reader((f"{text}\n" for _, text in itertools.chain(first, numbered)), delimiter=separator)
        before = 0
        try:
            for cells in reader:
                kept = [cell.strip() for cell in cells] if any(cell.strip() for cell in cells) else []
                yield Line(before + 1, _as_row(cells, separator), kept)
                before = reader.line_num
        except csv.Error as error:
            rule, fix = f"a row must be comma-separated values ({error})", f"close every quote, or type {other}"
            raise fault(where, before + 1, rule, "", fix) from None

    return rows(), separator


def _as_row(cells: Sequence[str], separator: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerow(cells)  # it quotes cells that hold what ends its lines
    return text.getvalue().removesuffix("\r\n")


def looks_like_header(cells: Sequence[str]) -> bool:
    """Whether these cells are names of columns: one that names the words or the tags, and no tag among them."""
    known = _TOKENS | _TAGS | _SENTENCES | _OTHERS
    return sum(plain_name(cell) in known or cell.upper().startswith(("NE-", "NER")) for cell in cells) >= 2


def plain_name(name: str) -> str:
    """Return a column's name without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_.-]", "", name.lower())


def with_header(path: Path, lines: list[Line], named: Sequence[str]) -> Lines:
    """Return the lines of ``path`` without the header, whose names are kept; see :func:`read_lines`."""
    tokens = list(_tokens(lines))
    names: list[str] = []
    if len(tokens) > 1 and (set(named) & set(tokens[0].cells) or looks_like_header(tokens[0].cells)):
        names = tokens[0].cells
        lines = [line for line in lines if line is not tokens[0]]
        tokens = tokens[1:]
    widths = Counter(len(line.cells) for line in tokens)
    width = len(names) if names else max(widths, key=lambda count: widths[count], default=0)
    tabbed = sum("\t" in line.text for line in tokens) * 2 > len(tokens)
    return Lines(path, lines, names, width, tabbed)


def _tokens(lines: Sequence[Line]) -> Iterator[Line]:
    """Yield the lines with a token; those that begin with ``#`` only in a file that has no others."""
    plain = [line for line in lines if line.cells and not line.is_hashed]
    yield from plain or (line for line in lines if len(line.cells) == 2)


def _cell(line: Line, place: int | None) -> str:
    return line.cells[place] if place is not None and place < len(line.cells) else ""
