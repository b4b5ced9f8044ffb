"""Whole trainings: in 16, 8 and 4 bits, scored and tagging, on the bases and with the masks that they should have."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from card import CARD, reports

from mistral_ner.config.check import check
from mistral_ner.model import base, lend_model
from mistral_ner.model.hardware import is_flash_attn_2_available
from mistral_ner.predict import Tagger
from mistral_ner.train import fit
from mistral_ner.training.evaluate import score
from mistral_ner.training.fit import fit_together
from mistral_ner.training.trainer import NerTrainer


def bits(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_fit_score_and_predict(run: dict[str, Any], quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run["model"]["quantization"] = quantization
    loads: list[int] = []
    own = base.load_base
    monkeypatch.setattr(base, "load_base", lambda *args: (loads.append(1), own(*args))[1])
    config = check(run)
    value = fit(run)
    kept = next(iter(base._kept.values()))
    before = bits(kept)
    found = score(config, Path(run["output_dir"]) / "adapter", "dev")
    fit({**run, "output_dir": run["output_dir"] + "_2"})
    assert bits(kept) == before, "the base is as it was"
    assert loads == [1], "one base, for trainings and scores"
    assert reports(run)[-1]["train_loss"] < 0.8 * reports(run)[0]["train_loss"]
    assert found is not None
    assert found.metrics["f1"] == pytest.approx(value, abs=0.02)
    if value > 0.5:
        assert Tagger.load(run["output_dir"]).tag(["Ada Li saw Oslo ."])[0]
    again = reports({**run, "output_dir": run["output_dir"] + "_2"})
    assert again[-1]["eval_loss"] == pytest.approx(reports(run)[-1]["eval_loss"], rel=0.1 if CARD else 1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
def test_every_attention_sees_both_sides(run: dict[str, Any], attention: str) -> None:
    if attention == "flash_attention_2" and not (CARD and is_flash_attn_2_available()):
        pytest.skip("needs flash-attn and a GPU")
    run["model"] |= {"attention": attention, "dtype": "bfloat16" if CARD else "float32"}
    ids = torch.arange(4, 16)[None].repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    changed = ids.clone()
    changed[0, -1] = 3
    with lend_model(check(run).model, ["O", "B-PER", "I-PER"], 0, 300) as model, torch.inference_mode():
        model.eval()
        place = model.device
        one, other = (
            model(input_ids=given.to(place), attention_mask=mask.to(place)).logits for given in (ids, changed)
        )
        filled = ids.clone()
        filled[1, 8:] = 3
        padded = model(input_ids=filled.to(place), attention_mask=mask.to(place)).logits
    assert (one[0, 0] - other[0, 0]).abs().max() > 0, "the first token sees the last"
    torch.testing.assert_close(padded[1, :8], one[1, :8], atol=1e-5, rtol=1e-4)


def test_one_card_a_process(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    own = NerTrainer.training_step

    def step(self: NerTrainer, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        seen.append((self.args.n_gpu, len(inputs["labels"])))
        return own(self, model, inputs, *args)

    monkeypatch.setattr(NerTrainer, "training_step", step)
    fit(run)
    assert set(seen) == {(int(CARD), 8)}


def test_layers_hand_on_16_bits_and_the_head_computes_in_32(run: dict[str, Any]) -> None:
    run["model"]["dtype"] = "auto" if CARD else "bfloat16"
    with lend_model(check(run).model, ["O", "B-PER", "I-PER"], 0, 300) as model:
        seen: list[torch.dtype] = []
        model.get_base_model().model.layers[0].register_forward_hook(lambda one, args, out: seen.append(out.dtype))
        with torch.autocast(model.device.type, torch.bfloat16):
            logits = model(input_ids=torch.arange(4, 12)[None].to(model.device)).logits
    assert {one.itemsize for one in seen} == {2}
    assert logits.dtype == torch.float32


def test_a_frozen_prefix_gives_the_same_losses(run: dict[str, Any]) -> None:
    run["model"]["lora_layers"] = "top:2"
    losses = []
    for prefix in (False, True):
        one = {**run, "output_dir": f"{run['output_dir']}_{prefix}", "model": {**run["model"], "frozen_prefix": prefix}}
        fit(one)
        losses.append([row["eval_loss"] for row in reports(one)])
    assert losses[1] == pytest.approx(losses[0], rel=0.05 if CARD else 1e-4)


@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_several_trials_in_a_pass(run: dict[str, Any], quantization: str) -> None:
    """Stacked products and checkpointing; rounding of 16 bits aside, each trial is as it is alone."""
    run["model"] |= {"quantization": quantization, "gradient_checkpointing": True, "lora_dropout": 0.0}
    alone, together = [], []
    for number, rank in enumerate((8, 4, 16)):
        for configs, name in ((alone, "alone"), (together, "together")):
            configs.append(
                {
                    **run,
                    "output_dir": f"{run['output_dir']}_{name}_{number}",
                    "model": {**run["model"], "lora_r": rank},
                    "training": {**run["training"], "per_device_train_batch_size": 4 + 2 * number},
                }
            )
    for one in alone:
        fit(one)
    fit_together(together)
    for one, other in zip(together, alone, strict=True):
        mine, theirs = ([row["eval_loss"] for row in reports(each)] for each in (one, other))
        assert mine == pytest.approx(theirs, rel=0.1 if CARD else 1e-3)
