"""What the tests of a GPU share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CARD = torch.cuda.is_available()
measured: list[str] = []  # lines of the table that is printed at the end


def reports(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The reports of a training."""
    return [json.loads(line) for line in (Path(run["output_dir"]) / "result.json").read_text().splitlines()]
