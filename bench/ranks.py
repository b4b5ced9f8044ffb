"""One training in one process against the same training in two, on a CPU.

.venv/bin/python bench/ranks.py --data FOLDER   FOLDER holds crossner/music's train, dev and test files

In turn: one process with one thread, one with two threads, two with one thread each. The batch is the same. Seconds are
those of the whole training as they went by, the start of the second process included. Writes results/ranks.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine

from mistral_ner.train import fit

HERE = Path(__file__).parent
SIDES = {"one_thread": (1, 1), "two_threads": (1, 2), "two_processes": (2, 2)}  # processes, threads of all


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.pairs):
            for side, (processes, threads) in SIDES.items():
                torch.set_num_threads(threads)
                began = time.perf_counter()
                fit(settings(args, Path(folder, f"{side}_{turn}"), processes, threads))
                seconds[side].append(round(time.perf_counter() - began, 2))
                print(side, seconds[side][-1], flush=True)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    figures = {
        "machine": machine(),
        "steps": args.steps,
        "batch": args.batch,
        "seconds": seconds,
        "two_processes_to_one": round(medians["two_processes"] / medians["one_thread"], 3),
        "two_processes_to_two_threads": round(medians["two_processes"] / medians["two_threads"], 3),
    }
    print(json.dumps(figures, indent=2))
    (HERE / "results/ranks.json").write_text(json.dumps(figures, indent=2) + "\n")


def settings(args: argparse.Namespace, folder: Path, processes: int, threads: int) -> dict[str, Any]:
    """Return the config of one side."""
    files = {f"{split}_file": str(args.data / f"{split}.txt") for split in ("train", "dev")}
    return {
        "output_dir": str(folder),
        "data": {"source": "files", **files, "max_dev_sentences": 100},
        "training": {
            "per_device_train_batch_size": args.batch,
            "min_steps": args.steps,
            "max_epochs": 1000,
            "reports": 3,
            "threads": threads,
            "processes": processes,
        },
    }


if __name__ == "__main__":
    main()
