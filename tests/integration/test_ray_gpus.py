"""What a trial without a GPU sees of the machine's cards, in a Ray that has some (pretended here)."""

from __future__ import annotations

import os

import pytest
import ray

pytestmark = pytest.mark.usefixtures("ray_for_all")


@pytest.fixture(scope="module")
def ray_gpus() -> int:
    return 2


@pytest.mark.parametrize(("gpu", "seen"), [(0, [""]), (1, ["0", "1"]), (2, ["0,1"])])
def test_a_trial_sees_its_own_cards_only(gpu: int, seen: list[str]) -> None:
    class Trial:
        def cards(self) -> str | None:
            return os.environ.get("CUDA_VISIBLE_DEVICES")

    trial = ray.remote(num_cpus=1, num_gpus=gpu)(Trial).remote()
    assert ray.get(trial.cards.remote()) in seen
    ray.kill(trial)
