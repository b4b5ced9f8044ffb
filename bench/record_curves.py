"""Learning curves of random settings of a search space, each trained in full by ``fit``.

.venv/bin/python bench/record_curves.py sample --settings 20
.venv/bin/python bench/record_curves.py music --settings 150

Writes one line a setting to bench/results/curves_NAME.csv: its values and the metric at each report. Continues where it
stopped; settings follow from the seed alone, so several processes may share the work (--part 0/2, --part 1/2).
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

from mistral_ner.hyperopt.search_space import SearchSpace, parse
from mistral_ner.train import fit

HERE = Path(__file__).parent
ROOT = HERE.parent
DATA = ROOT.parent / "shared/data/crossner"
REPORTS = 9


def main() -> None:
    """Train the settings that are not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["sample", "music"])
    parser.add_argument("--settings", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--space", default="lora")
    args = parser.parse_args()
    part, parts = map(int, args.part.split("/"))

    space = load_space(args.space)
    table = HERE / "results" / f"curves_{args.data}{f'_{part}of{parts}' if parts > 1 else ''}.csv"
    done = {int(row["setting"]) for row in csv.DictReader(table.open())} if table.exists() else set()
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


def curve(data: str, by_path: dict[str, Any]) -> list[float]:
    """Train one setting of ``minilm`` on one thread and return dev F1 at each report."""
    with tempfile.TemporaryDirectory() as folder:
        config: dict[str, Any] = {"output_dir": f"{folder}/run", "training": {"reports": REPORTS, "threads": 1}}
        if data == "music":
            config["data"] = {
                "source": "files",
                **{f"{split}_file": str(DATA / "music" / f"{split}.txt") for split in ("train", "dev", "test")},
                "max_dev_sentences": 100,
            }
        for path, value in by_path.items():
            group, key = path.split(".")
            config.setdefault(group, {})[key] = value
        scores: list[float] = []
        fit(config, lambda _, metrics: scores.append(metrics["eval_f1"]))
        shutil.rmtree(f"{folder}/run")
    return scores


def append(table: Path, space: SearchSpace, number: int, values: dict[str, Any], scores: list[float]) -> None:
    """Add a line, and the head to a new table."""
    names = [parameter.name for parameter in space]
    new = not table.exists()
    table.parent.mkdir(exist_ok=True)
    with table.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(["setting", *names, *(f"f1_{k}" for k in range(1, REPORTS + 1))])
        shown = [f"{values[name]:.6g}" if isinstance(values[name], float) else values[name] for name in names]
        writer.writerow([number, *shown, *(f"{score:.4f}" for score in scores)])
    print(number, values, max(scores), flush=True)


if __name__ == "__main__":
    main()
