"""A worker that lives through a hundred trainings is no larger than after ten."""

from __future__ import annotations

import copy
import gc
import os
from pathlib import Path
from typing import Any

import torch

from mistral_ner.train import fit


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def test_a_hundred_trainings(tiny: dict[str, Any], cold: None) -> None:
    tiny["training"] |= {"num_epochs": 0.1, "reports": 1}
    sizes, tensors = [], []
    for number in range(100):
        config = copy.deepcopy(tiny)
        config["output_dir"] = str(Path(tiny["output_dir"]).parent / f"{number}")
        config["seed"] = number
        config["model"] |= {"lora_r": (2, 4, 8)[number % 3], "tuning": ("lora", "full")[number % 10 == 0]}
        fit(config)
        if number in (9, 99):
            tensors.append(live_tensors())
            sizes.append(resident_bytes())
    assert tensors[0] == tensors[1], "tensors of an earlier training are still there"
    assert sizes[1] < 1.05 * sizes[0]
