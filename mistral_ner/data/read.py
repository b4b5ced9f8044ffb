"""Reads the sentences that ``data`` names, checks them, and returns them as splits with IOB2 tags."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mistral_ner import files
from mistral_ner.config.schema import DataConfig
from mistral_ner.data.columns.layout import Layout
from mistral_ner.data.context import in_context
from mistral_ner.data.formats import format_of, read_file
from mistral_ner.data.records.hub import read_hub
from mistral_ner.data.sample.generate import sample_splits
from mistral_ner.data.schemes import PREFIXES, Sentence, detect, to_iob2
from mistral_ner.data.source import FileRead, RawSentence, fault, join_errors, keep_warnings
from mistral_ner.errors import UserError, nearest

__all__ = ["Sentence", "Splits", "load_splits"]

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Splits:
    """The sentences of a data set and the sorted entity ``types`` of all its splits.

    ``origins`` says for each split in words where it is from, in which format, columns and scheme. ``warnings`` are
    those that were logged about the data. ``layout`` has the columns of the training file, if it has any.
    """

    train: list[Sentence]
    dev: list[Sentence]
    test: list[Sentence]
    types: list[str]
    origins: dict[str, str] = field(default_factory=dict, compare=False)
    warnings: list[str] = field(default_factory=list, compare=False)
    layout: Layout | None = field(default=None, compare=False)

    @property
    def labels(self) -> list[str]:
        """``O``, then ``B-X`` and ``I-X`` for each type; a label's id is its place here."""
        return ["O", *(f"{prefix}-{kind}" for kind in self.types for prefix in "BI")]


def load_splits(data: DataConfig, as_they_are: bool = False) -> Splits:
    """Return the splits that ``data`` describes: at least one sentence in each, at least one entity in train.

    Args:
        data: the keys of the config.
        as_they_are: take no dev and no test split from train; what is not given is empty.

    Raises:
        UserError: the faults of all files, each with its line, content and fix.
    """
    with keep_warnings() as said:
        splits, origins, layout = _sources(data)
        if as_they_are:
            splits = {name: splits.get(name, []) for name in SPLITS}
        else:
            _split_from_train(splits, data)
        for name in SPLITS:
            splits[name] = splits[name][: getattr(data, f"max_{name}_sentences")]
        _warn_of_leaks(splits, data)
        types = _check_types(splits)
    origins = {name: origins.get(name, "split from train") for name in SPLITS}
    said = list(dict.fromkeys(said))
    return Splits(splits["train"], splits["dev"], splits["test"], types, origins, said, layout)


def _warn_of_leaks(splits: dict[str, list[Sentence]], data: DataConfig) -> None:
    """Say in one warning what dev and test share with train: a score there says little about other text."""
    paths = {name: files.expand(path).resolve() for name in SPLITS if (path := getattr(data, f"{name}_file"))}
    same = [name for name in ("dev", "test") if data.source == "files" and paths.get(name) == paths["train"]]
    if same:
        verb = "are" if len(same) > 1 else "is"
        log.warning("%s %s the file of train: its score says nothing about other text", " and ".join(same), verb)
    known = {tuple(sentence.tokens) for sentence in splits["train"]}
    shared = {
        name: sum(tuple(sentence.tokens) in known for sentence in splits[name])
        for name in ("dev", "test")
        if name not in same
    }
    if any(shared.values()):
        counts = [f"{count:,} of {len(splits[name]):,} {name} sentences" for name, count in shared.items() if count]
        log.warning("%s are in train, too: the model has seen them, so the score is too good", " and ".join(counts))


def reads_the_same(saved: DataConfig, now: DataConfig) -> bool:
    """Whether an earlier version's default columns, the first and the last, are those that are found now.

    Its configs say ``token_column: 0`` and ``tag_column: -1``, where the default now is to look at the file.
    """
    if (saved.token_column, saved.tag_column) != ("0", "-1"):
        return False
    saved = replace(saved, cache_dir=now.cache_dir)
    token = now.token_column if now.token_column is None else saved.token_column
    tag = now.tag_column if now.tag_column is None else saved.tag_column
    if replace(saved, token_column=token, tag_column=tag) != now:
        return False
    try:
        return now.source != "files" or load_splits(saved) == load_splits(now)
    except UserError:  # the saved columns cannot be read any more: they are not those that are found
        return False


_Read = tuple[dict[str, list[Sentence]], dict[str, str], Layout | None]


def _sources(data: DataConfig) -> _Read:
    """Return the sentences of the splits that the source has, where each is from, and the training file's columns."""
    if data.source == "sample":
        splits = {name: list(sentences) for name, sentences in sample_splits().items()}
        return splits, dict.fromkeys(SPLITS, "the embedded sample"), None
    if data.source == "files":
        return _read_files(data)
    found = {name: (f"{data.hub_name}/{name}", raw) for name, raw in read_hub(data).items()}
    read = {name: _to_iob2(where, raw, data) for name, (where, raw) in found.items()}
    origins = {name: f"{found[name][0]} (tags {scheme})" for name, (_, scheme) in read.items()}
    return {name: sentences for name, (sentences, _) in read.items()}, origins, None


