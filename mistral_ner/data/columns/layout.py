"""Which columns of a file hold the words and the tags: as the config says, else as their cells show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.columns.lines import Line, Lines
from mistral_ner.data.schemes import is_tag, spans, to_iob2
from mistral_ner.data.source import fault
from mistral_ner.errors import UserError, nearest

_NUMBER = re.compile(r"\d+(?:[-.]\d+)?")  # CoNLL-U numbers words in one as 1-2, and words that are left out as 8.1
BRACKET = re.compile(r"\*|\([\w.-]+\*?\)?|\*?\)")  # (PERSON) or (PERSON* ... *), as OntoNotes has it
# phrases as CoNLL-2000 names them: the third column of CoNLL-2003 has them beside the entities
_PHRASES = {"NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"}
_ONTONOTES = (3, 10)  # the words and the entities of a line of OntoNotes, as CoNLL-2012 has them


@dataclass(frozen=True)
class Layout:
    """The places of words, of tags, and of word numbers (None without them); ``notes`` says what was guessed.

    ``names`` are those of the header, if there is one, and ``width`` is the number of columns.
    """

    token: int
    tag: int
    index: int | None = None
    brackets: bool = False
    notes: tuple[str, ...] = ()
    warning: str = ""
    names: tuple[str, ...] = ()
    width: int = 0


@dataclass(frozen=True)
class _Column:
    """What the cells of a column are."""

    place: int
    tagged: float  # the share of cells that are tags
    phrases: bool  # tags of phrases, not of entities
    numbers: bool
    constant: bool  # one value in each sentence: a document's or a sentence's name


def find_layout(lines: Lines, data: DataConfig, like: Layout | None = None) -> Layout:
    """Return the layout of a file with at least one token line.

    Args:
        lines: the file.
        data: ``token_column`` and ``tag_column`` are taken as they are where they are set.
        like: the layout of the training file, which decides between several columns of tags.

    Raises:
        UserError: a column is not there, both are one, or which is which is not plain; the fix names both.
    """
    sentences = _regular(lines)
    first = sentences[0][0]
    token, tag = _typed(lines, data, "token_column", first), _typed(lines, data, "tag_column", first)
    if token is None and tag is None and _is_ontonotes(lines):
        note = "words in column 3, entities in brackets in column 10, as in OntoNotes"
        return Layout(*_ONTONOTES, brackets=True, notes=(note,))
    columns = [_describe(place, sentences) for place in range(lines.width)]
    guess = _guess(columns, lines, sentences, None, None, like)
    _refuse_swapped(lines, data, first, token, tag, guess)
    found = _guess(columns, lines, sentences, token, tag, like)
    if found is None:
        raise _no_words(lines, data, first, tag, guess)
    _check_tags(found, lines, sentences, guess)
    return found


def _refuse_swapped(
    lines: Lines, data: DataConfig, first: Line, token: int | None, tag: int | None, guess: Layout | None
) -> None:
    """Refuse one column for both, and tags before words that nobody has typed: tags must never become the words."""
    if token is not None and token == tag:
        rule = f"data.token_column={data.token_column} and data.tag_column={data.tag_column} are one column"
        raise fault(lines.path, first.number, rule, first.text, _propose(lines, guess))
    if token is None and tag is None and guess is not None and guess.tag < guess.token:
        rule = (
            f"unknown tag {first.cells[-1]!r} in the last column: the tags are in column {lines.name(guess.tag)}, "
            f"before the words in column {lines.name(guess.token)}"
        )
        raise fault(lines.path, first.number, rule, first.text, _propose(lines, guess))


def _no_words(lines: Lines, data: DataConfig, first: Line, tag: int | None, guess: Layout | None) -> UserError:
    if guess is None:
        rule = "every column holds numbers or tags, and none holds words"
        fix = "data.token_column=N names the column of the words, counted from 0"
        return fault(lines.path, first.number, rule, first.text, fix)
    rule = f"unknown tag {first.cells[tag or 0]!r}: with data.tag_column={data.tag_column} no column holds words"
    return fault(lines.path, first.number, rule, first.text, _propose(lines, guess))


def _regular(lines: Lines) -> list[list[Line]]:
    """Return the token lines that have as many columns as most, by sentence."""
    found = lines.sentences(lambda line: False) or lines.sentences(lambda line: len(line.cells) == 2)
    regular = [[line for line in sentence if len(line.cells) == lines.width] for sentence in found]
    return [sentence for sentence in regular if sentence]


def _typed(lines: Lines, data: DataConfig, key: str, first: Line) -> int | None:
    """Return the place that a key names by number or by the header; None where it is not set."""
    value = getattr(data, key)
    if value is None:
        return None
    if re.fullmatch(r"-?\d+", str(value)):
        place = int(value)
        if -lines.width <= place < lines.width:
            return place % lines.width
        fix = f"data.{key}=N with N from 0 to {lines.width - 1}"
        rule = f"data.{key}={value} is not among the {lines.width} columns"
        raise fault(lines.path, first.number, rule, first.text, fix)
    if value in lines.names:
        return lines.names.index(value)
    found = f"the header's names are {', '.join(lines.names)}" if lines.names else "the first line is no header"
    fix = f"data.{key}=N with N from 0 to {lines.width - 1}"
    raise UserError(
        f"{lines.path}: data.{key}={value} names no column{nearest(str(value), lines.names)}, {found}\n  fix: {fix}"
    )


def _is_ontonotes(lines: Lines) -> bool:
    """Whether these are lines of CoNLL-2012, whose sentences differ in columns behind the entities."""
    place = _ONTONOTES[1]
    rows = [line for line in lines.lines if line.cells and not line.is_hashed]
    cells = {line.cells[place] if len(line.cells) > place else "" for line in rows}
    return bool(cells) and all(BRACKET.fullmatch(cell) for cell in cells)


def _describe(place: int, sentences: Sequence[Sequence[Line]]) -> _Column:
    counts = Counter(line.cells[place] for sentence in sentences for line in sentence)
    tags = [cell for cell in counts if is_tag(cell)]
    types = {cell[2:] for cell in tags if cell != "O"}
    long = [sentence for sentence in sentences if len(sentence) > 1]
    return _Column(
        place,
        sum(counts[cell] for cell in tags) / counts.total(),
        bool(types) and types <= _PHRASES,
        all(_NUMBER.fullmatch(cell) for cell in counts),
        bool(long) and all(len({line.cells[place] for line in sentence}) == 1 for sentence in long),
    )


def _guess(
    columns: Sequence[_Column],
    lines: Lines,
    sentences: Sequence[Sequence[Line]],
    token: int | None,
    tag: int | None,
    like: Layout | None,
) -> Layout | None:
    """Return the layout with ``token`` and ``tag`` where they are given, and None where no column holds words."""
    notes, warning = [], ""
    if tag is None:
        tag, warning = _guess_tag([column for column in columns if column.place != token], lines, sentences, like)
        if tag != len(columns) - 1 and not warning:
            notes.append(f"tags in column {lines.name(tag)} (data.tag_column={lines.name(tag)} says so)")
    if token is None:
        token = _guess_token([column for column in columns if column.place != tag], lines)
        if token is None:
            return None
        if token != 0:
            before = _what(columns[0]) if tag != 0 else "tags"
            notes.append(
                f"words in column {lines.name(token)}, as column {lines.name(0)} holds {before} "
                f"(data.token_column={lines.name(token)} says so)"
            )
    numbers = [column.place for column in columns[:token] if column.numbers and _counts(column.place, sentences)]
    return Layout(token, tag, numbers[0] if numbers else None, notes=tuple(reversed(notes)), warning=warning)


def _counts(place: int, sentences: Sequence[Sequence[Line]]) -> bool:
    """Whether a column numbers the words of each sentence, beside the ranges and empty nodes of CoNLL-U."""
    for sentence in sentences:
        whole = [int(cell) for line in sentence if (cell := line.cells[place]).isdecimal()]
        if not whole or whole[0] not in (0, 1) or whole != list(range(whole[0], whole[0] + len(whole))):
            return False
    return True


def _what(column: _Column) -> str:
    if column.numbers:
        return "numbers"
    return "tags" if column.tagged == 1 else "one value for each sentence"


def _guess_token(columns: Sequence[_Column], lines: Lines) -> int | None:
    named = [column for column in columns if lines.names_tokens(column.place)]
    words = named or [column for column in columns if not column.numbers and not column.constant and column.tagged < 1]
    if not words:  # a column of one value a sentence may still be words: "ha ha"
        words = [column for column in columns if not column.numbers and column.tagged < 1]
    return words[0].place if words else None


def _guess_tag(
    columns: Sequence[_Column], lines: Lines, sentences: Sequence[Sequence[Line]], like: Layout | None
) -> tuple[int, str]:
    """Return the column of tags and, where there are several, the warning that names them.

    Without a column of tags alone the one with most of them is taken, the last one if they are less than half: its
    lines are named as faults then.
    """
    plain = [column for column in columns if not column.numbers and (column.tagged == 1 or not column.constant)]
    columns = plain or columns
    whole = [column for column in columns if column.tagged == 1 and not column.phrases]
    whole = whole or [column for column in columns if column.tagged == 1]
    if not whole:
        best = max(columns, key=lambda column: (column.tagged, column.place))
        return (best if best.tagged >= 0.5 else columns[-1]).place, ""
    if len(whole) == 1:
        return whole[0].place, ""
    kinds = {column.place: _entities(column.place, sentences) for column in whole}
    rich = max(whole, key=lambda column: kinds[column.place].total()).place
    chosen = like.tag if like is not None and like.tag in kinds else rich
    named = "; ".join(f"{lines.name(place)} ({_listed(found)})" for place, found in kinds.items())
    others = " or ".join(f"data.tag_column={lines.name(place)}" for place in kinds if place != chosen)
    return chosen, f"{len(kinds)} columns of tags: {named}. Read: {lines.name(chosen)}; {others} reads another"


def _entities(place: int, sentences: Sequence[Sequence[Line]]) -> Counter[str]:
    tagged = (spans(to_iob2([line.cells[place] for line in sentence])[0]) for sentence in sentences)
    return Counter(kind for found in tagged for _, _, kind in found)


def _listed(kinds: Counter[str]) -> str:
    most = [f"{kind} {count}" for kind, count in kinds.most_common(8)]
    return ", ".join(most + ["..."] * (len(kinds) > 8)) or "no entity"


def _check_tags(found: Layout, lines: Lines, sentences: Sequence[Sequence[Line]], guess: Layout | None) -> None:
    """Raise the fault of a column that cannot be the tags, or that a header has in its first line."""
    rows = [line for sentence in sentences for line in sentence]
    wrong = [line for line in rows if not is_tag(line.cells[found.tag])]
    if wrong and wrong == rows[:1] and len(rows) > 3 and not lines.names:
        cell = rows[0].cells[found.tag]
        fix = f"data.tag_column={cell} if it names the columns, else delete it or mend its tag"
        raise fault(lines.path, rows[0].number, f"this line looks like a header: {cell!r} is no tag", rows[0].text, fix)
    better = guess is not None and (guess.token, guess.tag) != (found.token, found.tag)
    if guess is not None and better and len(wrong) * 2 > len(rows) and _is_right(guess, rows):
        rule = f"unknown tag {wrong[0].cells[found.tag]!r}: column {lines.name(found.tag)} does not hold tags"
        raise fault(lines.path, wrong[0].number, rule, wrong[0].text, _propose(lines, guess))


def _is_right(layout: Layout, rows: Sequence[Line]) -> bool:
    return all(is_tag(line.cells[layout.tag]) for line in rows)


def _propose(lines: Lines, guess: Layout | None) -> str:
    if guess is None:
        return "data.token_column=N data.tag_column=N, counted from 0"
    return f"data.token_column={lines.name(guess.token)} data.tag_column={lines.name(guess.tag)}"
