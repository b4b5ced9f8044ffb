"""Base and adapter in one checkpoint: merged on the CPU, scored, and named another model where it is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mistral_ner.config.check import check
from mistral_ner.hyperopt.cluster.workers import Failed, Here
from mistral_ner.hyperopt.results.merged import merge
from mistral_ner.model import base, stored
from mistral_ner.train import fit
from mistral_ner.training.evaluate import score

pytestmark = pytest.mark.usefixtures("cold")


class Full:
    """Workers whose card does not hold the merged model."""

    at_once = 1
    office = None

    def each(self, function: Any, items: Any) -> Iterator[tuple[Any, Failed]]:
        yield from ((item, Failed("OutOfMemoryError: out of memory with the model")) for item in items)


@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_what_is_merged_is_scored(tiny: dict[str, Any], tmp_path: Path, quantization: str) -> None:
    tiny["model"]["quantization"] = quantization
    fit(tiny)
    adapter = Path(tiny["output_dir"]) / "adapter"
    words = merge(check(tiny), adapter, tmp_path, ["dev", "test"], Here())
    scores = json.loads((tmp_path / "merged/metrics.json").read_text())
    for split in ("dev", "test"):
        again = score(check(tiny), tmp_path / "merged", split)
        assert again is not None
        assert scores[split] == again.metrics
        assert f"{split} F1 {again.metrics['f1']:.4f}" in words
    assert ("is another model than the one scored above: the adapter was trained on weights in 4 bits" in words) == (
        quantization == "4bit"
    )


def test_a_merged_model_that_fits_no_card_is_there_all_the_same(tiny: dict[str, Any], tmp_path: Path) -> None:
    fit(tiny)
    words = merge(check(tiny), Path(tiny["output_dir"]) / "adapter", tmp_path, ["dev"], Full())
    assert words.endswith("It could not be scored here: OutOfMemoryError: out of memory with the model.\n")
    assert (tmp_path / "merged/model.safetensors").is_file()


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_merging_leaves_the_cards_alone(
    tiny: dict[str, Any], tmp_path: Path, tuning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny["model"]["tuning"] = tuning
    fit(tiny)
    for module in (base, stored):
        monkeypatch.setattr(module, "device", lambda: pytest.fail("a worker may fill the card"))
    adapter = Path(tiny["output_dir"]) / "adapter"
    stored.save_merged(check(tiny), stored.read_labels(adapter), adapter, tmp_path / "merged")
    merged = stored._load_whole(tmp_path / "merged", check(tiny).model, torch.device("cpu"))
    assert {one.device.type for one in merged.parameters()} == {"cpu"}
