"""The columns of a line of a CoNLL-like file. Training and prediction both read lines with these functions."""

from __future__ import annotations

import re
from collections.abc import Sequence


def split_columns(line: str) -> list[str]:
    """Split a line at its tabs, or at its spaces if it has no tab; other white space may be part of a token.

    A line of white space alone has no columns. Training and prediction both read lines with this function.
    """
    line = line.rstrip(" \t")
    if not line.strip():
        return []
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line.strip(" "))


def is_boundary(columns: Sequence[str]) -> bool:
    """Tell whether a line with these columns ends a sentence: a blank line, or the start of a document."""
    return not columns or columns[0].startswith("-DOCSTART-")
