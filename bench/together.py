"""Trials in one pass against the same trials in turn, on a CPU.

.venv/bin/python bench/together.py --data FOLDER   FOLDER holds crossner/music's train, dev and test files

Both sides in one process, in turns, after a warm-up: ``fit`` of each of k settings one after the other, and
``fit_together`` of all k. The settings differ in learning rate, rank and batch size, as in `search_space=lora`. Seconds
are those of the whole trainings, two evaluations of dev included, as they went by and as the processor worked. Appends
to results/together.json unless ``--try``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from machine import machine

from mistral_ner.train import fit
from mistral_ner.training.fit import fit_together

HERE = Path(__file__).parent


def main() -> None:
    """Measure every k and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--k", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--dev", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--same", action="store_true", help="one batch size")
    parser.add_argument("--try", action="store_true", dest="trying")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        fit(settings(args, Path(folder), "warm", 0))
        for k in args.k:
            pairs = [measure(args, Path(folder), k, pair) for pair in range(args.pairs)]
            rows.append({"k": k, **{name: statistics.median(one[name] for one in pairs) for name in pairs[0]}})
            print(rows[-1], flush=True)
    figures = {"settings": {key: str(value) for key, value in vars(args).items() if key != "data"}, "rows": rows}
    print(json.dumps(figures | {"machine": machine()}, indent=2))
    if not args.trying:
        path = HERE / "results/together.json"
        before = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([*before, figures | {"machine": machine()}], indent=2) + "\n")


def measure(args: argparse.Namespace, folder: Path, k: int, pair: int) -> dict[str, float]:
    """Return the seconds of both sides, the second first in every other pair, and how many times faster a pass is."""

    def configs(side: str) -> list[dict[str, Any]]:
        return [settings(args, folder, f"{side}_{k}_{pair}_{number}", number) for number in range(k)]

    sides: dict[str, Callable[[], Any]] = {
        "in_turn": lambda: [fit(one) for one in configs("alone")],
        "together": lambda: fit_together(configs("together")),
    }
    found: dict[str, float] = {}
    for side in sorted(sides, reverse=bool(pair % 2)):
        wall, cpu = time.perf_counter(), time.process_time()
        sides[side]()
        found[f"{side}_s"], found[f"{side}_cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
    found["ratio"] = found["in_turn_s"] / found["together_s"]
    found["cpu_ratio"] = found["in_turn_cpu_s"] / found["together_cpu_s"]
    return {name: round(value, 3) for name, value in found.items()}


def settings(args: argparse.Namespace, folder: Path, name: str, number: int) -> dict[str, Any]:
    """Return the config of setting ``number``."""
    files = {f"{split}_file": str(next(args.data.glob(f"*{split}*"))) for split in ("train", "dev", "test")}
    model = yaml.safe_load((HERE.parent / f"conf/model/{args.model}.yaml").read_text())
    model.pop("defaults", None)
    return {
        "output_dir": str(folder / name),
        "model": {**model, "lora_r": (4, 8, 16, 32)[number % 4]},
        "data": {"source": "files", **files, "max_dev_sentences": args.dev, "cache_dir": str(folder / "cache")},
        "training": {
            "min_steps": args.steps,
            "min_epochs": 0.01,
            "max_epochs": 1000,
            "reports": 2,
            "per_device_train_batch_size": 4 if args.same else (4, 8)[number % 2],
            "threads": args.threads,
            "learning_rate": 5e-4 * (1 + number),
            "precision": "fp32",
        },
    }


if __name__ == "__main__":
    main()
