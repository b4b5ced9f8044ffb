"""Which keys of ``data`` act with the others: a key that cannot act is a fault, for it was typed for a reason."""

from __future__ import annotations

from pathlib import Path

from mistral_ner.config.schema import DataConfig
from mistral_ner.errors import Fault

_FILES = ("train_file", "dev_file", "test_file")
_READING = (  # of files
    *("format", "encoding", "token_column", "tag_column", "sentence_end", "on_partial_word", "context_sentences"),
)
_RECORDS = ("tokens_key", "tags_key", "tag_scheme", "dev_fraction", "test_fraction", "split_seed")  # of files and hub
_HUB = ("hub_name", "hub_config", "hub_revision")
_BEFORE = {"token_column": "0", "tag_column": "-1"}  # the defaults of an earlier version, in all its saved configs
# The format that a suffix stands for. Of the others a training reads columns, and prediction what the file shows.
FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "jsonl"),
    **dict.fromkeys((".conll", ".conllu", ".bio", ".iob", ".iob2", ".bmes", ".bioes", ".tsv", ".gold_conll"), "conll"),
    ".parquet": "parquet",
    ".csv": "csv",
}
_PERHAPS_BRAT = {".ann": "brat", ".txt": "conll or brat", "": "conll or brat"}  # what lies beside a .txt tells which


def find_data_faults(data: DataConfig) -> list[Fault]:
    """Return a fault for each key that is set and does nothing with the other keys."""
    default = DataConfig()
    changed = {name for name in vars(default) if getattr(data, name) not in (getattr(default, name), _BEFORE.get(name))}
    idle: dict[str, tuple[str, str]] = {}
    if data.source == "sample":
        idle |= dict.fromkeys(_RECORDS, ("data=sample", "data=files data.train_file=PATH"))
        idle |= dict.fromkeys(_HUB, ("data=sample", "data.source=hub"))
    if data.source == "files":
        idle |= dict.fromkeys(_HUB, ("data=files", "data.source=hub"))
        idle |= _idle_with_files(data)
    if data.source != "files":
        named = f"data.source={data.source}" if data.source == "hub" else "data=sample"
        idle |= dict.fromkeys(_READING, (named, "data=files data.train_file=PATH"))
        idle |= dict.fromkeys(_FILES, (named, "data=files"))
    return [
        Fault(f"data.{name}", f"does nothing with {why}, found {getattr(data, name)}", f"{fix}, or leave it out")
        for name, (why, fix) in idle.items()
        if name in changed
    ]


def _idle_with_files(data: DataConfig) -> dict[str, tuple[str, str]]:
    """Return the keys that do nothing with the files that are given, each with the reason and the fix."""
    kinds = {_kind(path, data.format) for name in _FILES if (path := getattr(data, name))}
    if not kinds:
        return {}
    why = f"files read as {' and '.join(sorted(kinds))}"
    idle: dict[str, tuple[str, str]] = {}
    if kinds <= {"jsonl", "parquet", "brat"}:
        idle |= dict.fromkeys(("token_column", "tag_column"), (why, "data.format=conll"))
    if kinds.isdisjoint({"jsonl", "parquet"}):
        idle |= dict.fromkeys(("tokens_key", "tags_key"), (why, "data.format=jsonl"))
    if kinds.isdisjoint({"jsonl", "brat", "conll or brat"}):
        idle["on_partial_word"] = (why, "data.format=jsonl")
    if kinds == {"brat"}:
        idle["tag_scheme"] = (why, "data.tag_scheme=auto")
    if kinds == {"parquet"}:
        idle |= dict.fromkeys(("encoding", "sentence_end", "context_sentences"), (why, "data.format=conll"))
    for split in ("dev", "test"):
        if getattr(data, f"{split}_file"):
            idle[f"{split}_fraction"] = (f"data.{split}_file", f"data.{split}_file=null")
    if data.dev_file and data.test_file:
        idle["split_seed"] = ("data.dev_file and data.test_file", "data.dev_file=null")
    return idle


def _kind(path: str, kind: str) -> str:
    suffix = Path(Path(path).name.removesuffix(".gz")).suffix.lower()
    return kind if kind != "auto" else {**FORMAT_OF_SUFFIX, **_PERHAPS_BRAT}.get(suffix, "conll")
