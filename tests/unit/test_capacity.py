"""How many trials run at once where nobody says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mistral_ner.errors import ConfigError
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan, cpus_per_trial


def plan(**hyperopt: Any) -> Plan:
    return Plan.of(
        {
            "output_dir": "out",
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}},
            "hyperopt": {"strategy": "combined", **hyperopt},
        }
    )


@pytest.mark.parametrize(
    ("cores", "gpus", "hyperopt", "at_once", "cpus", "threads"),
    [
        (2, 0, {}, 2, 1.0, 1),
        (16, 0, {}, 16, 1.0, 1),
        (64, 0, {"num_trials": 20}, 20, 3.2, 3),  # fewer trials than CPUs: each has more of them
        (16, 0, {"resources_per_trial": {"cpu": 4}}, 4, 4.0, 4),
        (16, 1, {}, 1, 16.0, 16),
        (16, 2, {"resources_per_trial": {"gpu": 0.5}}, 4, 4.0, 4),
        (16, 4, {"resources_per_trial": {"cpu": 8}}, 2, 8.0, 8),
        (16, 4, {"resources_per_trial": {"gpu": 0}}, 16, 1.0, 1),
        (2, 0, {"max_concurrent": 4}, 4, 0.5, 1),
        (16, 1, {"max_concurrent": 8}, 1, 16.0, 16),  # as budget=prod says: seven would be proposed blindly
        (16, 1, {"max_concurrent": 8, "resources_per_trial": {"gpu": 0.5}}, 2, 8.0, 8),
        (16, 2, {"max_concurrent": 8, "resources_per_trial": {"gpu": 0.4}}, 4, 4.0, 4),  # a trial lies on one card
        (16, 1, {"max_concurrent": 8, "resources_per_trial": {"gpu": 0}}, 8, 2.0, 2),
        (16, 2, {"max_concurrent": 8, "resources_per_trial": {"cpu": 8}}, 2, 8.0, 8),
        (16, 4, {"max_concurrent": 2}, 2, 8.0, 8),
    ],
)
def test_as_many_as_fit(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gpus: int,
    hyperopt: dict[str, Any],
    at_once: int,
    cpus: float,
    threads: int,
) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: cores)
    monkeypatch.setattr(capacity, "gpus", lambda: gpus)
    made = plan(**hyperopt)
    assert (made.at_once, cpus_per_trial(made.config), made.config.training.threads) == (at_once, cpus, threads)


def test_fewer_than_asked_for_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: 2)
    plan(max_concurrent=8)
    plan(max_concurrent=8, resources_per_trial={"gpu": 0.5})
    plan(max_concurrent=2)
    assert caplog.messages == [
        "hyperopt.max_concurrent=8, but this machine's GPUs hold 2 of its trials: 2 at once; "
        "hyperopt.resources_per_trial.gpu=0.5 puts two on one, where memory allows it",
        "hyperopt.max_concurrent=8, but this machine's GPUs hold 4 of its trials: 4 at once",
    ]


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(capacity, "_NVML", "libno-such-library.so.1")
    monkeypatch.setattr(capacity, "_AMD", str(tmp_path / "none"))
    assert capacity.gpus() == 0
    monkeypatch.setattr(capacity, "_AMD", str(tmp_path))
    assert capacity.gpus() == 3
    for hidden in ("", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert capacity.gpus() == 0


def test_the_driver_is_found_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """WSL2 and gVisor have no /proc/driver/nvidia; Ray loads this library there, too."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(capacity, "_NVML", "libc.so.6")
    monkeypatch.setattr(capacity, "_AMD", str(tmp_path / "none"))
    assert capacity.gpus() == 3


def test_a_trial_on_a_card_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: 0)
    with pytest.raises(ConfigError, match=r"a trial of 0.5 GPUs does not fit this machine, which has none"):
        plan(max_concurrent=2, resources_per_trial={"gpu": 0.5})


def test_a_trial_that_the_machine_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: 2)
    with pytest.raises(
        ConfigError, match=r"resources_per_trial.cpu: a trial of 8 CPUs does not fit this machine, which has 2"
    ):
        plan(resources_per_trial={"cpu": 8})


def test_a_cluster_is_taken_as_it_grows() -> None:
    found = plan(ray_address="auto", num_trials=8)
    assert (found.grows, found.at_once, found.config.hyperopt.max_concurrent) == (True, 1, None)
    for room, at_once in ((3, 3), (5, 5), (20, 8)):
        found.room.count = lambda: room  # noqa: B023
        assert (found.at_once, found.passes) == (at_once, at_once)
    assert not plan(ray_address="auto", max_concurrent=2).grows
    in_passes = plan(ray_address="auto", num_trials=8, trials_per_pass=3)
    for room, at_once, passes in ((1, 3, 1), (2, 6, 2), (5, 8, 3)):
        in_passes.room.count = lambda: room  # noqa: B023
        assert (in_passes.at_once, in_passes.passes) == (at_once, passes)
