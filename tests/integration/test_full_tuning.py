"""``model.tuning=full``: every weight is trained, the kept base model is not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForTokenClassification

from mistral_ner.config.check import check
from mistral_ner.config.schema import Config
from mistral_ner.errors import ConfigError
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.model import base_model, save_merged
from mistral_ner.predict import Tagger
from mistral_ner.train import fit
from mistral_ner.training.evaluate import score
from mistral_ner.training.inputs.prepare import prepare


@pytest.fixture
def full(tiny: dict[str, Any], cold: None) -> dict[str, Any]:
    tiny["model"] = {**tiny["model"], "tuning": "full", "bidirectional": True}
    return tiny


def elsewhere(config: dict[str, Any], name: str, **model: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config["output_dir"] = str(Path(config["output_dir"]).parent / name)
    config["model"] |= model
    return config


def trained(config: dict[str, Any]) -> Path:
    return Path(config["output_dir"]) / "adapter"


def weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    return load_file(next(trained(config).glob("*.safetensors")))


def base_weights(config: Config) -> dict[str, torch.Tensor]:
    base = base_model(config.model, len(prepare(config)[0]))
    return {name: value.clone() for name, value in base.state_dict().items()}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one), "differ in some bit"


def test_every_weight_is_trained_and_the_base_is_not(full: dict[str, Any]) -> None:
    config = check(full)
    lora = {"tuning": "lora"}
    fit(elsewhere(full, "before", **lora))
    before = base_weights(config)
    assert fit(full) > 0.5
    assert_same(before, base_weights(config))
    after = weights(full)
    head = {"score.weight", "score.bias"}
    assert after.keys() - head == before.keys()
    unchanged = [name for name in after.keys() - head if np.array_equal(after[name], before[name].numpy())]
    assert unchanged == []
    fit(elsewhere(full, "after", **lora))
    assert_same(weights(elsewhere(full, "before")), weights(elsewhere(full, "after")))


def test_what_it_leaves_is_read_by_all(full: dict[str, Any], tmp_path: Path) -> None:
    value = fit(full)
    scored = score(check(full), trained(full), "dev")
    assert scored is not None
    assert scored.metrics["f1"] == value
    sentence = ["Ada", "Li", "saw", "Rome", "."]
    found = Tagger.load(full["output_dir"]).tag_words([sentence])
    plain = AutoModelForTokenClassification.from_pretrained(trained(full), local_files_only=True)
    labels = [plain.config.id2label[index] for index in range(plain.config.num_labels)]
    assert labels == prepare(check(full))[1].labels
    save_merged(check(full), labels, trained(full), tmp_path / "merged")
    assert Tagger.load(tmp_path / "merged").tag_words([sentence]) == found
    assert_same(load_file(tmp_path / "merged/model.safetensors"), weights(full))


def test_continued_is_the_unbroken_run(full: dict[str, Any]) -> None:
    whole = elsewhere(full, "whole")
    fit(whole)
    fit(full, lambda number, _: number == 1)
    fit(full)
    assert_same(weights(whole), weights(full))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_kept_base_trains_again_as_it_did_at_first(full: dict[str, Any], precision: str) -> None:
    """With bf16 accelerate changes the network's own forward, which here is the base's."""
    full["training"]["precision"] = precision
    once, again = elsewhere(full, "once"), elsewhere(full, "again")
    fit(once)
    fit(again)
    assert_same(weights(once), weights(again))


def test_weights_in_16_bits_are_trained_in_32(full: dict[str, Any]) -> None:
    full["model"]["dtype"] = "bfloat16"
    before = base_weights(check(full))
    fit(full)
    assert {value.dtype for value in weights(full).values()} == {np.dtype("float32")}
    assert {value.dtype for value in before.values()} == {torch.bfloat16}
    assert_same(
        *({name: value.float().numpy() for name, value in one.items()} for one in (before, base_weights(check(full))))
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"quantization": "4bit"}, "model.tuning: full trains every weight, and weights in 4bit cannot be trained"),
        ({"lora_layers": "top:1"}, "model.lora_layers: does nothing with model.tuning=full"),
        ({"tuning": "prefix"}, "model.tuning: must be one of lora, full"),
    ],
)
def test_faults(full: dict[str, Any], model: dict[str, Any], message: str) -> None:
    full["model"] |= model
    with pytest.raises(ConfigError, match=message):
        fit(full)


def test_a_space_that_shapes_the_adapter_needs_one(compose: Any, tmp_path: Path) -> None:
    full = ("hyperopt=combined", "model.tuning=full", f"output_dir={tmp_path}")
    with pytest.raises(ConfigError, match=r"search_space.lora_r: shapes an adapter.*\n +fix: search_space=full"):
        Plan.of(compose(*full))
    assert len(Plan.of(compose(*full, "search_space=full")).space) == 4
    assert Plan.of(compose(*full, "+search_space.tuning={type: choice, choices: [lora, full]}"))
