"""Whether a process that trains again and again grows.

.venv/bin/python bench/memory.py --data FOLDER   FOLDER holds crossner/music's train, dev and test files

Short trainings of `minilm` in one process, one after the other, each with its own settings: resident memory after each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import transformers
from machine import machine
from steps import config_of

from mistral_ner.train import fit

HERE = Path(__file__).parent


def main() -> None:
    """Measure and write ``results/memory.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trainings", type=int, default=100)
    args = parser.parse_args()
    vars(args).update(model="minilm", epochs=0.2, lr=5e-3, warmup=0.05, schedule="linear", dev=10)
    transformers.logging.set_verbosity_error()
    sizes, begun = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.trainings):
            args.batch = (4, 8, 16)[number % 3]
            fit(config_of(args, Path(folder), str(number), number, lora_r=(4, 8, 16, 32)[number % 4]))
            sizes.append(resident_mb())
    figures = {
        "trainings": len(sizes),
        "seconds": round(time.monotonic() - begun, 1),
        "mb_after_the_tenth": sizes[min(9, len(sizes) - 1)],
        "mb_after_the_last": sizes[-1],
        "growth_percent": round(100 * (sizes[-1] / sizes[min(9, len(sizes) - 1)] - 1), 2),
        "mb": sizes,
        **machine(),
    }
    (HERE / "results" / "memory.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if key != "mb"}, indent=2))


def resident_mb() -> float:
    """Return this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


if __name__ == "__main__":
    main()
