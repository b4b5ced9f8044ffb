"""Errors that a person can mend: each is shown as one message, without a traceback."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's switch: it lets errors through instead of printing them itself
INTERRUPTED = 130  # the exit code of a process that Ctrl-C ended, by the shells' convention


class UserError(Exception):
    """An error that the person who started the run can mend; shown without a traceback."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a config: where, which rule, and what to type instead."""

    key: str
    rule: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.rule}" + (f"\n      fix: {self.fix}" if self.fix else "")


class ConfigError(UserError):
    """All the faults of a config."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        head = "1 fault in the config:" if count == 1 else f"{count} faults in the config:"
        super().__init__("\n".join([head, *(f"  {n}. {fault}" for n, fault in enumerate(self.faults, 1))]))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to ``word``, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def full_errors() -> bool:
    """Tell whether ``HYDRA_FULL_ERROR=1`` asks for tracebacks."""
    return os.environ.get(FULL_ERROR, "") not in ("", "0")


@contextmanager
def show_user_errors(debug: bool = False) -> Iterator[None]:
    """Print a :class:`UserError` and exit with 1; with ``debug`` or ``HYDRA_FULL_ERROR=1`` let it through.

    Ctrl-C exits with 130.
    """
    composing.end()  # the config is composed: later errors are not about the command line
    before, logging.raiseExceptions = logging.raiseExceptions, debug  # no traceback for a line that finds no room
    try:
        yield
    except UserError as error:
        if debug or full_errors():
            raise
        exit_with(str(error))
    except KeyboardInterrupt:
        if debug or full_errors():
            raise
        print("interrupted; every report so far is on disk, and the same command continues from there", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    finally:
        logging.raiseExceptions = before


def exit_with(message: str) -> NoReturn:
    """Print ``message`` and exit with 1."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1) from None


class Composing:
    """Whether Hydra is composing: its errors must then reach :mod:`mistral_ner.config.hydra_errors`."""

    def __init__(self) -> None:
        self.active = False

    def begin(self) -> None:
        """Make Hydra let its errors through."""
        self.active = True
        os.environ[FULL_ERROR] = "1"

    def end(self) -> None:
        """Let Hydra print errors again, and restore the environment for processes that start later."""
        if self.active:
            self.active = False
            os.environ.pop(FULL_ERROR, None)


composing = Composing()
