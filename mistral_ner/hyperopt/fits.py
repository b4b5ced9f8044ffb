"""How many trials this machine holds at once."""

from __future__ import annotations

import os
from pathlib import Path

from mistral_ner.config import Config

_DRIVERS = ("/proc/driver/nvidia/gpus", "/dev/kfd")  # NVIDIA's and AMD's


def cores() -> int:
    """Return the CPUs of this machine."""
    return os.cpu_count() or 1


def gpus() -> int:
    """Return the GPUs that trials on this machine may use; torch is imported only where there is a driver."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()


def trials_at_once(config: Config) -> int:
    """Return how many trials fit, by ``resources_per_trial``: one a CPU, or one a GPU where there are any.

    Never more than the search has trials, so that few of them share all of the machine.
    """
    hyperopt, wanted = config.hyperopt, config.hyperopt.resources_per_trial
    fit = cores() / (wanted.cpu or 1)
    gpu = 1.0 if wanted.gpu is None else wanted.gpu
    if gpu and (there := gpus()):
        fit = min(fit, there / gpu)
    return max(1, min(int(fit), hyperopt.num_trials))
