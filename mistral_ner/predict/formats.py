"""What ``python -m mistral_ner.predict`` reads and writes: plain text, CoNLL-like columns, JSON lines.

Each reader takes numbered lines and yields lines of output as soon as a chunk of them is tagged, so that a file of any
size passes through.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from mistral_ner.config import UserError
from mistral_ner.data.schemes import is_tag
from mistral_ner.data.source import fault

if TYPE_CHECKING:
    from mistral_ner.predict.tagger import Entity, Tagger

FORMATS = ("text", "conll", "jsonl")
_SUFFIXES = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".conll", ".conllu", ".bio", ".iob", ".iob2", ".tsv"), "conll"),
}
_CHUNK = 8  # batches that are tagged together: enough to sort them by length
Line = tuple[int, str]
T = TypeVar("T")


def format_of(path: Path) -> str:
    """Return the format that a file's suffix stands for: text, unless it is known."""
    return _SUFFIXES.get(path.suffix.lower(), "text")


def numbered(stream: BinaryIO, where: str) -> Iterator[Line]:
    """Yield (line number, line without its end); only a newline ends a line.

    Raises:
        UserError: a line is no UTF-8.
    """
    for number, raw in enumerate(stream, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            encoding = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
            found = raw[max(0, error.start - 20) : error.start + 20]
            raise fault(where, number, "text must be UTF-8", found, f"iconv -f {encoding} -t UTF-8 first") from None
        yield number, line.removesuffix("\n").removesuffix("\r")


def tagged(tagger: Tagger, kind: str, lines: Iterable[Line], where: str, batch_size: int) -> Iterator[str]:
    """Tag the lines of a file of the given format and yield the lines of the output, without their ends.

    - text: a JSON object a line, ``{"text": …, "entities": […]}``; empty lines have no entities.
    - jsonl: the same objects with ``entities`` added. Where there are ``tokens`` they are tagged as they are,
      ``ner_tags`` is added (or replaced), and offsets count in the tokens joined by single spaces.
    - conll: the same lines; the last column is replaced where it is a tag, otherwise a column of tags is added.

    Raises:
        UserError: a line is not of that format; says which.
    """
    size = batch_size * _CHUNK
    return {"text": _text, "jsonl": _json_lines, "conll": _conll}[kind](tagger, lines, where, batch_size, size)


def as_json(value: Any) -> str:
    """Return ``value`` on one line, as it stands where UTF-8 can hold it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value)
    return text


def _text(tagger: Tagger, lines: Iterable[Line], where: str, batch_size: int, size: int) -> Iterator[str]:
    for chunk in _chunks(lines, size):
        texts = [line for _, line in chunk]
        for text, entities in zip(texts, tagger.tag(texts, batch_size), strict=True):
            yield as_json({"text": text, "entities": _plain(entities)})


def _json_lines(tagger: Tagger, lines: Iterable[Line], where: str, batch_size: int, size: int) -> Iterator[str]:
    for chunk in _chunks(lines, size):
        records = [_record(where, number, line) if line.strip() else None for number, line in chunk]
        texts = [record["text"] for record in records if record is not None and "tokens" not in record]
        sentences = [record["tokens"] for record in records if record is not None and "tokens" in record]
        of_texts, of_sentences = iter(tagger.tag(texts, batch_size)), iter(tagger.tag_words(sentences, batch_size))
        for record in records:
            if record is None:
                yield ""
            elif "tokens" in record:
                yield as_json({**record, **_of_words(record["tokens"], next(of_sentences))})
            else:
                yield as_json({**record, "entities": _plain(next(of_texts))})


def _record(where: str, number: int, line: str) -> dict[str, Any]:
    fix = 'write {"text": "…"} or {"tokens": ["…", "…"]}, or name another format with --format'
    try:
        record = json.loads(line)
    except ValueError as error:
        raise fault(where, number, f"a line must be a JSON object ({error})", line, fix) from None
    except RecursionError:
        raise fault(where, number, "a line must be a JSON object, not nested too deep", line, fix) from None
    if isinstance(record, dict):
        tokens = record.get("tokens")
        if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
            return record
        if "tokens" not in record and isinstance(record.get("text"), str):
            return record
    raise fault(where, number, 'a line must have "text", a string, or "tokens", a list of strings', line, fix)


def _of_words(words: Sequence[str], entities: Sequence[Entity]) -> dict[str, Any]:
    """Return tags and entities of a sentence of words, the entities' places in characters of the joined words."""
    ends = list(itertools.accumulate((len(word) + 1 for word in words), initial=0))
    plain = [{**asdict(entity), "start": ends[entity.start], "end": ends[entity.end] - 1} for entity in entities]
    return {"ner_tags": _tags(len(words), entities), "entities": plain}


def _tags(words: int, entities: Iterable[Entity]) -> list[str]:
    """Return the IOB2 tags of entities whose places count words."""
    tags = ["O"] * words
    for entity in entities:
        tags[entity.start : entity.end] = [f"B-{entity.type}"] + [f"I-{entity.type}"] * (entity.end - entity.start - 1)
    return tags


@dataclass
class _Block:
    """The lines up to the end of a sentence; ``tokens`` has the place and the columns of those that hold a token."""

    lines: list[str] = field(default_factory=list)
    tokens: list[tuple[int, list[str]]] = field(default_factory=list)


def _conll(tagger: Tagger, lines: Iterable[Line], where: str, batch_size: int, size: int) -> Iterator[str]:
    replace: bool | None = None  # whether the last column is one of tags; the first token says
    for chunk in _chunks(_blocks(lines, where), size):
        sentences = [[columns[0] for _, columns in block.tokens] for block in chunk]
        for block, entities in zip(chunk, tagger.tag_words(sentences, batch_size), strict=True):
            for (place, columns), tag in zip(block.tokens, _tags(len(block.tokens), entities), strict=True):
                if replace is None:
                    replace = len(columns) > 1 and is_tag(columns[-1])
                line = block.lines[place]
                gap = "\t" if "\t" in line or len(columns) == 1 else " "
                block.lines[place] = gap.join([*(columns[:-1] if replace else columns), tag])
            yield from block.lines


def _blocks(lines: Iterable[Line], where: str) -> Iterator[_Block]:
    block, width = _Block(), 0
    for number, line in lines:
        columns = _columns(line)
        boundary = not columns or columns[0].startswith("-DOCSTART-")
        if boundary and block.tokens:
            yield block
            block = _Block()
        # a "#" that is a token has the columns of one
        if not boundary and not (line.startswith("#") and len(columns) != (width or 1)):
            if width and len(columns) != width:
                fix = "separate sentences by blank lines; for running text type --format=text"
                raise fault(where, number, f"a line must have {width} columns like those before", line, fix)
            if not columns[0]:
                raise fault(where, number, "a token must not be empty", line, "write a token in the first column")
            width = len(columns)
            block.tokens.append((len(block.lines), columns))
        block.lines.append(line)
    if block.lines:
        yield block


def _columns(line: str) -> list[str]:
    """Split at tabs where there are any, else at spaces; other white space may be a token."""
    line = line.rstrip(" \t")
    if not line.strip():
        return []
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else line.split()


def _plain(entities: Iterable[Entity]) -> list[dict[str, Any]]:
    return [asdict(entity) for entity in entities]


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def opened(path: Path) -> BinaryIO:
    """Open a file to read.

    Raises:
        UserError: it is not there, is a folder, or cannot be read.
    """
    if path.is_dir():
        raise UserError(f"--file must name a file, found a folder at {path}; type --file={path}/FILE")
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"--file={path} cannot be read: {error.strerror}; type --file=PATH") from None
