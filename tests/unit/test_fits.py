"""How many trials run at once where nobody says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistral_ner.config import ConfigError
from mistral_ner.hyperopt import fits
from mistral_ner.hyperopt.plan import Plan, cpus_per_trial


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
    monkeypatch.setattr(fits, "cores", lambda: cores)
    monkeypatch.setattr(fits, "gpus", lambda: gpus)
    made = plan(**hyperopt)
    assert (made.at_once, cpus_per_trial(made.config), made.config.training.threads) == (at_once, cpus, threads)


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fits, "_DRIVERS", (str(tmp_path / "none"),))
    assert fits.gpus() == 0


def test_a_trial_that_the_machine_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "cores", lambda: 2)
    with pytest.raises(ConfigError, match="1 trials of 8 CPUs do not fit this machine's 2"):
        plan(resources_per_trial={"cpu": 8})


def test_a_cluster_is_not_guessed_at() -> None:
    with pytest.raises(ConfigError, match=r"hyperopt.max_concurrent: must be set with ray_address"):
        plan(ray_address="auto")
