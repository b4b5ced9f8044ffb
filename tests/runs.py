"""What tests of trainings share: another folder for a config, and what a training has left in its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mistral_ner.training.checkpoint import reports_on_disk

TIMES = ("time_s", "eval_seconds")  # of a report, other in every run


def elsewhere(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a copy of a config that trains in another folder beside its own."""
    config = copy.deepcopy(config)
    config["output_dir"] = str(Path(config["output_dir"]).parent / name)
    return config


def reports(folder: str | Path) -> list[dict[str, Any]]:
    """Return the reports of a training, without their times."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in reports_on_disk(Path(folder))]


def weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the trained weights of a finished training."""
    return load_file(Path(config["output_dir"]) / "adapter" / "adapter_model.safetensors")
