"""A model that lies on two GPUs, ``model.device_map=auto``: the losses of one GPU, scored, tagging and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from card import reports

from mistral_ner.config.check import check
from mistral_ner.model import base
from mistral_ner.predict import Tagger
from mistral_ner.train import fit
from mistral_ner.training.evaluate import score

pytestmark = [
    pytest.mark.needs_card,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs that torch can use"),
]


@pytest.mark.parametrize("more", [{}, {"quantization": "4bit"}, {"gradient_checkpointing": True}])
def test_two_cards_hold_one_model(run: dict[str, Any], more: dict[str, Any]) -> None:
    run["model"] |= {**more, "lora_dropout": 0.0}
    one = {**run, "output_dir": f"{run['output_dir']}_one"}
    fit(one)
    run["model"]["device_map"] = "auto"
    fit(run, lambda number, metrics: number == 1)
    fit(run)
    (kept,) = base._kept.values()
    assert len({one.device for one in kept.parameters()}) > 1
    mine, theirs = ([row["eval_loss"] for row in reports(each)] for each in (run, one))
    assert mine == pytest.approx(theirs, rel=0.1)
    assert all(row["gpu_memory_gb"] > 0 for row in reports(run))
    found = score(check(run), Path(run["output_dir"]) / "adapter", "dev")
    assert found is not None
    assert found.metrics["f1"] == pytest.approx(max(row["eval_f1"] for row in reports(run)), abs=0.02)
    assert len(Tagger.load(run["output_dir"]).tag(["Ada Li saw Oslo ."])) == 1
