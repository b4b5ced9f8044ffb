"""Trainings whose model is spread over devices by accelerate's hooks, on a CPU: the numbers are those of one device.

Two names of the CPU make two parts, as two GPUs would. What a CPU cannot show is a tensor on the wrong one of them.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from mistral_ner.config.check import check
from mistral_ner.model import base, forget_base, hardware, lend_model, stored
from mistral_ner.predict import Tagger
from mistral_ner.train import fit
from mistral_ner.training.evaluate import score
from tests.runs import reports

pytestmark = pytest.mark.usefixtures("cold")


class Card(str):
    """A name of the CPU that is no other value of a device map, so that its parts are hooked as those of a GPU are."""

    __slots__ = ()
    __eq__, __hash__ = object.__eq__, object.__hash__


ONE, OTHER = Card("cpu"), torch.device("cpu")
PARTS = {"model.embed_tokens": ONE, "model.rotary_emb": ONE, "model.layers.0": ONE, "model.layers.1": OTHER}
PARTS |= {"model.norm": OTHER, "score": OTHER}


@pytest.fixture
def spread(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The smallest training, with ``model.device_map=auto`` where torch finds two devices."""
    monkeypatch.setattr(hardware, "find_map", lambda model: PARTS if model.device_map else None)
    monkeypatch.setattr(stored, "_on_this_machine", lambda model: model)
    return {**tiny, "model": {**tiny["model"], "device_map": "auto"}}


def on_one(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "output_dir": f"{run['output_dir']}_one", "model": {**run["model"], "device_map": None}}


def rows(run: dict[str, Any]) -> list[dict[str, Any]]:
    return reports(run["output_dir"])


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"gradient_checkpointing": True},
        {"tuning": "full"},
        {"lora_layers": "top:1", "frozen_prefix": True},
        {"quantization": "4bit"},
        {"quantization": "8bit"},
    ],
)
def test_the_numbers_are_those_of_one_device(spread: dict[str, Any], more: dict[str, Any]) -> None:
    spread["model"] |= more
    fit(spread)
    (kept,) = base._kept.values()
    assert len(set(kept.hf_device_map.values())) == 2
    assert all(hasattr(module, "_hf_hook") for module in (kept, *kept.model.layers))
    found = score(check(spread), Path(spread["output_dir"]) / "adapter", "dev")
    fit(on_one(spread))
    assert rows(spread) == rows(on_one(spread))
    assert found is not None
    assert found.metrics["f1"] == max(row["eval_f1"] for row in rows(spread))


def test_it_is_stopped_and_goes_on_and_tags(spread: dict[str, Any]) -> None:
    fit(spread, lambda number, metrics: number == 1)
    (kept,) = base._kept.values()
    before = {name: tensor.clone() for name, tensor in kept.state_dict().items()}
    assert len(rows(spread)) == 1
    fit(spread)
    assert kept is next(iter(base._kept.values()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.state_dict().items())
    assert kept.state_dict().keys() == before.keys()
    fit(on_one(spread))
    assert rows(spread) == rows(on_one(spread))
    texts = ["Ada Li saw Oslo .", "we left Rome ."]
    both = [Tagger.load(run["output_dir"]).tag(texts) for run in (spread, on_one(spread))]
    assert both[0] == both[1]


def test_it_goes_when_another_takes_its_place(spread: dict[str, Any]) -> None:
    """Hooks refer to their network: without help it would stay until garbage is collected, beside the next one."""
    model = check(spread).model
    with lend_model(model, ["O", "B-PER", "I-PER"], 0, 100):
        pass
    kept = weakref.ref(next(iter(base._kept.values())))
    forget_base()
    assert kept() is None
