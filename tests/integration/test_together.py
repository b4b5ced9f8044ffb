"""Trainings that go through the base model together: the numbers of each are those of the same training alone."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistral_ner.errors import UserError
from mistral_ner.model.base import base_model
from mistral_ner.train import TrainingError, fit
from mistral_ner.training import memory
from mistral_ner.training.fit import fit_together
from mistral_ner.training.parallel.together import Pass
from tests.runs import reports, weights

pytestmark = pytest.mark.usefixtures("cold")


@pytest.fixture
def tiny(tiny: dict[str, Any]) -> dict[str, Any]:
    """The smallest training, in float32: in 16 bits rounding is larger than what is compared."""
    tiny["training"]["precision"] = "fp32"
    return tiny


def variants(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Trainings that differ in all that trials of a pass may differ in."""
    target = "query" if config["model"]["random_init"]["model_type"] == "bert" else "q_proj"
    changes: list[dict[str, dict[str, Any]]] = [
        {"model": {"lora_r": 4, "lora_dropout": 0.1}},
        {"model": {"lora_r": 8, "lora_dropout": 0.0, "use_rslora": True}, "training": {"learning_rate": 5e-3}},
        {
            "model": {"lora_dropout": 0.2, "lora_target_modules": [target], "lora_alpha_ratio": 4.0},
            "training": {"per_device_train_batch_size": 5, "warmup_ratio": 0.2, "weight_decay": 0.1},
        },
        {"training": {"gradient_accumulation_steps": 2, "num_epochs": 3, "lr_scheduler_type": "cosine"}, "seed": {}},
    ]
    made = []
    for number, change in enumerate(changes):
        one = copy.deepcopy(config)
        for group, values in change.items():
            if group == "seed":
                one["seed"] = 7
            else:
                one[group].update(values)
        one["output_dir"] = str(Path(config["output_dir"]).parent / f"{Path(config['output_dir']).name}_{number}")
        made.append(one)
    return made


def elsewhere(config: dict[str, Any], name: str) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config["output_dir"] = f"{config['output_dir']}_{name}"
    return config


def assert_equal_numbers(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-5) -> None:
    mine, theirs = reports(one["output_dir"]), reports(other["output_dir"])
    assert [row["step"] for row in mine] == [row["step"] for row in theirs]
    for row, expected in zip(mine, theirs, strict=True):
        assert row == pytest.approx(expected, abs=tolerance, rel=tolerance)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=tolerance, rtol=tolerance, err_msg=name)


