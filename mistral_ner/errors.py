"""Errors as an interface: what a person can mend is shown as one message, without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mistral_ner.config import UserError


@contextmanager
def shown_to_the_user(debug: bool = False) -> Iterator[None]:
    """Print a :class:`UserError` and exit with 1; with ``debug`` or ``HYDRA_FULL_ERROR=1`` let it through."""
    try:
        yield
    except UserError as error:
        if debug or os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
