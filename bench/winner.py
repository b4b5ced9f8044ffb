"""The default config, the best single trial and the honest winner, each with its 95% interval on dev and on test.

.venv/bin/python bench/winner.py politics
.venv/bin/python bench/winner.py wnut17

Runs a real search (``python launch.py hyperopt=combined``) with its final trainings, then scores the search's best
trial as the search left it. Goes on where it was when it is started again with the same ``--work``. Writes
results/winner_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mistral_ner.hyperopt.results.bootstrap import distinguishable, interval, resample_f1
from mistral_ner.hyperopt.spec.plan import read_saved_config, trial_name
from mistral_ner.metrics import Score
from mistral_ner.training.evaluate import score

HERE = Path(__file__).parent
ROOT = HERE.parent
# Sizes of a laptop: the sentences, the search and the final trainings of each set.
SETS: dict[str, dict[str, Any]] = {
    "politics": {
        "files": {s: f"crossner/politics/{s}.txt" for s in ("train", "dev", "test")},
        "overrides": ["data.max_dev_sentences=200", "hyperopt.num_trials=12"],
    },
    "wnut17": {
        "files": {
            "train": "wnut17/wnut17train.conll",
            "dev": "wnut17/emerging.dev.conll",
            "test": "wnut17/emerging.test.annotated",
        },
        "overrides": ["data.max_train_sentences=500", "data.max_dev_sentences=200", "hyperopt.num_trials=8"],
    },
}
SHARED = [
    "model=minilm",
    "hyperopt.max_concurrent=1",
    "training.threads=1",
    "hyperopt.final.top_k=2",
    "hyperopt.final.seeds=2",
]


def main() -> None:
    """Search, score, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mistral_ner_winner")
    args = parser.parse_args()
    folder = args.work.absolute() / args.set
    search(args, folder)
    found = figures(folder)
    found["overrides"] = SHARED + SETS[args.set]["overrides"]
    (HERE / f"results/winner_{args.set}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def search(args: argparse.Namespace, folder: Path) -> None:
    """Run the search to its end, from where it is."""
    chosen = SETS[args.set]
    named = [f"data.{split}_file={(args.data / path).absolute()}" for split, path in chosen["files"].items()]
    where = [f"hyperopt.results_dir={folder.parent}", f"hyperopt.study_name={folder.name}"]
    again = [f"hyperopt.resume={str((folder / 'config.yaml').exists()).lower()}"]
    command = [sys.executable, "launch.py", "-m", "hyperopt=combined", "data=files"]
    subprocess.run([*command, *named, *where, *again, *SHARED, *chosen["overrides"]], cwd=ROOT, check=True)


def figures(folder: Path) -> dict[str, Any]:
    """Return the three rows of the table."""
    summary = json.loads((folder / "summary.json").read_text())
    final = summary["final"]
    winner, default = final["settings"][0], next(r for r in final["settings"] if r["default"])
    best = summary["best_trial"]
    again = next((r for r in final["settings"] if r["trial"] == best), None)
    rows = {
        "default config": _trained_again(default),
        "best single trial": {
            "trial": best,
            "search_value": summary["best_value"],
            **_scored(folder, best),
            "mean_when_trained_again": again["dev_mean"] if again else None,
        },
        "honest winner": {"trial": winner["trial"], "search_value": winner["search_value"], **_trained_again(winner)},
    }
    every = ("dev", "dev_mean", "dev_std", "distinguishable")
    return {
        "rows": rows,
        "settings": [
            {"trial": r["trial"], "default": r["default"], **{k: r[k] for k in every}} for r in final["settings"]
        ],
        "winner_less_default_on_test": _difference(folder, final),
        "seeds": final["seeds"],
        "trials": {state: summary[f"n_{state}"] for state in ("complete", "pruned", "failed")},
        "reports": [summary["reports_run"], summary["reports_full"]],
    }


def _trained_again(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("dev_f1", "dev_f1_interval", "test_f1", "test_f1_interval")}


def _scored(folder: Path, trial: int) -> dict[str, Any]:
    """Score a trial of the search as it is."""
    row: dict[str, Any] = {}
    for split in ("dev", "test"):
        found = _score(folder / trial_name(trial), split)
        row[f"{split}_f1"] = found.metrics["f1"]
        row[f"{split}_f1_interval"] = interval(resample_f1([found.counts]))
    return row


def _difference(folder: Path, final: dict[str, Any]) -> dict[str, Any]:
    """The paired bootstrap of the winner less the default config on the test split, both as means over seeds."""
    default = next(r for r in final["settings"] if r["default"])
    counts = []
    for result in (final["settings"][0], default):
        counts.append([_score(run, "test").counts for run in _folders(folder, result)])
    difference = resample_f1(counts[0]) - resample_f1(counts[1])
    return {
        "mean": float(difference.mean()),
        "interval": interval(difference),
        "distinguishable": distinguishable(*counts),
    }


def _folders(folder: Path, result: dict[str, Any]) -> list[Path]:
    """Return the folders of a result's trainings; the first may be the trial itself."""
    name = "default" if result["trial"] is None else trial_name(result["trial"])
    again = [folder / "final/candidates" / f"{name}_seed_{seed}" for seed in result["dev"]]
    return [run if run.is_dir() else folder / name for run in again]


def _score(folder: Path, split: str) -> Score:
    found = score(read_saved_config(folder / "config.yaml"), folder / "adapter", split)
    assert found is not None
    return found


if __name__ == "__main__":
    main()
