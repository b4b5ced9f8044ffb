"""What only a card can show: its memory, its waits, and several trials on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from card import measured, reports

from mistral_ner.config.check import check
from mistral_ner.model import base_model, forget_base
from mistral_ner.model.memory.plan import plan_memory
from mistral_ner.train import OutOfMemoryError, fit
from mistral_ner.training import memory
from mistral_ner.training.fit import fit_together
from mistral_ner.training.inputs.prepare import prepare
from mistral_ner.training.trainer import NerTrainer

pytestmark = pytest.mark.needs_card


def peak(run: dict[str, Any]) -> tuple[int, float]:
    """Return the most bytes that a training allocates, and its seconds a step."""
    forget_base()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    fit(run)
    return torch.cuda.max_memory_allocated(), (time.monotonic() - began) / 24


@pytest.fixture
def full(run: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Batches of sixteen windows that are full."""
    words = "Ada\tB-PER\nsaw\tO\nOslo\tB-LOC\n.\tO\n" * 150
    for split in ("train", "dev", "test"):
        run["data"][f"{split}_file"] = str(tmp_path / f"{split}.txt")
        (tmp_path / f"{split}.txt").write_text(f"{words}\n" * (64 if split == "train" else 4))
    run["data"]["max_length"] = 512
    run["training"] |= {"num_epochs": 1, "per_device_train_batch_size": 16}
    return run


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_the_plan_is_the_peak(full: dict[str, Any], quantization: str, checkpointing: bool) -> None:
    full["model"] |= {"quantization": quantization, "gradient_checkpointing": checkpointing}
    config = check(full)
    tokenizer, data = prepare(config)
    plan = plan_memory(config, len(data.labels), len(tokenizer), 512, True)
    found, seconds = peak(full)
    wanted = (plan.total or 0) - 0.6e9  # without CUDA's own, which the allocator does not count
    planned = f"{quantization:5} checkpointing={checkpointing!s:5} planned {wanted / 1e9:6.2f} GB"
    measured.append(f"{planned}, measured {found / 1e9:6.2f} GB, {16 * 512 / seconds:8.0f} tokens/s")
    assert wanted == pytest.approx(found, rel=0.15)


def test_checkpointing_takes_less_than_half(full: dict[str, Any]) -> None:
    whole, _ = peak({**full, "output_dir": full["output_dir"] + "_whole"})
    full["model"]["gradient_checkpointing"] = True
    assert peak(full)[0] < 0.5 * whole


def test_memory_comes_back_after_failed_trials(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One is planted, one is real: more rows than any card holds."""
    fit({**run, "output_dir": run["output_dir"] + "_0"})
    before = torch.cuda.memory_allocated()
    own = NerTrainer.training_step
    with monkeypatch.context() as broken:

        def step(self: NerTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
            own(self, *args, **kwargs)
            raise torch.OutOfMemoryError("CUDA out of memory")

        broken.setattr(NerTrainer, "training_step", step)
        with pytest.raises(OutOfMemoryError):
            fit({**run, "output_dir": run["output_dir"] + "_1"})
    assert torch.cuda.memory_allocated() <= before + 1e6
    hog = torch.empty(int(torch.cuda.mem_get_info()[0] - 50e6), dtype=torch.uint8, device="cuda")
    with pytest.raises(OutOfMemoryError):
        fit({**run, "output_dir": run["output_dir"] + "_2"})
    del hog
    assert torch.cuda.memory_allocated() <= before + 1e6
    fit({**run, "output_dir": run["output_dir"] + "_3"})


def test_no_step_waits(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step to a report CUDA raises at whatever would make the host wait."""
    own_step, own_loss = NerTrainer.training_step, NerTrainer.take_train_loss

    def step(self: NerTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = own_step(self, *args, **kwargs)
        torch.cuda.set_sync_debug_mode("error")
        return loss

    def take(self: NerTrainer, steps: int) -> float:
        torch.cuda.set_sync_debug_mode("default")
        return own_loss(self, steps)

    monkeypatch.setattr(NerTrainer, "training_step", step)
    monkeypatch.setattr(NerTrainer, "take_train_loss", take)
    try:
        fit(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_pass_is_faster_than_trials_in_turn(run: dict[str, Any]) -> None:
    """Eight trials of few short sentences, where a step is spent on starting kernels."""
    configs = []
    for number in range(16):
        training = {**run["training"], "per_device_train_batch_size": 4, "num_epochs": 6, "reports": 1}
        configs.append({**run, "output_dir": f"{run['output_dir']}_{number}", "training": training})
    fit(configs[0])
    began = time.monotonic()
    for one in configs[1:8]:
        fit(one)
    in_turn = (time.monotonic() - began) / 7
    began = time.monotonic()
    fit_together(configs[8:])
    together = (time.monotonic() - began) / 8
    measured.append(
        f"a trial takes {in_turn:.1f} s in turn, {together:.1f} s among eight: {in_turn / together:.1f} times"
    )
    assert together < in_turn


def test_reports_have_the_peak_and_memory_decides_what_is_computed_again(full: dict[str, Any]) -> None:
    full["model"]["gradient_checkpointing"] = "auto"
    full["training"]["num_epochs"] = 0.5
    found = []
    for number, room in enumerate((1e12, 0.0)):
        one = {**full, "output_dir": f"{full['output_dir']}_{number}"}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(memory, "room_of_process", lambda cards=1, room=room: room)
            fit(one)
        found.append(max(row["gpu_memory_gb"] for row in reports(one)))
    assert 0 < found[1] < 0.6 * found[0]


@pytest.mark.parametrize("together", [1, 2])
def test_two_trials_on_a_card(run: dict[str, Any], tmp_path: Path, together: int) -> None:
    """A search with its final trainings, each pair of trials on one card: in two processes, or in a pass."""
    pytest.importorskip("ray")
    from mistral_ner.hyperopt import search

    base_model(check(run).model, 300)
    forget_base()  # the workers load their own
    run["search_space"] = {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}}
    run["hyperopt"] = {
        "strategy": "combined",
        "num_trials": 4,
        "max_concurrent": 2,
        "trials_per_pass": together,
        "resources_per_trial": {"gpu": 0.5 if together == 1 else 1, "cpu": 1},
        "asha_grace_period": 1,
        "asha_max_t": 3,
        "results_dir": str(tmp_path),
        "study_name": "s",
        "final": {"top_k": 1, "seeds": 1},
    }
    found = search(run)
    assert found.n_failed == 0
    assert found.final is not None
