"""brat: a text in one file and its entities in another, ``a.txt`` and ``a.ann``, or folders of such pairs.

The format of the ``.ann`` file is brat's standoff format, https://brat.nlplab.org/standoff.html: lines such as
``T1<tab>PER 0 3<tab>Ada``. Relations, events, attributes and notes are not read.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.source import BadLine, FileRead, RawSentence, faults, join_errors, numbered_lines, read_text
from mistral_ner.data.spans.align import log_counts, to_sentences
from mistral_ner.data.spans.document import Document, Documents, Span
from mistral_ner.errors import UserError

_ENTITY = re.compile(r"T\S*\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?")
_NAME = re.compile(r"(.*)\.(txt|ann)(\.gz)?", re.IGNORECASE)
DISCONTINUOUS = "discontinuous entities read as one, from their first to their last character"


def is_brat(path: Path) -> bool:
    """Whether a path is a folder with ``.ann`` files, or one file of a pair."""
    if path.is_dir():
        return any(_suffix(file) == "ann" for file in path.iterdir())
    return _suffix(path) == "ann" or (_suffix(path) == "txt" and _partner(path, "ann").is_file())


def read_brat(path: Path, data: DataConfig) -> FileRead:
    """Return the sentences of a pair, of which either file may be named, or of all pairs in a folder and below.

    Raises:
        UserError: names every line that cannot be read, and every file without its partner.
    """
    counts: Counter[str] = Counter()
    errors: list[UserError] = []
    sentences: list[RawSentence] = []
    pairs = _pairs(path, counts)
    for text, ann in pairs:
        try:
            found = Documents([_read_pair(text, ann, data, counts)], counts)
            sentences += to_sentences(ann, found, data)
        except UserError as error:
            errors.append(error)
    if errors:
        raise join_errors(errors)
    log_counts(path, counts)
    what = f"{len(pairs)} pairs of .txt and .ann" if path.is_dir() else ".txt and .ann"
    return FileRead(sentences, "brat", what, tagged=False)


def find_texts(path: Path) -> list[Path]:
    """Return the texts that a path stands for, with or without annotations: one, or all in a folder and below.

    Raises:
        UserError: there is none.
    """
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) == "txt")
    else:
        found = [text for text in [_partner(path, "txt")] if text.is_file()]
    if not found:
        what = "a folder needs .txt files" if path.is_dir() else f"there is no {_partner(path, 'txt').name}"
        raise UserError(f"{path}: brat has its texts in .txt files, but {what}\n  fix: put the text there")
    return found


def _pairs(path: Path, counts: Counter[str]) -> list[tuple[Path, Path]]:
    """Return the pairs of text and annotations that a path stands for; texts without annotations are counted.

    Raises:
        UserError: a file of annotations has no text.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        marked = [file for file in files if _suffix(file) == "ann"]
        texts = [file for file in files if _suffix(file) == "txt" and not _partner(file, "ann").is_file()]
        counts["texts without an .ann file left out"] += len(texts)
    else:
        marked = [path if _suffix(path) == "ann" else _partner(path, "ann")]
    pairs = [(_partner(file, "txt"), file) for file in marked]
    for pair in pairs:
        for file, other in (pair, pair[::-1]):
            if not file.is_file():
                raise UserError(f"{other}: brat has a pair of files, but there is no {file.name}\n  fix: put it there")
    return pairs


def _suffix(path: Path) -> str:
    match = _NAME.fullmatch(path.name)
    return match[2].lower() if match else ""


def _partner(path: Path, suffix: str) -> Path:
    """Return the other file of a pair, packed or not."""
    match = _NAME.fullmatch(path.name)
    name = match[1] if match else path.name
    packed = path.with_name(f"{name}.{suffix}.gz")
    return packed if packed.is_file() else path.with_name(f"{name}.{suffix}")


def _read_pair(text: Path, ann: Path, data: DataConfig, counts: Counter[str]) -> Document:
    spans = []
    bad = []
    for number, line in numbered_lines(ann, data.encoding):
        if not line.startswith("T"):
            continue
        match = _ENTITY.fullmatch(line)
        if match is None:
            fix = "write T1<tab>TYPE START END<tab>TEXT"
            bad.append(BadLine(number, "an entity must be a number, a type with its characters, and a text", line, fix))
            continue
        kind, places, there = match.groups()
        numbers = [int(number) for number in re.findall(r"\d+", places)]
        whole = len(numbers) == 2
        counts[DISCONTINUOUS] += not whole
        spans.append(Span(min(numbers), max(numbers), kind, there if whole else None))
    if bad:
        raise faults(ann, bad)
    return Document(1, read_text(text, data.encoding), spans)
