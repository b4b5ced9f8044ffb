"""How long OpenMP's threads should spin before they sleep: one training alone, and two at once on the same cores.

.venv/bin/python bench/spin.py [--data FOLDER]   FOLDER holds crossner/music's train, dev and test files

Each training is a process of its own, and its seconds are those of ``fit``, as they went by. GOMP_SPINCOUNT=0 is
OMP_WAIT_POLICY=PASSIVE by itself, 1000 is what ``mistral_ner/__init__.py`` sets, 300000 what OpenMP does if nobody says
anything. Writes results/spin.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).parent
SIDES = {"one thread": (1, 1000), **{f"two threads, {spins} spins": (2, spins) for spins in (0, 1000, 10000, 300000)}}
AT_ONCE = ("one thread", "two threads, 0 spins", "two threads, 1000 spins", "two threads, 10000 spins")


def main() -> None:
    """Measure and write the figures, or train once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="left out, the sample is trained on")
    parser.add_argument("--steps", type=int, default=75)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        print(train(args))
        return
    alone: dict[str, list[float]] = {side: [] for side in SIDES}
    together: dict[str, list[float]] = {side: [] for side in AT_ONCE}
    for _ in range(args.times):
        for side in SIDES:
            alone[side] += run(args, *SIDES[side], count=1)
        for side in AT_ONCE:
            together[side].append(max(run(args, *SIDES[side], count=2)))
        print(alone, together, flush=True)
    figures = {
        "machine": machine(),
        "steps": args.steps,
        "alone_s": {side: {"median": statistics.median(found), "all": found} for side, found in alone.items()},
        "two_at_once_s": {side: {"median": statistics.median(found), "all": found} for side, found in together.items()},
    }
    (HERE / "results/spin.json").write_text(json.dumps(figures, indent=2) + "\n")


def run(args: argparse.Namespace, threads: int, spins: int, count: int) -> list[float]:
    """Start as many trainings side by side; return the seconds of each."""
    command = [sys.executable, __file__, f"--threads={threads}", f"--steps={args.steps}"]
    command += [f"--data={args.data}"] if args.data else []
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(spins)}
    started = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [float(one.communicate()[0].split()[-1]) for one in started]


def train(args: argparse.Namespace) -> float:
    """Train the default model once; return the seconds."""
    from mistral_ner.train import fit

    with tempfile.TemporaryDirectory() as folder:
        training = {"min_steps": args.steps, "min_epochs": 0.1, "reports": 1, "threads": args.threads}
        config: dict[str, Any] = {"output_dir": f"{folder}/run", "training": training}
        if args.data:
            named = {f"{split}_file": str(args.data / f"{split}.txt") for split in ("train", "dev", "test")}
            config["data"] = {"source": "files", **named, "max_dev_sentences": 50}
        began = time.perf_counter()
        fit(config)
        return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
