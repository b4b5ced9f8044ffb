"""How many trials this machine can run at once."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

from mistral_ner.config.schema import Config

_NVML, _AMD = "libnvidia-ml.so.1", "/dev/kfd"  # there wherever a driver is, in WSL2 and gVisor too


def cores() -> int:
    """Return the number of CPUs that this process may use: a container, a job or taskset may allow it fewer."""
    import joblib  # late: it takes a tenth of a second

    found: int = joblib.cpu_count()
    return found


def gpus() -> int:
    """Return the number of GPUs that this process may use; torch, which counts them, is imported if there is a driver.

    Both torch and Ray ask NVML (NVIDIA's management library).
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "NoDevFiles") or not _has_driver():
        return 0
    import torch

    return torch.cuda.device_count()


def _has_driver() -> bool:
    try:
        ctypes.CDLL(_NVML)
    except OSError:
        return Path(_AMD).exists()
    return True


def on_cards(config: Config) -> int | None:
    """Return how many trials this machine's GPUs hold; None if trials use none, or those of a cluster.

    Trials that go through the base model together use the GPU of one.
    """
    gpu = config.hyperopt.resources_per_trial.gpu
    if gpu == 0 or config.hyperopt.ray_address is not None or not (found := gpus()):
        return None
    # a trial has whole cards, or a part of one
    passes = found // int(gpu) if gpu and gpu > 1 else found * max(1, int(1 / (gpu or 1) + 1e-9))
    return passes * config.hyperopt.trials_per_pass


def count_passes(config: Config, trials: int) -> int:
    """Return how many workers run that many trials at once: one a trial, or one for those of a pass."""
    return math.ceil(trials / config.hyperopt.trials_per_pass)


def trials_at_once(config: Config) -> int:
    """Return how many trials fit by ``resources_per_trial``; its default is one CPU, and one GPU if there are any.

    Trials that go through the base model together count as one.
    The result is at most the number of trials of the search, so that a few trials share the whole machine.
    """
    fit = int(cores() / (config.hyperopt.resources_per_trial.cpu or 1)) * config.hyperopt.trials_per_pass
    if (held := on_cards(config)) is not None:
        fit = min(fit, held)
    return max(1, min(fit, config.hyperopt.num_trials))
