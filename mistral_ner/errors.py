"""Errors as an interface: what a person can mend is shown as one message, without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mistral_ner.config import UserError

_FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's switch: it lets errors through instead of printing them itself


@contextmanager
def shown_to_the_user(debug: bool = False) -> Iterator[None]:
    """Print a :class:`UserError` and exit with 1; with ``debug`` or ``HYDRA_FULL_ERROR=1`` let it through."""
    global _composing
    if _composing:  # the config is whole: what comes from here on is no fault of the command line
        _composing = False
        os.environ.pop(_FULL_ERROR, None)
    try:
        yield
    except UserError as error:
        if debug or os.environ.get(_FULL_ERROR, "") not in ("", "0"):
            raise
        _show(str(error))


@contextmanager
def composition_shown_to_the_user() -> Iterator[None]:
    """Print what Hydra cannot compose (an unknown key, a broken file) as one message of ours, and exit with 1.

    It lasts until :func:`shown_to_the_user` is entered, by the job or the engine that Hydra hands the config to.
    """
    global _composing
    if os.environ.get(_FULL_ERROR, "") not in ("", "0"):
        yield
        return
    os.environ[_FULL_ERROR] = "1"
    _composing = True
    try:
        yield
    # Hydra lets pass what YAML and the file system raise, and raises builtin errors itself
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, RuntimeError, ValueError) as error:
        if not _composing:
            raise
        from mistral_ner.composing import explain

        _show(explain(error))
    finally:
        if _composing:
            _composing = False
            os.environ.pop(_FULL_ERROR, None)


_composing = False


def _show(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1) from None
