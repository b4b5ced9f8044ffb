"""``python -m mistral_ner.predict MODEL``: tag a text, a file, or standard input."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from mistral_ner import files
from mistral_ner.config import UserError
from mistral_ner.errors import shown_to_the_user
from mistral_ner.predict.formats import FORMATS, format_of, numbered, opened, tagged

_EPILOG = """\
formats:
  text    a text a line; the output is JSON lines: {"text": ..., "entities": [{"type", "start", "end", "text", ...}]}
  jsonl   {"text": ...} or {"tokens": [...]} a line; the same objects come back with "entities"
  conll   a token a line, blank lines between sentences; the same lines come back with a column of tags
start and end count characters; score is the mean probability of the entity's words.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and tag what it names."""
    options = _parser().parse_args(arguments)
    # notes of the libraries to their own users; the person who tags text can do nothing about them
    warnings.filterwarnings("ignore", module=r"(transformers|peft|torch)\.")
    with shown_to_the_user():
        try:
            _run(options)
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(options: argparse.Namespace) -> None:
    source, where, kind = _input(options)
    with closing(source), _output(options.output) as output:
        from mistral_ner.predict.tagger import Tagger  # late: a wrong command line needs no torch

        tagger = Tagger.load(options.model, options.max_length)
        # what --text gives is one text, line breaks included
        lines = numbered(source, where) if options.text is None else enumerate(options.text, 1)
        for line in tagged(tagger, kind, lines, where, options.batch_size):
            output.write(line + "\n")


def _input(options: argparse.Namespace) -> tuple[BinaryIO, str, str]:
    """Return what to read, its name in messages, and its format."""
    if options.text is not None:
        if options.format not in (None, "text"):
            raise UserError(
                f"--text is plain text, found --format={options.format}; give a file, or leave --format out"
            )
        return io.BytesIO(), "--text", "text"
    if options.file is None or options.file == "-":
        if sys.stdin.isatty():
            print("tagging what you type, a text a line; end with Ctrl-D", file=sys.stderr)
        return sys.stdin.buffer, "standard input", options.format or "text"
    path = Path(options.file).expanduser()
    return opened(path), str(path), options.format or format_of(path)


@contextmanager
def _output(name: str | None) -> Iterator[TextIO]:
    """Lend standard output, or a file that is there only once it is whole."""
    if name is None:
        stream = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n", write_through=True)
        try:
            yield stream
        finally:
            stream.detach()
        return
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"--output must name a file, found a folder at {path}; type --output={path}/FILE")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device
            with path.open("w", encoding="utf-8") as device:
                yield device
        else:
            with files.replacing(path) as whole:
                yield whole
    except PermissionError as error:
        raise UserError(f"--output={name} cannot be written: {error.strerror}; type --output=PATH") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mistral_ner.predict",
        description="Tag named entities with a trained model. Without --text and --file, standard input is read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="folder of a search (multirun/STUDY), of a training (outputs/DATE/TIME), or a merged model",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", action="append", help="a text to tag; may be given several times")
    source.add_argument("--file", help="a file to tag; - is standard input")
    parser.add_argument(
        "--format", choices=FORMATS, help="of the input; left out, what the file's suffix says, or text"
    )
    parser.add_argument("--output", help="a file for the result; left out, standard output")
    parser.add_argument("--batch-size", type=_at_least(1), default=32, metavar="N", help="windows at once (32)")
    parser.add_argument(
        "--max-length",
        type=_at_least(8),
        metavar="N",
        help="subwords a window; left out, as in training. Longer texts become overlapping windows",
    )
    return parser


class _at_least:  # noqa: N801  argparse shows the name of a type in its message
    """Whole numbers from a lowest one on."""

    def __init__(self, lowest: int) -> None:
        self.lowest = lowest
        self.__name__ = f"whole number of at least {lowest}"

    def __call__(self, text: str) -> int:
        value = int(text)
        if value < self.lowest:
            raise ValueError
        return value


if __name__ == "__main__":
    main()
