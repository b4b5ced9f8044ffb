"""LoRA on the upper layers, from activations that are computed once: the same numbers, the same files, on disk once."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mistral_ner.errors import ConfigError, UserError
from mistral_ner.model import forget_base
from mistral_ner.train import fit

FAMILIES = {
    "mistral": {},
    "mistral, both sides": {"bidirectional": True},
    "llama": {},
    "qwen2": {},
    "bert": {},
}


@pytest.fixture
def upper(tiny: dict[str, Any], cold: None) -> dict[str, Any]:
    """Four layers, LoRA on the last, eager dropout where the network has some."""
    tiny["model"] |= {"lora_layers": "top:1", "lora_target_modules": "all-linear"}
    tiny["model"]["random_init"] = {**tiny["model"]["random_init"], "num_hidden_layers": 4}
    return tiny


def of(config: dict[str, Any], family: str) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config["model"] |= FAMILIES.get(family, {})
    config["model"]["random_init"]["model_type"] = family.partition(",")[0]
    if family == "bert":
        del config["model"]["random_init"]["num_key_value_heads"]
    return config


def run(config: dict[str, Any], name: str, prefix: bool | None) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    config = copy.deepcopy(config)
    config["output_dir"] = str(Path(config["output_dir"]).parent / name)
    config["model"]["frozen_prefix"] = prefix
    seen: list[dict[str, float]] = []
    fit(config, lambda _, metrics: bool(seen.append(metrics)))
    return seen, load_file(Path(config["output_dir"]) / "adapter" / "adapter_model.safetensors")


def kept(config: dict[str, Any]) -> list[Path]:
    return sorted((Path(config["data"]["cache_dir"]) / "prefix").glob("*/*"))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_numbers_as_computed_anew(upper: dict[str, Any], family: str) -> None:
    config = of(upper, family)
    plain, plain_weights = run(config, "plain", False)
    assert kept(config) == []
    fast, fast_weights = run(config, "fast", True)
    assert [path.name for path in kept(config)] == ["checksums.json", "dev.bin", "shape.json", "train.bin"]
    for one, other in zip(plain, fast, strict=True):
        assert one["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-4)
    assert plain_weights.keys() == fast_weights.keys()
    for name, weights in plain_weights.items():
        assert np.allclose(weights, fast_weights[name], atol=2e-4), name
    layers = {name for name in plain_weights if "lora_A" in name}
    assert layers
    assert all(".3." in name for name in layers), "LoRA is on the last layer alone"


def test_computed_once_and_said_before(upper: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(upper, "first", None)
    assert "activations of the 3 frozen layers take 0.1 MB" in caplog.text
    before = [(path, path.stat().st_mtime_ns) for path in kept(upper)]
    caplog.clear()
    upper["training"]["learning_rate"] = 5e-3
    run(upper, "second", None)
    assert "frozen layers" not in caplog.text
    assert [(path, path.stat().st_mtime_ns) for path in kept(upper)] == before


def test_other_layers_and_other_weights_have_activations_of_their_own(upper: dict[str, Any]) -> None:
    run(upper, "one", None)
    upper["model"]["lora_layers"] = "top:2"
    run(upper, "two", None)
    upper["model"]["bidirectional"] = True
    run(upper, "three", None)
    assert len({path.parent for path in kept(upper)}) == 3


def test_continued_is_the_unbroken_run(upper: dict[str, Any]) -> None:
    _, whole = run(upper, "whole", True)
    parted = copy.deepcopy(upper)
    parted["model"]["frozen_prefix"] = True
    fit(parted, lambda number, _: number == 1)
    fit(parted)
    continued = load_file(Path(parted["output_dir"]) / "adapter" / "adapter_model.safetensors")
    assert all(np.array_equal(whole[name], continued[name]) for name in whole)


def test_worker_trains_all_layers_afterwards_as_before(upper: dict[str, Any]) -> None:
    every = copy.deepcopy(upper)
    every["model"]["lora_layers"] = "all"
    _, before = run(every, "before", None)
    run(upper, "between", True)
    _, after = run(every, "after", None)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_network_that_cannot_be_cut(upper: dict[str, Any]) -> None:
    upper["model"]["random_init"] |= {"model_type": "gemma"}
    with pytest.raises(UserError, match=r"frozen_prefix=true works with bert, llama, mistral, qwen2, found a gemma"):
        run(upper, "asked", True)
    run(upper, "left to us", None)
    assert kept(upper) == []


def test_more_layers_than_there_are(upper: dict[str, Any]) -> None:
    upper["model"]["lora_layers"] = "top:9"
    with pytest.raises(UserError, match=r"must name at most the network's 4 layers, found top:9"):
        fit(upper)


def test_faults_of_the_two_keys(upper: dict[str, Any]) -> None:
    upper["model"] |= {"lora_layers": "top:0"}
    with pytest.raises(ConfigError, match=r"model.lora_layers: must be all or top:N .* found 'top:0'"):
        fit(upper)
    upper["model"] |= {"lora_layers": "all", "frozen_prefix": True}
    with pytest.raises(ConfigError, match=r"true needs layers that LoRA does not change"):
        fit(upper)


def test_full_disk_is_named_and_nothing_is_left(upper: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mistral_ner.training.inputs.prefix.os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)\n  fix: model.frozen_prefix="):
        run(upper, "full", True)
    assert list((Path(upper["data"]["cache_dir"]) / "prefix").iterdir()) == []


@pytest.mark.parametrize("name", ["train.bin", "shape.json"])
def test_damaged_activations_are_computed_again(
    upper: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, before = run(upper, "before", True)
    file = next(path for path in kept(upper) if path.name == name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # of the same length
    file.unlink()  # the one that this process has mapped stays as it is
    file.write_bytes(content)
    forget_base()  # and with it what was kept of the activations
    _, after = run(upper, "after", True)
    assert "is damaged" in caplog.text
    assert all(np.array_equal(before[key], after[key]) for key in before)