def _read_files(data: DataConfig) -> _Read:
    """Read every file, so that the faults of all come in one error."""
    paths = {name: getattr(data, f"{name}_file") for name in SPLITS}
    if not paths["train"]:
        raise UserError("data.train_file: data=files needs a training file\n  fix: data.train_file=PATH")
    splits: dict[str, list[Sentence]] = {}
    origins: dict[str, str] = {}
    like = None
    errors: list[UserError] = []
    for name in [name for name in SPLITS if paths[name]]:
        try:
            path = _require_file(name, files.expand(paths[name]), data)
            found = read_file(path, data, like)
            splits[name], scheme = _to_iob2(str(path), found.sentences, data)
            facts = [found.format, found.columns, f"tags {scheme}" if found.tagged else "", _documents(found, data)]
            origins[name] = f"{path.name} ({', '.join(filter(None, facts))})"
            like = found.layout if name == "train" else like
        except UserError as error:
            errors.append(error)
    if errors:
        raise join_errors(errors)
    if data.context_sentences and not any(one.before or one.after for one in splits["train"]):
        raise UserError(
            f"data.context_sentences={data.context_sentences}: needs documents of several sentences, but each of train "
            "has one (a JSON record is a document)\n  fix: data.context_sentences=0"
        )
    return splits, origins, like


def _documents(found: FileRead, data: DataConfig) -> str:
    """Return in words how many documents a file has, if that matters."""
    if not data.context_sentences:
        return ""
    count = sum(sentence.begins for sentence in found.sentences)
    return f"{count:,} documents" if count > 1 else "read as one document"


def _require_file(name: str, path: Path, data: DataConfig) -> Path:
    if path.is_dir() and format_of(path, data) == "brat":
        return path
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise UserError(
            f"data.{name}_file={path}: must be a file, or a folder with .ann files, found a folder (with {inside})\n"
            f"  fix: data.{name}_file={path}/FILE"
        )
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, beside) or (", nor its folder" if not path.parent.is_dir() else "")
        raise UserError(f"data.{name}_file={path}: there is no such file{hint}\n  fix: data.{name}_file=PATH")
    if not path.is_file():
        raise UserError(f"data.{name}_file={path}: must be a regular file\n  fix: data.{name}_file=PATH")
    return path


def _to_iob2(where: str, sentences: Sequence[RawSentence], data: DataConfig) -> tuple[list[Sentence], str]:
    """Convert the tags of one source, drop sentences without a token, and return the rest with the scheme."""
    scheme = detect(raw.tags for raw in sentences) if data.tag_scheme == "auto" else data.tag_scheme
    for raw in sentences if data.tag_scheme != "auto" else ():
        for token, tag, line in zip(raw.tokens, raw.tags, raw.lines, strict=True):
            if tag != "O" and tag[0] not in PREFIXES[scheme]:
                rule = f"the prefixes of data.tag_scheme={scheme} are {', '.join(PREFIXES[scheme])}"
                raise fault(where, line, rule, f"{token} {tag}", "data.tag_scheme=auto")
    converted: list[Sentence] = []
    repaired: list[int] = []
    # Splits are drawn from train later. The neighbours are those of the file all the same, wherever they end up: they
    # bring words, never tags, so no gold of dev or test gets into train.
    around = in_context(((raw.tokens, raw.begins) for raw in sentences), data.context_sentences)
    for raw, context in zip(sentences, around, strict=True):
        tags, placed = to_iob2(raw.tags)
        repaired += [raw.lines[place] for place in placed]
        if raw.tokens:
            converted.append(Sentence(raw.tokens, tags, raw.lines[0], context.before, context.after))
    if repaired and scheme != "iob1":
        lines = ", ".join(map(str, repaired[:10])) + (", ..." if len(repaired) > 10 else "")
        log.warning("%s: %d entities did not begin with B-: repaired in line %s", where, len(repaired), lines)
    if empty := len(sentences) - len(converted):
        log.warning("%s: left out %d sentences without a token", where, empty)
    if not converted:
        raise UserError(f"{where}: a split must hold sentences, found none\n  fix: give another file")
    return converted, scheme


def _split_from_train(splits: dict[str, list[Sentence]], data: DataConfig) -> None:
    """Move sentences from train to the splits that are missing, in place.

    A hash of the words and ``data.split_seed`` decides which ones, so they are the same on every machine. Equal
    sentences have equal hashes and stay together, so hardly any sentence of train is also in dev or test.
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


def _check_types(splits: dict[str, list[Sentence]]) -> list[str]:
    """Return the sorted entity types of all splits.

    Raises:
        UserError: train has none.
    """
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
        if splits[name] and not types[name]:
            log.warning("%s has no entity at all: its F1 says nothing", name)
    return sorted(set().union(*types.values()))
