"""The schema: what it accepts, and the text of what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from mistral_ner.config.check import check, read
from mistral_ner.config.schema import Config, ModelConfig, known_keys, to_container
from mistral_ner.config.values import build, setting
from mistral_ner.errors import ConfigError, Fault, nearest
from mistral_ner.hyperopt.spec.plan import Plan


def faults_of(**parts: Any) -> list[str]:
    return [str(fault) for fault in read({"output_dir": "out", **parts})[1]]


def test_defaults_are_a_valid_config() -> None:
    config = check({"output_dir": "out"})
    assert config.training.reports == 9
    assert config.output_dir.startswith("/")


def test_checked_config_is_a_fixed_point() -> None:
    config = check({"output_dir": "out", "training": {"learning_rate": "1e-5"}})
    assert config.training.learning_rate == 1e-5
    assert check(to_container(config)) == config
    assert check(config) == config


@pytest.mark.parametrize(
    ("group", "key", "value", "text"),
    [
        ("training", "learning_rate", 0, "training.learning_rate: must be greater than 0, found 0"),
        ("training", "learning_rate", "fast", "training.learning_rate: must be a number, found 'fast'"),
        ("training", "learning_rate", float("nan"), "training.learning_rate: must be a number, found nan"),
        ("training", "learning_rate", True, "training.learning_rate: must be a number, found True"),
        ("training", "learning_rate", None, "training.learning_rate: must be a number, found None"),
        ("training", "warmup_ratio", 1, "training.warmup_ratio: must be less than 1, found 1"),
        ("training", "warmup_ratio", -0.1, "training.warmup_ratio: must be at least 0, found -0.1"),
        ("training", "reports", 1.5, "training.reports: must be a whole number, found 1.5"),
        ("training", "reports", [9], "training.reports: must be a whole number, found [9]"),
        ("training", "mode", "maximum", "must be one of max, min (did you mean 'max'?), found 'maximum'"),
        ("training", "learnin_rate", 1, "training.learnin_rate: unknown key (did you mean 'learning_rate'?)"),
        ("model", "lora_r", 0, "model.lora_r: must be at least 1, found 0"),
        ("model", "lora_dropout", 1.0, "model.lora_dropout: must be less than 1, found 1.0"),
        ("model", "dtype", "bf16", "model.dtype: must be one of auto, float32, bfloat16, float16"),
        ("model", "bidirectional", "yes please", "model.bidirectional: must be true or false"),
        ("model", "lora_target_modules", [], "must be auto, all-linear or a list of module names, found []"),
        ("model", "lora_target_modules", "query", "must be auto, all-linear or a list of module names"),
        ("model", "random_init", {"hidden_size": 8}, "model.random_init: needs a model_type"),
        ("model", "model_name", " ", "model.model_name: must not be empty"),
        ("data", "source", "file", "must be one of sample, files, hub (did you mean 'files'?)"),
        ("data", "source", "files", "data.train_file: data=files needs a training file"),
        ("data", "source", "hub", "data.hub_name: data.source=hub needs a data set's name"),
        ("data", "max_length", 4, "data.max_length: must be at least 8, found 4"),
        ("data", "dev_fraction", 0.95, "dev_fraction and test_fraction leave nothing to train on"),
        ("hyperopt", "strategy", "bayes", "hyperopt.strategy: must be one of none, combined, asha, optuna, random"),
        ("hyperopt", "asha_reduction_factor", 1, "must be greater than 1, found 1"),
        ("hyperopt", "num_trials", 0, "hyperopt.num_trials: must be at least 1, found 0"),
        ("tracking", "report_to", "wandbb", "(did you mean 'wandb'?)"),
    ],
)
def test_fault_text(group: str, key: str, value: Any, text: str) -> None:
    found = faults_of(**{group: {key: value}})
    assert any(text in fault for fault in found), found


def test_every_fault_at_once_each_with_its_fix() -> None:
    with pytest.raises(ConfigError) as error:
        check({"output_dir": "o", "sede": 1, "training": {"reports": 0, "mode": "up"}, "model": {"lora_r": "big"}})
    text = str(error.value)
    assert text.startswith("4 faults in the config:")
    for part in (
        "sede: unknown key (did you mean 'seed'?)",
        "training.reports=9",
        "training.mode=max",
        "model.lora_r=16",
    ):
        assert part in text


def test_broken_interpolation_is_a_fault() -> None:
    config, found = read(OmegaConf.create({"output_dir": "o", "seed": "${nowhere}"}))
    assert config is None
    assert str(found[0]) == (
        "seed: Interpolation key 'nowhere' not found\n      fix: seed=VALUE, or mend the ${...} there"
    )


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${seed}", "8 model=x"])
def test_what_was_resolved_once_is_data(text: str) -> None:
    config = check({"output_dir": "o", "model": {"model_name": text}})
    assert config.model.model_name == text
    assert check(config).model.model_name == text
    assert check(to_container(config)).model.model_name == text
    assert check({"output_dir": "o", "model": OmegaConf.create({"model_name": "a${.lora_r}", "lora_r": 8})}).model == (
        ModelConfig(model_name="a8", lora_r=8)
    )


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = faults_of(output_dir=str(tmp_path / "file/x/y"), hyperopt={"results_dir": str(tmp_path / "file")})
    below = f"must be a folder that can be created, found the file {tmp_path}/file in its path"
    assert found == [f"{key}: {below}\n      fix: {key}=FOLDER" for key in ("output_dir", "hyperopt.results_dir")]
    assert faults_of(output_dir="x" * 300, hyperopt={"study_name": "é" * 99}) == []
    (fault,) = faults_of(hyperopt={"study_name": "é" * 101})
    assert "is a folder's name of at most 200 bytes, found 101 letters" in fault


def test_a_value_for_a_group_has_a_fix() -> None:
    assert faults_of(training=3) == [
        "training: must be a group of keys, found 3\n      fix: write training: {KEY: VALUE}"
    ]


@dataclass
class Inner:
    size: int = setting(3, low=1)
    names: list[str] = field(default_factory=list)


@dataclass
class Outer:
    must: str
    inner: Inner = field(default_factory=Inner)


def test_the_machine_works_for_any_schema() -> None:
    """check.py knows nothing of this project's keys."""
    found: list[Fault] = []
    built = build(Outer, {"must": "x", "inner": {"size": "4", "nams": []}}, "", found)
    assert (built.must, built.inner.size, built.inner.names) == ("x", 4, [])
    assert [str(fault) for fault in found] == [
        "inner.nams: unknown key (did you mean 'names'?)\n      fix: ~inner.nams"
    ]
    found.clear()
    assert build(Outer, {}, "", found) is None
    assert [fault.key for fault in found] == ["must"]
    assert nearest("siez", ["size", "names"]) == " (did you mean 'size'?)"
    assert nearest("q", ["size", "names"]) == ""


