"""Values as text that Hydra reads back as they were: whatever stands in a search space stays data."""

from __future__ import annotations

import re
from typing import Any


def escaped(value: Any) -> Any:
    """Return a value of a config file with its texts written so that OmegaConf interpolates nothing in them."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    # of backslashes before ${, each pair stands for one
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def quoted(value: Any) -> str:
    """Return a value in Hydra's override grammar, text in quotes and without interpolation."""
    if isinstance(value, str):
        # of backslashes before a quote, each pair stands for one
        text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), escaped(value))
        return f"'{text}'"
    if isinstance(value, list):
        return f"[{','.join(quoted(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
