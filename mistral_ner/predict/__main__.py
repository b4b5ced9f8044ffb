"""``python -m mistral_ner.predict MODEL``: tag a text, a file, or standard input."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mistral_ner.config.check import is_encoding
from mistral_ner.config.schema import DataConfig
from mistral_ner.data.spans.brat import find_texts
from mistral_ner.errors import INTERRUPTED, UserError, show_user_errors
from mistral_ner.garbage import collect_rarely
from mistral_ner.predict.columns import Reading, read_layout
from mistral_ner.predict.formats import Tagged, read_items, tag_items
from mistral_ner.predict.output import open_output
from mistral_ner.predict.source import FORMATS, Source, open_source

_EPILOG = """\
formats:
  text    a text a line; the output is JSON lines: {"text": ..., "entities": [{"type", "start", "end", "text", ...}]}
  jsonl   {"text": ...} or {"tokens": [...]} a line, or an array; the same objects come back with "entities", or with
          "predicted_..." in the form that their own spans have (doccano, spaCy, Prodigy, Label Studio, Hugging Face)
  conll   a token a line, blank lines between sentences; the same lines come back with a column of tags added
  csv     a token a row, under a header; the same rows come back with the column "predicted" added
  brat    .txt files, one or a folder; the .ann file comes back, or a folder of pairs
Files packed by gzip are read, and written where --output ends in .gz. The output has the encoding of the input. The
words are in the column where the training file had them, unless --token-column says another. start and end count
characters; score is the mean probability of the entity's words.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and tag what it names."""
    options = _parser().parse_args(arguments)
    collect_rarely()
    # notes to developers; the person who tags text can do nothing about them
    warnings.filterwarnings("ignore", module=r"(transformers|peft|torch)\.")
    with show_user_errors():
        try:
            _run(options)
        except BrokenPipeError:  # the reader of the output has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None


def _run(options: argparse.Namespace) -> None:
    _choose_device(options.device)
    source = open_source(options.text, options.file, options.format, partial(_find_encoding, options))
    with closing(source):
        from mistral_ner.model.stored import find_model_folder  # late: a wrong command line needs no torch

        folder = find_model_folder(options.model)
        with open_output(options.output, source, _describe(options, source, folder), options.resume) as output:
            from mistral_ner.predict.tagger import Tagger

            tagger = Tagger.load(folder, options.max_length, options.batch_tokens)
            reading = Reading(read_layout(folder), options.token_column, tagger.config.data)
            with _progress(source, options, output.done.lines) as advance:
                for tagged in tag_items(tagger, read_items(source, reading), output.done.sentences):
                    output.write(tagged)
                    advance(tagged)


def _find_encoding(options: argparse.Namespace) -> str:
    """Return the encoding that was typed, else that of the training's files."""
    if options.encoding is not None:
        return str(options.encoding)
    from mistral_ner.model.stored import find_model_folder, read_config  # late, because it imports torch

    config = read_config(find_model_folder(options.model))
    return config.data.encoding if config is not None else DataConfig().encoding


def _describe(options: argparse.Namespace, source: Source, folder: Path) -> dict[str, Any]:
    """Return what decides the predictions, by the words of a message: a run that goes on must have the same."""
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    typed = {f"--{name.replace('_', '-')}": getattr(options, name) for name in ("max_length", "batch_tokens")}
    return {
        "the input": _state_of_input(source.path) if source.path is not None else None,
        "the model": {file.name: _state(file) for file in sorted(folder.iterdir()) if file.is_file()},
        "--format": source.kind,
        "--encoding": source.encoding,
        "--token-column": options.token_column,
        "--device": device,
        **typed,
    }


def _state(path: Path) -> str:
    """Return what changes whenever a file is written: its size and its time."""
    found = path.stat()
    return f"{path.resolve()} of {found.st_size:,} bytes, written at {found.st_mtime_ns}"


def _state_of_input(path: Path) -> str:
    if path.is_file():
        return _state(path)
    texts = find_texts(path)
    check = zlib.crc32("\n".join(map(_state, texts)).encode("utf-8", "surrogateescape"))
    return f"{path.resolve()} with {len(texts):,} texts (names, sizes and times: {check:08x})"


def _choose_device(device: str | None) -> None:
    """Let torch, which is not loaded yet, see the named device only.

    Raises:
        UserError: it is not there.
    """
    if device is None:
        return
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdecimal())):
        raise UserError(f"--device must be cpu, cuda or cuda:N, found {device}; type --device=cpu")
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    if number:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = seen.split(",") if seen else [str(card) for card in range(int(number) + 1)]
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[int(number)] if int(number) < len(cards) else ""
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"--device={device}: torch sees no such GPU; type --device=cpu")


@contextmanager
def _progress(source: Source, options: argparse.Namespace, done: int) -> Iterator[Callable[[Tagged], object]]:
    """Lend what counts lines of output: a bar on standard error, where that is a terminal and a file is read.

    Args:
        source: what is read.
        options: of the command line.
        done: lines that are written already.
    """
    if not sys.stderr.isatty() or source.path is None or (options.output is None and sys.stdout.isatty()):
        yield lambda tagged: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("lines"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("lines", total=source.count_lines(), completed=done)
        yield lambda tagged: bar.advance(task, len(tagged.lines))


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
    source.add_argument("--file", help="a file to tag, or a folder of brat's pairs; - is standard input")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="of the input; default: as its suffix says; else jsonl where every line is an object, conll where every "
        "line has a tag, and text elsewhere",
    )
    parser.add_argument(
        "--encoding",
        type=_encoding,
        metavar="NAME",
        help="of the input, and of the output with it, such as latin-1; default: as data.encoding was (mostly utf-8)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N; default: a GPU if there is one")
    parser.add_argument(
        "--token-column", metavar="N", help="of a file of columns: where the words are, counted from 0, or its name"
    )
    parser.add_argument("--output", help="a file for the result, packed if it ends in .gz; default: standard output")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what a stopped run with the same --file and --output has done"
    )
    parser.add_argument(
        "--batch-tokens",
        type=_at_least(1),
        metavar="N",
        help="subwords that go through the model at once; default: as training.eval_batch_tokens was. Other numbers "
        "change speed, memory and the last digits of the scores",
    )
    parser.add_argument(
        "--max-length",
        type=_at_least(8),
        metavar="N",
        help="subwords a window; default: as in training. Longer texts become overlapping windows",
    )
    return parser


def _encoding(name: str) -> str:
    if not is_encoding(name):
        raise argparse.ArgumentTypeError(
            f"must be an encoding that Python knows, found {name!r}; type --encoding=utf-8"
        )
    return name


class _at_least:  # noqa: N801  argparse shows the name of a type in its message
    """A whole number that is not below a lowest one."""

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
