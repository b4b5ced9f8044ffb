"""Checks a composed config against the schema: every fault at once, each with its fix."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mistral_ner import files
from mistral_ner.config.data_keys import find_data_faults
from mistral_ner.config.mirror import name_mirror
from mistral_ner.config.schema import Config, ModelConfig
from mistral_ner.config.values import build
from mistral_ner.errors import ConfigError as ConfigError
from mistral_ner.errors import Fault as Fault
from mistral_ner.errors import UserError as UserError
from mistral_ner.errors import nearest as nearest


def check(cfg: DictConfig | Mapping[str, Any] | Config, typed: bool = False) -> Config:
    """Return ``cfg`` as a :class:`Config` with absolute paths.

    Args:
        cfg: a config.
        typed: it was typed for this run, so that a key of ``data`` that does nothing is a fault. A config that an
            earlier version has saved may have such keys.

    Raises:
        ConfigError: names every fault of the config.
    """
    config, faults = read(cfg, typed)
    if faults or config is None:
        raise ConfigError(faults)
    return config


def read(cfg: DictConfig | Mapping[str, Any] | Config, typed: bool = False) -> tuple[Config | None, list[Fault]]:
    """Return the config, with defaults in place of broken values, and its faults; None if it cannot be built at all."""
    faults: list[Fault] = []
    try:
        container = _plain(dataclasses.asdict(cfg) if isinstance(cfg, Config) else cfg)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "config")
        return None, [Fault(key, str(error).splitlines()[0], f"{key}=VALUE, or mend the ${{...}} there")]
    config = build(Config, _as_it_was(container), "", faults)
    if config is not None:
        faults += name_mirror(config.hyperopt)
        faults += _cross_key_faults(config)
        faults += find_data_faults(config.data) if typed else []
        absolute_paths(config)
    return config, faults


def _as_it_was(container: Any) -> Any:
    """Return a config that an earlier version saved with what that version did in the place of keys that came since.

    It holds the whole group ``model`` of its time, where a person's own parts hold what they change.
    """
    model = container.get("model") if isinstance(container, Mapping) else None
    if isinstance(model, Mapping) and model.keys() >= _ALWAYS_SAVED and "decoding" not in model:
        return {**container, "model": {**model, "decoding": "argmax"}}
    return container


# keys of model that every version saved
_ALWAYS_SAVED = {"model_name", "random_init", "dtype", "quantization", "lora_r", "lora_alpha", "lora_target_modules"}


def _plain(values: Any) -> Any:
    """Return composed values resolved and plain ones unchanged, in which ``${...}`` is text.

    Values that a search may try are never resolved: ``${oc.env:HOME}`` would bring in the environment.
    """
    if isinstance(values, DictConfig):
        rest: DictConfig = copy.deepcopy(values)
        OmegaConf.set_struct(rest, False)
        OmegaConf.set_readonly(rest, False)
        data = {key: _take_out(rest, key) for key in ("search_space", "hyperopt.search_space", "hyperopt.enqueue")}
        plain: Any = OmegaConf.to_container(rest, resolve=True)
        for key, value in data.items():
            group, _, name = key.rpartition(".")
            if value is not None:
                (plain[group] if group else plain)[name] = value
        return plain
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values


def named_by_time(cfg: Any) -> bool:
    """Tell whether nobody has chosen the study's name: it is made of the time of day."""
    hyperopt = cfg.get("hyperopt") if isinstance(cfg, DictConfig) else None
    if not isinstance(hyperopt, DictConfig) or "study_name" not in hyperopt:
        return False
    return "${now:" in str(OmegaConf.to_container(hyperopt, resolve=False)["study_name"])  # type: ignore[index,call-overload]


def _take_out(config: DictConfig, key: str) -> Any:
    """Remove the node at ``key`` from ``config`` and return it unresolved; None if it is missing or interpolated."""
    node = OmegaConf.select(config, key, throw_on_missing=False)
    group, _, name = key.rpartition(".")
    parent = OmegaConf.select(config, group) if group else config
    if not OmegaConf.is_config(node) or OmegaConf.is_interpolation(parent, name):
        return None
    del parent[name]
    return OmegaConf.to_container(node, resolve=False)


