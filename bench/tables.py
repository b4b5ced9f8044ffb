"""Tables of results that grow line by line, so that a measurement which was cut off goes on where it stopped."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_rows(table: Path) -> list[dict[str, str]]:
    """Return the lines of a table; none if there is no such file yet."""
    return list(csv.DictReader(table.open(encoding="utf-8"))) if table.exists() else []


def append_row(table: Path, columns: Sequence[str], row: Sequence[Any]) -> None:
    """Add a line and print it; a new table gets its head. Floats are written with four digits."""
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(columns)
        writer.writerow([f"{value:.4f}" if isinstance(value, float) else value for value in row])
    print(*row, flush=True)