def test_known_keys_are_leaves() -> None:
    keys = known_keys()
    assert "training.learning_rate" in keys
    assert "hyperopt.resources_per_trial.cpu" in keys
    assert "training" not in keys
    assert len(keys) == len(set(keys))
    assert isinstance(check({"output_dir": "o"}), Config)


@pytest.mark.parametrize(
    ("address", "fix"),
    [
        ("127.0.0.1", "127.0.0.1:6379"),
        ("head", "head:6379"),
        ("http://10.0.0.1:28379", "10.0.0.1:28379"),
        ("ray://head.example", "ray://head.example:10001"),
        ("ray://head:10001/", "ray://head:10001"),
        ("local", "null, for a private Ray"),
        ("head port", "null, for a private Ray"),
    ],
)
def test_an_address_that_names_no_ray_is_a_fault(address: str, fix: str) -> None:
    (fault,) = read({"output_dir": "o", "hyperopt": {"ray_address": address}})[1]
    assert f"hyperopt.ray_address: must be auto, HOST:PORT or ray://HOST:PORT, found {address!r}" in str(fault)
    assert f"fix: hyperopt.ray_address={fix}" in str(fault)
    proposed = fix.partition(",")[0]
    assert proposed == "null" or not read({"output_dir": "o", "hyperopt": {"ray_address": proposed}})[1]


@pytest.mark.parametrize("address", [None, "auto", "head:6379", "ray://10.0.0.1:10001", "[fe80::1]:6379"])
def test_an_address_of_a_ray(address: str | None) -> None:
    assert read({"output_dir": "o", "hyperopt": {"ray_address": address}})[1] == []


