"""What each technique brings to a training: the same training with that technique alone switched off.

.venv/bin/python bench/ablation.py --data FOLDER   FOLDER holds crossner/music's train, dev and test files

`minilm` on one thread in one warm process, with and without in turn; ratios are medians of the pairs. There are no keys
for most of this, so that the script puts what a plain Trainer would do in the place of each part.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import transformers
from machine import machine
from steps import Clock, config_of

from mistral_ner.model import forget_base
from mistral_ner.training import evaluate, fit, trainer
from mistral_ner.training.inputs.prepare import forget_prepared

HERE = Path(__file__).parent


def by_sentences(rows: Any, _: int) -> Iterator[list[int]]:
    """Yield batches of eight rows in their order, as Trainer evaluates unless told otherwise."""
    for start in range(0, len(rows), 8):
        yield list(range(start, min(start + 8, len(rows))))


@contextlib.contextmanager
def whole_collections() -> Iterator[None]:
    """Collect garbage among all objects."""
    try:
        yield
    finally:
        gc.collect()


@contextlib.contextmanager
def torchs_own(*_: Any) -> Iterator[None]:
    """Leave it to torch."""
    yield


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Load the base model and the encoded data again."""
    forget_base()
    forget_prepared()
    yield


WITHOUT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "batches of like length": lambda: plain_trainer("get_train_dataloader"),
    "evaluation by tokens": lambda: patch.object(evaluate, "batches_by_tokens", by_sentences),
    "base model and data kept": forgotten,
    "light checkpoints": lambda: plain_trainer("save_model"),
    "light collections": lambda: patch.object(fit, "light_collections", whole_collections),
    "quick dropout": lambda: patch.object(fit, "quick_dropout", torchs_own),
    "attention by plain products": lambda: patch.object(fit, "quick_attention", torchs_own),
    "bf16 where there are units for it": lambda: in_fp32(),
}


def plain_trainer(method: str) -> AbstractContextManager[Any]:
    """Let a method be Trainer's own."""
    return patch.object(trainer.NerTrainer, method, getattr(transformers.Trainer, method))


def in_fp32() -> AbstractContextManager[Any]:
    """Compute in float32."""
    return patch.object(fit, "precision", lambda _: "fp32")


def main() -> None:
    """Measure and write ``results/ablation.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the folder of the training of a new process
    args = parser.parse_args()
    vars(args).update(model="minilm", epochs=2, batch=8, lr=5e-3, warmup=0.05, schedule="linear", dev=50)
    transformers.logging.set_verbosity_error()
    if args.one:
        run(args, Path(args.one), "run")
        return
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(args, Path(temporary))
    figures = {"techniques": rows, **machine()}
    (HERE / "results" / "ablation.json").write_text(json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each technique."""
    run(args, folder, "warm")
    rows = [pairs(args, folder, name, {}, {}, without) for name, without in WITHOUT.items()]
    with in_fp32():
        by_mkl = functools.partial(patch.object, fit, "wide_products", contextlib.nullcontext)
        rows.append(pairs(args, folder, "products by oneDNN (of precision=fp32)", {}, {}, by_mkl))
    run(args, folder, "warm-prefix", lora_layers="top:2")
    upper = {"lora_layers": "top:2"}
    off = {**upper, "frozen_prefix": False}
    rows.append(pairs(args, folder, "frozen prefix (of lora_layers=top:2)", upper, off, contextlib.nullcontext))
    rows.append(process(args, folder))
    return rows


def run(args: argparse.Namespace, folder: Path, name: str, **model: Any) -> dict[str, float]:
    """Train once, with five reports; return its seconds."""
    config = config_of(args, folder, name, 1, **model)
    config.training.reports = 5
    clock = Clock()
    fit.fit(config)
    return clock.read("run")


def pairs(
    args: argparse.Namespace,
    folder: Path,
    name: str,
    on: dict[str, Any],
    off: dict[str, Any],
    without: Callable[[], AbstractContextManager[Any]],
) -> dict[str, Any]:
    """Run with and without in turn."""
    one, other = [], []
    for number in range(args.pairs):
        one.append(run(args, folder, f"{name}-{number}-on", **on))
        with without():
            other.append(run(args, folder, f"{name}-{number}-off", **off))
    return compared(name, one, other)


def process(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run in this process and in a new one in turn."""
    one, other = [], []
    for number in range(args.pairs):
        one.append(run(args, folder, f"process-{number}"))
        before, clock = os.times(), Clock()
        new = ["--data", str(args.data), "--one", str(folder / f"new-{number}")]
        subprocess.run([sys.executable, __file__, *new], check=True)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        other.append({**clock.read("run"), "run_cpu_s": round(cpu, 2)})
    return compared("a process for many trainings", one, other)


def compared(name: str, one: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, Any]:
    """Return the row of a technique: seconds with and without it, and the medians of the pairs' ratios."""
    row: dict[str, Any] = {"technique": name}
    for unit in ("s", "cpu_s"):
        with_it, without = ([run[f"run_{unit}"] for run in runs] for runs in (one, other))
        row |= {f"with_{unit}": with_it, f"without_{unit}": without}
        ratios = [more / less for less, more in zip(with_it, without, strict=True)]
        row["ratio" if unit == "s" else "ratio_cpu"] = round(statistics.median(ratios), 3)
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
