"""``python -m mistral_ner.data FILE...``: says what a training would read, and writes a checked copy."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mistral_ner import files
from mistral_ner.config.check import check
from mistral_ner.config.compose import compose
from mistral_ner.config.schema import Config, DataConfig
from mistral_ner.data.formats import read_file
from mistral_ner.data.read import SPLITS, load_splits
from mistral_ner.data.schemes import to_iob2
from mistral_ner.errors import UserError, show_user_errors

_EPILOG = """\
One FILE is read as it is; two are train and dev, three train, dev and test. Whatever a training takes can follow, such
as data.tag_column=3 or model=smollm2_135m. Nothing is trained. A copy is JSON lines with tokens and ner_tags in IOB2;
from running text it also has each sentence's text, and offsets: the place of each token in it.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and say what its files hold."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mistral_ner.data").setLevel(logging.INFO)
    logging.getLogger("mistral_ner.data.encoded.encode").setLevel(logging.WARNING)
    with show_user_errors():
        _run(options)


def _run(options: argparse.Namespace) -> None:
    paths = [word for word in options.words if not _is_override(word)]
    if not 1 <= len(paths) <= len(SPLITS):
        raise UserError(f"give one to three files, found {len(paths)}\n  fix: python -m mistral_ner.data train.txt")
    if options.to is not None:
        _check_copy(options.to, paths)
    config = _compose(paths, [word for word in options.words if _is_override(word)])
    splits = load_splits(config.data, as_they_are=True)
    if options.to is not None:
        lines = list(copy_lines(Path(paths[0]), config.data))
        files.write_text(Path(options.to), "\n".join(lines) + "\n")
    # late: bad data is found before transformers is imported
    from mistral_ner.training.inputs.prepare import describe_data

    print(describe_data(config, splits))
    if options.to is not None:
        print(f"  {'written':<9}{options.to}: {len(lines):,} sentences")


def _is_override(word: str) -> bool:
    """Tell ``data.tag_column=3`` from the name of a file."""
    return re.match(r"[+~]*[\w./@]+=", word) is not None and not Path(word).exists()


def _compose(paths: Sequence[str], overrides: Sequence[str]) -> Config:
    """Return the config of a training on these files.

    Raises:
        UserError: names every fault of the overrides.
    """
    import mistral_ner.hyperopt.sweepers  # noqa: F401  registers with Hydra what conf/ names

    composed = compose(["data=files", *overrides])
    for name, path in zip(SPLITS, paths, strict=False):
        composed.data[f"{name}_file"] = path
    return check(composed, typed=True)


def _check_copy(to: str, paths: Sequence[str]) -> None:
    if len(paths) > 1:
        raise UserError(f"--to copies one file, found {len(paths)}\n  fix: name one file a call")
    if Path(to).suffix.lower() != ".jsonl":
        raise UserError(f"--to={to} must end in .jsonl, the format of the copy\n  fix: --to={Path(to).stem}.jsonl")
    if Path(to).exists() and Path(to).samefile(paths[0]):
        raise UserError(f"--to={to} is the file itself\n  fix: --to={Path(to).stem}_checked.jsonl")


def copy_lines(path: Path, data: DataConfig) -> Iterator[str]:
    """Yield the sentences of a file as JSON objects with IOB2 tags, which ``data.format=auto`` reads again."""
    for sentence in read_file(files.expand(path), data).sentences:
        record: dict[str, Any] = {"tokens": sentence.tokens, "ner_tags": to_iob2(sentence.tags)[0]}
        if sentence.text is not None:
            record = {"text": sentence.text, **record, "offsets": sentence.places}
        if sentence.tokens:
            yield json.dumps(record, ensure_ascii=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mistral_ner.data",
        description="Say what a training would read from these files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="+", metavar="FILE", help="files of sentences, and KEY=VALUE as for launch.py")
    parser.add_argument("--to", metavar="train.jsonl", help="write a checked copy of the file")
    return parser


if __name__ == "__main__":
    main()
