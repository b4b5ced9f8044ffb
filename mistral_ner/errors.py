"""Errors as an interface: what a person can mend is shown as one message, without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mistral_ner.config import UserError

FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's switch: it lets errors through instead of printing them itself


def full_errors() -> bool:
    """Whether tracebacks were asked for by ``HYDRA_FULL_ERROR=1``."""
    return os.environ.get(FULL_ERROR, "") not in ("", "0")


INTERRUPTED = 130  # the exit code of a process that Ctrl-C ended, by the shells' convention


@contextmanager
def shown_to_the_user(debug: bool = False) -> Iterator[None]:
    """Print a :class:`UserError` and exit with 1; with ``debug`` or ``HYDRA_FULL_ERROR=1`` let it through.

    Ctrl-C exits with 130.
    """
    composing.end()  # the config is whole: what comes from here on is no fault of the command line
    try:
        yield
    except UserError as error:
        if debug or full_errors():
            raise
        show(str(error))
    except KeyboardInterrupt:
        if debug or full_errors():
            raise
        print("interrupted; what was reported is on disk, and can be gone on with", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def show(message: str) -> NoReturn:
    """Print ``message`` and exit with 1."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1) from None


class Composing:
    """The time in which Hydra composes and its errors are to come through to :mod:`mistral_ner.composing`."""

    def __init__(self) -> None:
        self.active = False

    def begin(self) -> None:
        """Make Hydra let its errors through."""
        self.active = True
        os.environ[FULL_ERROR] = "1"

    def end(self) -> None:
        """Leave errors to Hydra again, and the environment of processes started from here on as it was."""
        if self.active:
            self.active = False
            os.environ.pop(FULL_ERROR, None)


composing = Composing()
