"""SmolLM2-135M on CrossNER AI: the causal mask kept against the causal mask removed, all else equal.

make smollm2 && .venv/bin/python bench/causal_vs_bidirectional.py

Writes learning curves to bench/results/causal_vs_bidirectional.json; continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from mistral_ner.train import fit

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("MISTRAL_NER_CACHE", "~/.cache/mistral_ner")).expanduser()


def main() -> None:
    """Train both settings and write their curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data/crossner/ai")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dev-sentences", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "causal_vs_bidirectional")
    args = parser.parse_args()

    curves = {}
    for bidirectional in (False, True):
        name = "bidirectional" if bidirectional else "causal"
        folder = args.work / f"{name}-{args.learning_rate:g}-{args.epochs}"
        fit(
            config(args, folder, bidirectional),
            lambda number, m, name=name: print(name, number, m["eval_f1"], flush=True),
        )
        curves[name] = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
        write(args, curves)


def config(args: argparse.Namespace, folder: Path, bidirectional: bool) -> dict[str, object]:
    """One report an epoch, LoRA r=16 on all linear layers, batch 8, seed 42."""
    return {
        "output_dir": str(folder),
        "model": {"model_name": str(CACHE / "models/smollm2-135m"), "bidirectional": bidirectional, "lora_r": 16},
        "data": {
            "source": "files",
            "train_file": str(args.data / "train.txt"),
            "dev_file": str(args.data / "dev.txt"),
            "test_file": str(args.data / "test.txt"),
            "max_dev_sentences": args.dev_sentences,
            "cache_dir": str(CACHE),
        },
        "training": {
            "learning_rate": args.learning_rate,
            "num_epochs": args.epochs,
            "reports": args.epochs,
            "threads": args.threads,
        },
    }


def write(args: argparse.Namespace, curves: dict[str, list[dict[str, float]]]) -> None:
    """Write what is compared, with which settings."""
    keys = ("report", "step", "eval_f1", "eval_precision", "eval_recall", "eval_loss", "train_loss", "time_s")
    result = {
        "what": "SmolLM2-135M (Mistral architecture), CrossNER AI, LoRA r=16 on all linear layers, batch 8, one seed",
        "learning_rate": args.learning_rate,
        "dev_sentences": args.dev_sentences,
        "curves": {name: [{key: row[key] for key in keys} for row in rows] for name, rows in curves.items()},
    }
    (HERE / "results" / "causal_vs_bidirectional.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