FILES = {"source": "files", "train_file": "a.conll"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"train_file": "a.txt"}, "data.train_file: does nothing with data=sample, found a.txt|data=files,"),
        ({"test_file": "a.txt"}, "data.test_file: does nothing with data=sample|fix: data=files,"),
        ({"tag_column": 3}, "data.tag_column: does nothing with data=sample, found 3|data=files data.train_file=PATH"),
        ({"tags_key": "ner"}, "data.tags_key: does nothing with data=sample|data=files data.train_file=PATH"),
        ({"hub_name": "a/b"}, "data.hub_name: does nothing with data=sample|data.source=hub"),
        ({**FILES, "hub_name": "a/b"}, "data.hub_name: does nothing with data=files|data.source=hub"),
        ({**FILES, "tokens_key": "words"}, "data.tokens_key: does nothing with files read as conll|data.format=jsonl"),
        ({**FILES, "on_partial_word": "refuse"}, "data.on_partial_word: does nothing with files read as conll|jsonl"),
        (
            {**FILES, "train_file": "a.jsonl", "tag_column": 2},
            "data.tag_column: does nothing with files read as jsonl|",
        ),
        ({**FILES, "train_file": "a.json.gz", "tag_column": 2}, "does nothing with files read as jsonl|conll"),
        ({**FILES, "train_file": "a.parquet", "encoding": "latin-1"}, "data.encoding: does nothing with files read as"),
        ({**FILES, "dev_file": "b", "dev_fraction": 0.2}, "does nothing with data.dev_file, found 0.2|dev_file=null"),
        ({"source": "hub", "hub_name": "a/b", "dev_file": "b"}, "data.dev_file: does nothing with data.source=hub|"),
    ],
)
def test_a_key_of_the_data_that_does_nothing_is_a_fault(data: dict[str, Any], text: str) -> None:
    config = {"output_dir": "o", "data": data}
    (fault,) = read(config, typed=True)[1]
    for part in text.split("|"):
        assert part in str(fault)
    assert read(config) == (read(config)[0], []), "what an earlier version saved is read all the same"
    with pytest.raises(ConfigError):
        Plan.of({**config, "hyperopt": {"strategy": "random"}, "search_space": SPACE})


@pytest.mark.parametrize(
    "data",
    [
        {"token_column": "0", "tag_column": "-1"},  # the defaults of an earlier version
        {**FILES, "dev_file": "b.jsonl", "tags_key": "ner", "tag_column": 2, "test_fraction": 0.2, "split_seed": 3},
        {**FILES, "train_file": "brat.txt", "on_partial_word": "refuse", "sentence_end": "blank"},
        {**FILES, "train_file": "a.parquet", "format": "conll", "tag_column": 2, "encoding": "latin-1"},
        {"source": "hub", "hub_name": "a/b", "tags_key": "ner", "dev_fraction": 0.2},
    ],
)
def test_keys_that_act_are_no_fault(data: dict[str, Any]) -> None:
    assert read({"output_dir": "o", "data": data}, typed=True)[1] == []


def test_an_unknown_encoding() -> None:
    for name in ("utf9", "hex"):
        (fault,) = faults_of(data={**FILES, "encoding": name})
        assert f"data.encoding: must be an encoding that Python knows, found '{name}'" in fault


SPACE = {"lora_r": {"type": "choice", "choices": [4, 8]}}


@pytest.mark.parametrize("strategy", ["combined", "optuna"])
def test_what_an_earlier_version_saved_is_decoded_as_it_was(strategy: str, tmp_path: Path) -> None:
    """Its config lacks model.decoding, and what it trained was scored word by word; parts get the default."""
    from mistral_ner.model.stored import read_config

    saved = yaml.safe_load((Path(__file__).parents[1] / f"old_studies/{strategy}/config.yaml").read_text())
    assert "decoding" not in saved["model"]
    assert check(saved).model.decoding == "argmax"
    assert check({"output_dir": "out", "model": {"lora_r": 8}}).model.decoding == "iob2"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    adapter = read_config(tmp_path)
    assert adapter is not None
    assert adapter.model.decoding == "argmax"
    again = to_container(adapter)
    assert check(again).model.decoding == "argmax", "as this version saves it"