def train_in(together: Pass, configs: list[dict[str, Any]]) -> list[float]:
    found: dict[int, float] = {}
    threads = [
        threading.Thread(target=lambda n=n, c=c: found.update({n: fit(c, together=together)}), daemon=True)
        for n, c in enumerate(configs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    together.close()
    return [found[number] for number in range(len(configs))]


BERT = {
    "model_name": "tiny",
    "random_init": {
        "model_type": "bert",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}


@pytest.mark.parametrize("kind", ["mistral", "bert"])
@pytest.mark.parametrize("equal_blocks", [False, True], ids=["in turn", "stacked"])
def test_each_has_the_numbers_that_it_has_alone(tiny: dict[str, Any], kind: str, equal_blocks: bool) -> None:
    if kind == "bert":  # whose own dropouts draw, too
        tiny["model"] = {**BERT, "lora_r": 4, "lora_dropout": 0.1}
    alone = variants(tiny)
    values = [fit(one) for one in alone]
    together = [elsewhere(one, "together") for one in alone]
    assert train_in(Pass(equal_blocks), together) == pytest.approx(values, abs=1e-5)
    for one, other in zip(together, alone, strict=True):
        assert_equal_numbers(one, other)
    assert max(values) > 0.5, "nothing was learnt"


def assert_same_together(alone: list[dict[str, Any]]) -> None:
    """Train each alone, then all of them together, and compare."""
    together = [elsewhere(one, "together") for one in alone]
    for one in alone:
        fit(one)
    fit_together(together)
    for one, other in zip(together, alone, strict=True):
        assert_equal_numbers(one, other)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_both_attentions_of_both_decoders(tiny: dict[str, Any], attention: str, bidirectional: bool) -> None:
    tiny["model"].update(attention=attention, bidirectional=bidirectional)
    alone = variants(tiny)[:2]
    assert_same_together(alone)


def test_checkpointing_draws_the_same_dropout_again(tiny: dict[str, Any]) -> None:
    tiny["model"] = {**BERT, "lora_r": 4, "lora_dropout": 0.1}
    plain = variants(tiny)[:3]
    again = [elsewhere(one, "checkpointing") for one in plain]
    for one in again:
        one["model"]["gradient_checkpointing"] = True
    fit_together(plain)
    fit_together(again)
    for one, other in zip(again, plain, strict=True):
        assert_equal_numbers(one, other)


def test_the_first_training_decides_what_is_computed_again(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fits(*args: Any) -> bool:  # whoever asks first does not fit
        asked.append(args[-1])
        return len(asked) > 1

    monkeypatch.setattr(memory, "fits_whole", fits)
    configs = variants(tiny)[:2]
    for one in configs:
        one["model"]["gradient_checkpointing"] = "auto"
        one["hyperopt"] = {"trials_per_pass": 2}
    fit_together(configs)
    assert asked == [2, 2]


def test_upper_layers_only(tiny: dict[str, Any]) -> None:
    tiny["model"]["lora_layers"] = "top:1"
    tiny["model"]["frozen_prefix"] = False
    alone = variants(tiny)
    assert_same_together(alone)


def test_a_trial_stops_and_another_starts_without_touching_the_others(tiny: dict[str, Any]) -> None:
    alone = variants(tiny)
    for one in alone:
        fit(one)
    together, started = Pass(), threading.Event()
    configs = [elsewhere(one, "together") for one in alone]

    def stop_after_first(number: int, _: dict[str, float]) -> bool:
        started.set()
        return number == 1

    calls: list[Callable[[], Any]] = [
        lambda: fit(configs[0], together=together),
        lambda: fit(configs[1], stop_after_first, together=together),
        lambda: (started.wait(60), fit(configs[2], together=together)),
        lambda: (started.wait(60), fit(configs[3], together=together)),
    ]
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(reports(configs[1]["output_dir"])) == 1
    fit(configs[1], together=together)  # it goes on where it stopped, now without company
    together.close()
    for one, other in zip(configs, alone, strict=True):
        assert_equal_numbers(one, other)


def test_one_that_fails_leaves_the_others_as_they_are(tiny: dict[str, Any]) -> None:
    good, bad, breaks = variants(tiny)[:3]
    bad["training"]["learning_rate"] = 1e30
    alone = elsewhere(good, "alone")
    fit(alone)

    def broken(number: int, _: dict[str, float]) -> bool:
        raise OSError("the disk is away")

    with pytest.raises(TrainingError, match="non-finite"):
        fit_together([good, bad, breaks], [None, None, broken])
    assert_equal_numbers(good, alone)


def test_the_base_keeps_its_bits_and_nothing_attached(tiny: dict[str, Any]) -> None:
    from mistral_ner.config.check import check
    from mistral_ner.training.inputs.prepare import prepare

    config = check(tiny)
    tokenizer, _ = prepare(config)
    base = base_model(config.model, len(tokenizer))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    names = [name for name, _ in base.named_modules()]
    fit_together(variants(tiny)[:2])
    assert base_model(config.model, len(tokenizer)) is base
    assert [name for name, _ in base.named_modules()] == names
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in before.items())
    fit(tiny)  # and alone again


def test_what_cannot_share_a_pass_says_so(tiny: dict[str, Any]) -> None:
    one, other = variants(tiny)[:2]
    other["model"]["bidirectional"] = True
    with pytest.raises(UserError, match="must have the same base model"):
        fit_together([one, other])


def test_killed_and_continued_together(tiny: dict[str, Any], tmp_path: Path) -> None:
    alone = variants(tiny)
    for one in alone:
        fit(one)
    together = [elsewhere(one, "together") for one in alone]
    script = "import json, sys; from mistral_ner.training.fit import fit_together; fit_together(json.load(sys.stdin))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    process.stdin.write(json.dumps(together))
    process.stdin.close()
    first = Path(together[0]["output_dir"]) / "result.json"
    until = time.monotonic() + 120
    while not first.exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not all((Path(one["output_dir"]) / "adapter").is_dir() for one in together), "it was killed too late"
    fit_together(together)
    for one, other in zip(together, alone, strict=True):
        assert_equal_numbers(one, other)


def test_weights_in_4_bits(tiny: dict[str, Any]) -> None:
    pytest.importorskip("bitsandbytes")
    tiny["model"]["quantization"] = "4bit"
    alone = variants(tiny)[:2]
    for one in alone:
        fit(one)
    together = [elsewhere(one, "together") for one in alone]
    fit_together(together)
    for one, other in zip(together, alone, strict=True):
        assert_equal_numbers(one, other, 1e-3)
