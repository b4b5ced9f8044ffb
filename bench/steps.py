"""What a training costs: batches of like length against a plain Hugging Face loop, and the frozen prefix.

.venv/bin/python bench/steps.py padding --data FOLDER   FOLDER holds wnut17's train, dev and test files
.venv/bin/python bench/steps.py prefix --data FOLDER    … crossner/music's; --model smollm2_135m --layers top:6

Pairs are run in turn, in one process, on one thread. Tokens are real ones: subwords, without padding. Each time is
given twice, as it went by and as the processor worked, which is the same on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import transformers
import yaml
from machine import machine

from mistral_ner.config.check import check
from mistral_ner.config.schema import Config
from mistral_ner.metrics import entity_scores
from mistral_ner.train import fit
from mistral_ner.training.inputs.batches import ByLength
from mistral_ner.training.inputs.prepare import prepare

HERE = Path(__file__).parent


def main() -> None:
    """Measure one of the two and write ``results/steps_WHAT[_MODEL].json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("padding", "prefix"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--layers", default="top:2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=float, default=0.05, help="of all steps")
    parser.add_argument("--schedule", default="linear", help="training.lr_scheduler_type")
    parser.add_argument("--precision", default="auto", help="training.precision of ours; the plain loop has Trainer's")
    parser.add_argument("--targets", default="all-linear", help="model.lora_target_modules of padding")
    parser.add_argument("--dev", type=int, help="dev sentences, all of them if left out")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        figures = (padding if args.what == "padding" else prefix)(args, Path(folder))
    figures |= {"settings": {key: str(value) for key, value in vars(args).items() if key != "data"}, **machine()}
    name = "steps_padding" if args.what == "padding" else f"steps_prefix_{args.model}"
    name += "" if args.precision == "auto" else f"_{args.precision}"
    (HERE / "results" / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def config_of(args: argparse.Namespace, folder: Path, name: str, seed: int, **model: Any) -> Config:
    """Return the config of one run."""
    files = {f"{split}_file": str(next(args.data.glob(f"*{split}*"))) for split in ("train", "dev", "test")}
    named = yaml.safe_load((HERE.parent / f"conf/model/{args.model}.yaml").read_text())
    named.pop("defaults", None)
    if "smollm2" in args.model:
        named["model_name"] = str(Path("~/.cache/mistral_ner/models/smollm2-135m").expanduser())
    return check(
        {
            "output_dir": str(folder / name),
            "seed": seed,
            "model": {**named, **model},
            "data": {"source": "files", **files, "max_dev_sentences": args.dev, "cache_dir": str(folder / "cache")},
            "training": {
                "num_epochs": args.epochs,
                "reports": 1,
                "threads": 1,
                "per_device_train_batch_size": args.batch,
                "learning_rate": args.lr,
                "warmup_ratio": args.warmup,
                "lr_scheduler_type": args.schedule,
                "precision": getattr(args, "precision", "auto"),
            },
        }
    )


class Clock:
    """Seconds since it was made, as they went by and as this process worked."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self, kind: str) -> dict[str, float]:
        """Return both, named for ``kind``."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {f"{kind}_s": round(wall, 2), f"{kind}_cpu_s": round(cpu, 2)}


def timed(config: Config, kind: str) -> dict[str, float]:
    """Train; return seconds and dev F1."""
    clock = Clock()
    value = fit(config)
    return {**clock.read(kind), f"{kind}_f1": round(value, 4)}


def compared(rows: list[dict[str, Any]], every: int, one: str, other: str) -> dict[str, Any]:
    """Return tokens a second, the median ratio of the pairs, and F1, of runs of two kinds."""
    figures: dict[str, Any] = {"tokens": every}
    for kind in (one, other):
        scores = [row[f"{kind}_f1"] for row in rows]
        figures[f"tokens_per_s_{kind}"] = round(every / statistics.median(row[f"{kind}_s"] for row in rows))
        figures[f"f1_{kind}"] = round(statistics.mean(scores), 4)
        figures[f"f1_std_{kind}"] = round(statistics.stdev(scores), 4) if len(scores) > 1 else None
    for name, unit in (("ratio_median", "s"), ("ratio_median_cpu", "cpu_s")):
        figures[name] = round(statistics.median(row[f"{one}_{unit}"] / row[f"{other}_{unit}"] for row in rows), 2)
    return figures


def tokens(config: Config) -> int:
    """Return the real tokens that a run trains on and evaluates."""
    _, data = prepare(config)
    train, dev = (sum(len(row["input_ids"]) for row in rows) for rows in (data.train, data.dev))
    return round(train * config.training.num_epochs) + dev * config.training.reports


def padding(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One epoch of ours and of a plain Trainer loop, for each seed."""
    warm = config_of(args, folder, "warm", 99, lora_target_modules=args.targets)
    warm.training.num_epochs = 0.02
    fit(warm)  # loads the network
    rows = []
    for seed in range(args.seeds):
        config = config_of(args, folder, f"ours{seed}", seed, lora_target_modules=args.targets)
        rows.append({"seed": seed, **timed(config, "ours"), **plain_loop(config)})
        print(rows[-1], flush=True)
    return {**compared(rows, tokens(config), "plain", "ours"), **padded(config), "runs": rows}


def padded(config: Config) -> dict[str, float]:
    """Return the share of padding in the positions that one epoch computes: ours, and rows shuffled."""
    rows, size = prepare(config)[1].rows("train"), config.training.per_device_train_batch_size
    shuffled = np.random.default_rng(config.seed).permutation(len(rows))
    shares = {}
    for name, order in (("ours", [*ByLength(rows.lengths.tolist(), size, config.seed)]), ("shuffled", shuffled)):
        lengths = rows.lengths[order]
        positions = sum(
            int(lengths[at : at + size].max()) * len(lengths[at : at + size]) for at in range(0, len(rows), size)
        )
        shares[f"padding_share_{name}"] = round(1 - int(lengths.sum()) / positions, 3)
    return shares


def plain_loop(config: Config) -> dict[str, float]:
    """Train the same setting as the documentation of transformers does; return seconds (loading left out), dev F1."""
    from peft import LoraConfig, TaskType, get_peft_model

    tokenizer, data = prepare(config)
    training, model = config.training, config.model
    name = model.model_name
    if name.startswith("package:"):
        import importlib

        name = str(importlib.import_module(name.removeprefix("package:")).MODEL_DIR)
    transformers.set_seed(config.seed)
    network = transformers.AutoModelForTokenClassification.from_pretrained(name, num_labels=len(data.labels))
    lora = LoraConfig(
        task_type=TaskType.TOKEN_CLS,
        r=model.lora_r,
        lora_alpha=round(model.lora_alpha_ratio * model.lora_r),
        lora_dropout=model.lora_dropout,
        target_modules=["query", "value"]
        if model.lora_target_modules == "auto"
        else ["query", "key", "value", "dense"],
    )
    gold, lengths = data.gold("dev")

    def metrics(predictions: Any) -> dict[str, float]:
        tags = predictions.predictions.argmax(-1)
        firsts = [line[row["first_subwords"]] for line, row in zip(tags, data.dev, strict=True)]
        return {"f1": entity_scores(gold, np.concatenate(firsts), lengths, data.labels)["f1"]}

    columns = ["input_ids", "labels"]
    trainer = transformers.Trainer(
        model=get_peft_model(network, lora),
        args=transformers.TrainingArguments(
            output_dir=config.output_dir + "-plain",
            num_train_epochs=training.num_epochs,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.lr_scheduler_type,
            per_device_train_batch_size=training.per_device_train_batch_size,
            warmup_steps=round(
                training.warmup_ratio * len(data.train) * training.num_epochs / training.per_device_train_batch_size
            ),
            weight_decay=training.weight_decay,
            eval_strategy="epoch",
            save_strategy="epoch",
            report_to=[],
            seed=config.seed,
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=data.train.select_columns(columns),
        eval_dataset=data.dev.select_columns(columns),
        data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
        compute_metrics=metrics,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    clock = Clock()
    trainer.train()
    return {**clock.read("plain"), "plain_f1": round(float(trainer.state.log_history[-2]["eval_f1"]), 4)}


def prefix(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The same setting with the activations computed anew, and read from disk."""
    rows, first = [], None
    for seed in range(args.seeds):
        row: dict[str, Any] = {"seed": seed}
        for kind, wanted in (("anew", False), ("prefix", True)):
            config = config_of(args, folder, f"{kind}{seed}", seed, lora_layers=args.layers, frozen_prefix=wanted)
            if seed == 0:  # loads the network, computes the activations
                warm = config_of(args, folder, f"warm-{kind}", 99, lora_layers=args.layers, frozen_prefix=wanted)
                warm.training.num_epochs = 0.1
                seconds = timed(warm, kind)[f"{kind}_s"]
                first = seconds if wanted else first
            row |= timed(config, kind)
        rows.append(row)
        print(row, flush=True)
    disk = sum(path.stat().st_size for path in (folder / "cache/prefix").rglob("*.bin"))
    return {
        "layers": args.layers,
        **compared(rows, tokens(config), "anew", "prefix"),
        "first_run_with_computing_s": first,
        "disk_mb": round(disk / 1e6, 1),
        "runs": rows,
    }


if __name__ == "__main__":
    main()