def _cross_key_faults(config: Config) -> list[Fault]:
    """Return the faults that show only when several keys are compared."""
    faults: list[Fault] = []
    data, model = config.data, config.model
    if data.source == "files" and not data.train_file:
        faults.append(Fault("data.train_file", "data=files needs a training file", "data.train_file=PATH"))
    if data.token_column is not None and data.token_column == data.tag_column:
        rule = f"must be another column than data.token_column, found {data.tag_column} for both: tags would be words"
        words = 1 if data.tag_column == "0" else 0
        fix = f"data.token_column={words} data.tag_column={data.tag_column}"
        faults.append(Fault("data.tag_column", rule, fix))
    if not is_encoding(data.encoding):
        rule = f"must be an encoding that Python knows, found {data.encoding!r}"
        faults.append(Fault("data.encoding", rule, "data.encoding=utf-8"))
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
    if training.num_epochs is None and training.min_epochs > training.max_epochs:
        rule = f"must be at most training.max_epochs={training.max_epochs:g}, found {training.min_epochs:g}"
        faults.append(Fault("training.min_epochs", rule, f"training.min_epochs={training.max_epochs:g}"))
    warm = config.hyperopt.warm_start
    named = warm if isinstance(warm, list) else [warm]
    if warm is not None and not all(isinstance(one, str | int) and not isinstance(one, bool) for one in named):
        rule = f"must be an earlier study's name or folder, or a list of them, found {warm!r}"
        faults.append(Fault("hyperopt.warm_start", rule, "hyperopt.warm_start=NAME, or hyperopt.warm_start=[A,B]"))
    if config.hyperopt.enabled and config.hyperopt.strategy == "none":
        faults.append(Fault("hyperopt.enabled", "true needs a strategy, found none", "hyperopt=combined"))
    if config.hyperopt.dry_run and config.hyperopt.strategy == "none":
        rule = "true prints the plan of a search, and hyperopt=none is a plain training"
        faults.append(Fault("hyperopt.dry_run", rule, "hyperopt=combined, or hyperopt.dry_run=false"))
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
        rule = "true needs layers that LoRA does not change, found model.lora_layers=all"
        faults.append(Fault("model.frozen_prefix", rule, "model.lora_layers=top:2, or model.frozen_prefix=null"))
    if model.frozen_prefix and model.resize_embeddings:
        rule = "true keeps activations that never change, and model.resize_embeddings=true trains below them"
        faults.append(Fault("model.frozen_prefix", rule, "model.frozen_prefix=null, or model.resize_embeddings=false"))
    if model.tuning == "full":
        faults += _full_tuning_faults(model)
    if model.device_map is not None and (training.processes or 1) > 1:
        rule = f"one process has all the GPUs of a model that model.device_map spreads, found {training.processes}"
        faults.append(Fault("training.processes", rule, "training.processes=null, or model.device_map=null"))
    if model.random_init is not None and "model_type" not in model.random_init:
        faults.append(Fault("model.random_init", "needs a model_type", "+model.random_init.model_type=mistral"))
    if model.random_init is None and not model.model_name.strip():
        faults.append(Fault("model.model_name", "must not be empty", "model=minilm"))
    return faults + _address_faults(config.hyperopt.ray_address) + _folder_faults(config)


def is_encoding(name: str) -> bool:
    """Whether a name stands for an encoding of text; Python has others, such as hex."""
    try:
        return isinstance("".encode(name), bytes)
    except LookupError:
        return False


def _full_tuning_faults(model: ModelConfig) -> list[Fault]:
    """Return the faults of a training of all weights."""
    faults: list[Fault] = []
    if model.quantization != "none":
        rule = f"full trains every weight, and weights in {model.quantization} cannot be trained"
        faults.append(Fault("model.tuning", rule, "model.tuning=lora, or model.quantization=none"))
    if model.lora_layers != "all":
        rule = f"does nothing with model.tuning=full, which trains every layer, found {model.lora_layers!r}"
        faults.append(Fault("model.lora_layers", rule, "model.lora_layers=all, or model.tuning=lora"))
    return faults


