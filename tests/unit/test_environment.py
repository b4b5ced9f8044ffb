"""Variables of other launchers: what is taken out, what is obeyed, and that a trial does not see them."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from mistral_ner.environment import forget_other_launchers

LAUNCHERS = {
    "torchrun": {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
    "accelerate": {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    "mpirun": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "PMI_SIZE": "2"},
    "wandb": {"WANDB_RUN_ID": "abc", "WANDB_RESUME": "must", "WANDB_SWEEP_ID": "x"},
    "mlflow": {"MLFLOW_RUN_ID": "abc", "MLFLOW_EXPERIMENT_NAME": "theirs"},
}
OBEYED = {"WANDB_MODE": "offline", "WANDB_API_KEY": "k", "MLFLOW_TRACKING_URI": "u", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_another_launcher_left_is_taken_out_and_said(
    launcher: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {**LAUNCHERS[launcher], **OBEYED}.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        assert set(forget_other_launchers()) == set(LAUNCHERS[launcher])
    assert len(caplog.records) == 1
    assert all(name in caplog.text for name in LAUNCHERS[launcher])
    assert set(OBEYED) <= set(os.environ)
    assert not set(LAUNCHERS[launcher]) & set(os.environ)
    assert forget_other_launchers() == [], "it is said once"


def test_a_training_of_two_processes_is_a_training_of_one(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import AcceleratorState, PartialState

    from mistral_ner.train import fit

    for name, value in {**LAUNCHERS["torchrun"], **LAUNCHERS["accelerate"]}.items():
        monkeypatch.setenv(name, value)
    AcceleratorState._reset_state(reset_partial_state=True)  # what an earlier test began
    try:
        fit(tiny)
        assert PartialState().num_processes == 1
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
