"""Escapes values of a config file, so that OmegaConf reads them back as data."""

from __future__ import annotations

import re
from typing import Any


def escape_interpolations(value: Any) -> Any:
    """Return a value of a config file with its texts escaped, so that OmegaConf interpolates nothing in them."""
    if isinstance(value, dict):
        return {key: escape_interpolations(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape_interpolations(item) for item in value]
    # each pair of backslashes before ${ stands for one
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
