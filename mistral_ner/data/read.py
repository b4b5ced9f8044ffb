"""Reads the sentences that ``data`` names and returns them as checked IOB2 splits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mistral_ner.config import DataConfig, UserError, nearest
from mistral_ner.data.formats import read_file
from mistral_ner.data.hub import read_hub
from mistral_ner.data.sample import sample_splits
from mistral_ner.data.schemes import PREFIXES, Sentence, detect, to_iob2
from mistral_ner.data.source import RawSentence, fault

__all__ = ["Sentence", "Splits", "load_splits"]

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Splits:
    """The sentences of a data set and the sorted entity ``types`` of all its splits."""

    train: list[Sentence]
    dev: list[Sentence]
    test: list[Sentence]
    types: list[str]

    @property
    def labels(self) -> list[str]:
        """``O``, then ``B-X`` and ``I-X`` for each type; a label's id is its place here."""
        return ["O", *(f"{prefix}-{kind}" for kind in self.types for prefix in "BI")]


def load_splits(data: DataConfig) -> Splits:
    """Return the splits that ``data`` describes: at least one sentence in each, at least one entity in train.

    Raises:
        UserError: the first fault found, with its file, line, content and fix.
    """
    return _AHEAD.pop(repr(data), None) or _load_splits(data)


def read_ahead(data: DataConfig) -> None:
    """Do the next :func:`load_splits` of ``data`` now: its faults are found before anything heavy is imported.

    Raises:
        UserError: as :func:`load_splits`.
    """
    _AHEAD.clear()
    _AHEAD[repr(data)] = _load_splits(data)


_AHEAD: dict[str, Splits] = {}  # at most one, and only until it is asked for


def _load_splits(data: DataConfig) -> Splits:
    splits = _sources(data)
    _split_from_train(splits, data)
    for name in SPLITS:
        splits[name] = splits[name][: getattr(data, f"max_{name}_sentences")]
    return _checked(splits)


def _sources(data: DataConfig) -> dict[str, list[Sentence]]:
    if data.source == "sample":
        return {name: list(sentences) for name, sentences in sample_splits().items()}
    if data.source == "hub":
        return {name: _to_iob2(f"{data.hub_name}/{name}", raw, data) for name, raw in read_hub(data).items()}
    paths = {name: getattr(data, f"{name}_file") for name in SPLITS}
    if not paths["train"]:
        raise UserError("data.train_file: data=files needs a training file\n  fix: data.train_file=PATH")
    existing = {name: _existing(name, Path(path).expanduser()) for name, path in paths.items() if path}
    return {name: _to_iob2(str(path), read_file(path, data), data) for name, path in existing.items()}


def _existing(name: str, path: Path) -> Path:
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise UserError(
            f"data.{name}_file={path}: must be a file, found a folder (with {inside})\n"
            f"  fix: data.{name}_file={path}/FILE"
        )
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, beside) or (", nor its folder" if not path.parent.is_dir() else "")
        raise UserError(f"data.{name}_file={path}: there is no such file{hint}\n  fix: data.{name}_file=PATH")
    if not path.is_file():
        raise UserError(f"data.{name}_file={path}: must be a regular file\n  fix: data.{name}_file=PATH")
    return path


def _to_iob2(where: str, sentences: Sequence[RawSentence], data: DataConfig) -> list[Sentence]:
    """Convert the tags of one source and drop sentences without a token."""
    scheme = detect(raw.tags for raw in sentences) if data.tag_scheme == "auto" else data.tag_scheme
    for raw in sentences if data.tag_scheme != "auto" else ():
        for token, tag, line in zip(raw.tokens, raw.tags, raw.lines, strict=True):
            if tag != "O" and tag[0] not in PREFIXES[scheme]:
                rule = f"the prefixes of data.tag_scheme={scheme} are {', '.join(PREFIXES[scheme])}"
                raise fault(where, line, rule, f"{token} {tag}", "data.tag_scheme=auto")
    converted: list[Sentence] = []
    repaired: list[int] = []
    for raw in sentences:
        tags, placed = to_iob2(raw.tags)
        repaired += [raw.lines[place] for place in placed]
        if raw.tokens:
            converted.append(Sentence(raw.tokens, tags))
    if repaired and scheme != "iob1":
        lines = ", ".join(map(str, repaired[:10])) + (", ..." if len(repaired) > 10 else "")
        log.warning("%s: %d entities did not begin with B-: repaired in line %s", where, len(repaired), lines)
    if empty := len(sentences) - len(converted):
        log.warning("%s: left out %d sentences without a token", where, empty)
    log.info("%s: %d sentences, tags read as %s", where, len(converted), scheme)
    if not converted:
        raise UserError(f"{where}: a split must hold sentences, found none\n  fix: give another file")
    return converted


def _split_from_train(splits: dict[str, list[Sentence]], data: DataConfig) -> None:
    """Move sentences from train to the splits that are missing, in place.

    Which ones follows from a hash of the words and ``data.split_seed``: the same on every machine, and equal sentences
    stay side by side, so that hardly any of train is repeated in dev or test.
    """
    missing = [name for name in ("dev", "test") if name not in splits]
    train = splits["train"]
    sizes = {name: max(1, round(len(train) * getattr(data, f"{name}_fraction"))) for name in missing}
    if sum(sizes.values()) >= len(train):
        raise UserError(
            f"{' and '.join(missing)} must be split from train, which has only {len(train)} sentences\n"
            f"  fix: {' '.join(f'data.{name}_file=PATH' for name in missing)}"
        )
    order = sorted(range(len(train)), key=lambda place: (_hash(train[place], data.split_seed), place))
    for name in missing:
        chosen, order = sorted(order[: sizes[name]]), order[sizes[name] :]
        splits[name] = [train[place] for place in chosen]
    splits["train"] = [train[place] for place in sorted(order)]
    if missing:
        counts = " and ".join(f"{sizes[name]} for {name}" for name in missing)
        log.info("split from the %d train sentences: %s; %d stay in train", len(train), counts, len(splits["train"]))


def _hash(sentence: Sentence, seed: int) -> bytes:
    text = "\x00".join([str(seed), *sentence.tokens])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _checked(splits: dict[str, list[Sentence]]) -> Splits:
    types = {name: {tag[2:] for item in splits[name] for tag in item.tags if tag != "O"} for name in SPLITS}
    if not types["train"]:
        raise UserError(
            f"train must hold entities, found {len(splits['train'])} sentences whose tags are all O\n"
            "  fix: data.tag_column=N or data.tags_key=COLUMN names where the tags are; a larger "
            "data.max_train_sentences reads more"
        )
    for name in ("dev", "test"):
        if unseen := sorted(types[name] - types["train"]):
            log.warning("%s has entity types that train does not have: %s", name, ", ".join(unseen))
        if not types[name]:
            log.warning("%s has no entity at all: its F1 says nothing", name)
    return Splits(splits["train"], splits["dev"], splits["test"], sorted(set().union(*types.values())))
