"""Learning curves of random settings of a search space, each trained in full by ``fit``.

.venv/bin/python bench/record_curves.py sample --settings 30
.venv/bin/python bench/record_curves.py music --settings 30

Writes one line a setting to bench/results/signals_NAME.csv: its values, then dev F1, dev loss and training loss at each
report. Continues where it stopped; settings follow from the seed alone, so several processes may share the work
(--part 0/2, --part 1/2). The tables curves_NAME.csv were recorded before the losses were, and hold F1 alone.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
from pathlib import Path
from typing import Any

import optuna
import yaml
from tables import read_rows

from mistral_ner.hyperopt.spec.parse import parse
from mistral_ner.hyperopt.spec.space import SearchSpace
from mistral_ner.train import fit

HERE = Path(__file__).parent
ROOT = HERE.parent
DATA = ROOT.parent / "shared/data/crossner"
REPORTS = 9
# columns of a table, before the number of the report, and the metrics that they hold
RECORDED = {"f1": "eval_f1", "eval_loss": "eval_loss", "train_loss": "train_loss"}


def main() -> None:
    """Train the settings that are not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["sample", "music", "politics", "science", "ai", "literature"])
    parser.add_argument("--settings", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--space", default="lora")
    args = parser.parse_args()
    part, parts = map(int, args.part.split("/"))

    space = load_space(args.space)
    table = HERE / "results" / f"signals_{args.data}{f'_{part}of{parts}' if parts > 1 else ''}.csv"
    done = {int(row["setting"]) for row in read_rows(table)}
    for number, values in enumerate(settings(space, args.settings, args.seed)):
        if number not in done and number % parts == part:
            append(table, space, number, values, curve(args.data, space.by_path(values)))


def load_space(name: str) -> SearchSpace:
    """Return a space from ``conf/search_space/`` that has no defaults list."""
    space, faults = parse(yaml.safe_load((ROOT / "conf/search_space" / f"{name}.yaml").read_text()))
    assert not faults, faults
    return space


def settings(space: SearchSpace, count: int, seed: int) -> list[dict[str, Any]]:
    """Return ``count`` random settings, the same for the same seed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(count)]


def curve(data: str, by_path: dict[str, Any]) -> dict[str, list[float]]:
    """Train one setting of ``minilm`` on one thread and return its values by column and report."""
    with tempfile.TemporaryDirectory() as folder:
        config: dict[str, Any] = {"output_dir": f"{folder}/run", "training": {"reports": REPORTS, "threads": 1}}
        if data != "sample":
            config["data"] = {
                "source": "files",
                **{f"{split}_file": str(DATA / data / f"{split}.txt") for split in ("train", "dev", "test")},
                "max_dev_sentences": 100,
            }
        for path, value in by_path.items():
            group, key = path.split(".")
            config.setdefault(group, {})[key] = value
        values: dict[str, list[float]] = {name: [] for name in RECORDED}

        def record(_: int, metrics: dict[str, float]) -> None:
            for name, key in RECORDED.items():
                values[name].append(metrics[key])

        fit(config, record)
        shutil.rmtree(f"{folder}/run")
    return values


def append(
    table: Path, space: SearchSpace, number: int, values: dict[str, Any], recorded: dict[str, list[float]]
) -> None:
    """Add a line, and the head to a new table."""
    names = [parameter.name for parameter in space]
    new = not table.exists()
    table.parent.mkdir(exist_ok=True)
    with table.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(["setting", *names, *(f"{name}_{k}" for name in RECORDED for k in range(1, REPORTS + 1))])
        shown = [f"{values[name]:.6g}" if isinstance(values[name], float) else values[name] for name in names]
        writer.writerow([number, *shown, *(f"{value:.4f}" for name in RECORDED for value in recorded[name])])
    print(number, values, max(recorded["f1"]), flush=True)


if __name__ == "__main__":
    main()
