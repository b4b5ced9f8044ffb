"""Dev F1 of single trainings: the default config beside other recipes, on eight sets, with three seeds each.

.venv/bin/python bench/recipe.py
.venv/bin/python bench/recipe.py --recipes default steps_600 --sets music wnut17_500

Trains ``minilm`` on one thread. Each training is a line of results/recipe.csv; those that are there already are not
trained again. Prints the mean and the worst seed of every set and recipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tables import append_row, read_rows

from mistral_ner.train import fit

HERE = Path(__file__).parent
TABLE = HERE / "results/recipe.csv"
COLUMNS = ("set", "recipe", "seed", "dev_f1", "steps", "seconds")
DOMAINS = ("ai", "literature", "music", "politics", "science")
WNUT = {
    "train_file": "wnut17/wnut17train.conll",
    "dev_file": "wnut17/emerging.dev.conll",
    "test_file": "wnut17/emerging.test.annotated",
}
# What is read of each set; dev is cut so that scoring does not take longer than training.
SETS: dict[str, dict[str, Any]] = {
    "sample": {},
    **{
        name: {
            **{f"{split}_file": f"crossner/{name}/{split}.txt" for split in ("train", "dev", "test")},
            "max_dev_sentences": 200,
        }
        for name in DOMAINS
    },
    "wnut17_500": {**WNUT, "max_train_sentences": 500, "max_dev_sentences": 200},
    "wnut17": {**WNUT, "max_dev_sentences": 200},
}
# What differs from the default config. "before" is the default of the first releases.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "before": {
        "model": {"lora_target_modules": "auto"},
        "training": {"learning_rate": 2e-3, "num_epochs": 4, "per_device_train_batch_size": 8},
    },
    "batch_8_steps_300": {"training": {"per_device_train_batch_size": 8, "min_steps": 300}},
    "batch_8_steps_600": {"training": {"per_device_train_batch_size": 8, "min_steps": 600}},
    "steps_600": {"training": {"min_steps": 600}},
    "rate_2e-3_steps_600": {"training": {"learning_rate": 2e-3, "min_steps": 600}},
    "head_5": {"training": {"head_lr_ratio": 5.0}},
    "focal_2": {"training": {"focal_gamma": 2.0}},
    "no_dropout": {"model": {"lora_dropout": 0.0}},
    "all_subwords": {"data": {"label_all_subwords": True}},
    "rate_5e-4_steps_600": {"training": {"learning_rate": 5e-4, "min_steps": 600}},
}


def main() -> None:
    """Train what the table lacks and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["default", "before"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args = parser.parse_args()
    done = {(row["set"], row["recipe"], int(row["seed"])) for row in read_rows(TABLE)}
    for recipe in args.recipes:
        for seed in args.seeds:
            for name in args.sets:
                if (name, recipe, seed) not in done:
                    append_row(TABLE, COLUMNS, [name, recipe, seed, *train(args.data, name, recipe, seed)])
    print_table()


def train(data: Path, name: str, recipe: str, seed: int) -> list[float]:
    """Train once; return the best report's dev F1, the optimiser steps and the seconds of wall time."""
    read = files_of(data, name)
    with tempfile.TemporaryDirectory() as folder:
        config: dict[str, Any] = {"output_dir": f"{folder}/run", "seed": seed, **RECIPES[recipe]}
        config["training"] = {**config.get("training", {}), "threads": 1}
        if read:
            config["data"] = {**config.get("data", {}), "source": "files", **read}
        begun = time.monotonic()
        best = fit(config)
        seconds = time.monotonic() - begun
        last = json.loads(Path(folder, "run/result.json").read_text().splitlines()[-1])
    return [best, last["step"], seconds]


def files_of(data: Path, name: str) -> dict[str, Any]:
    """Return the keys of ``data`` for a set; {} is the sample."""
    return {
        key: str((data / value).absolute()) if key.endswith("_file") else value for key, value in SETS[name].items()
    }


def print_table() -> None:
    """Print the mean over seeds and the worst seed of every set and recipe."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in read_rows(TABLE):
        found.setdefault((row["set"], row["recipe"]), []).append(float(row["dev_f1"]))
    for (name, recipe), values in found.items():
        print(f"{name:12} {recipe:20} mean {statistics.mean(values):.3f}  worst {min(values):.3f}  seeds {len(values)}")


if __name__ == "__main__":
    main()