def _address_faults(address: str | None) -> list[Fault]:
    if address is None or address == "auto" or _ADDRESS.fullmatch(address):
        return []
    outside, host = address.startswith("ray://"), address.rpartition("//")[2].rstrip("/")
    port = "" if re.search(r":\d+$", host) else ":10001" if outside else ":6379"
    proposed = f"{'ray://' if outside else ''}{host}{port}"
    fix = proposed if host != "local" and _ADDRESS.fullmatch(proposed) else "null, for a private Ray"
    rule = f"must be auto, HOST:PORT or ray://HOST:PORT, found {address!r}"
    return [Fault("hyperopt.ray_address", rule, f"hyperopt.ray_address={fix}")]


_ADDRESS = re.compile(r"(ray://)?([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}")


def _folder_faults(config: Config) -> list[Fault]:
    """Return the faults of folders, which a run would otherwise find only when it writes there."""
    faults: list[Fault] = []
    if len(config.hyperopt.study_name.encode()) > _LONGEST_NAME:
        rule = f"is a folder's name of at most {_LONGEST_NAME} bytes, found {len(config.hyperopt.study_name)} letters"
        faults.append(Fault("hyperopt.study_name", rule, "hyperopt.study_name=my_study"))
    folders = {"output_dir": config.output_dir, "hyperopt.results_dir": config.hyperopt.results_dir}
    for key, path in {**folders, "data.cache_dir": config.data.cache_dir}.items():
        if not path.strip():
            faults.append(Fault(key, "must be a folder, found an empty name", f"{key}=FOLDER"))
    faults += _homeless_faults(config)
    for key, path in folders.items():
        folder = Path(_absolute(path))
        if file := next((place for place in (folder, *folder.parents) if _is_file(place)), None):
            rule = f"must be a folder that can be created, found the file {file} in its path"
            faults.append(Fault(key, rule, f"{key}=FOLDER"))
    return faults


def _homeless_faults(config: Config) -> list[Fault]:
    """Return the faults of paths whose ``~`` stands for no folder."""
    paths = {"output_dir": config.output_dir, "hyperopt.results_dir": config.hyperopt.results_dir}
    paths |= {f"data.{name}": getattr(config.data, name) for name in ("cache_dir", *_DATA_FILES)}
    paths["model.model_name"] = config.model.model_name
    faults: list[Fault] = []
    for key, path in paths.items():
        try:
            files.expand(path or "")
        except UserError as error:
            rule, _, fix = str(error).partition("; fix: ")
            faults.append(Fault(key, rule, fix))
    return faults


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


_DATA_FILES = ("train_file", "dev_file", "test_file")
_LONGEST_NAME = 200  # of the 255 that file systems take; temporary names are longer


def absolute_paths(config: Config) -> None:
    """Make paths absolute, so that a worker with another working directory finds the same files."""
    config.output_dir = _absolute(config.output_dir)
    config.data.cache_dir = _absolute(config.data.cache_dir)
    config.hyperopt.results_dir = _absolute(config.hyperopt.results_dir)
    for name in _DATA_FILES:
        if path := getattr(config.data, name):
            setattr(config.data, name, _absolute(path))
    if (folder := _expanded(config.model.model_name)).is_dir():
        config.model.model_name = str(folder.absolute())
    if (named := config.model.pickled_weights) and (folder := _expanded(named)).is_dir():
        config.model.pickled_weights = str(folder.absolute())


def _absolute(path: str) -> str:
    return str(_expanded(path).absolute())


def _expanded(path: str) -> Path:
    """Return a path whose ``~`` is the home folder; where there is none, that is a fault of its own."""
    try:
        return files.expand(path)
    except UserError:
        return Path(path)
