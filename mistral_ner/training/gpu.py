"""What a worker does with the GPU of its trials: it keeps to its share, and notices when the GPU computes no more."""

from __future__ import annotations

import sys

from mistral_ner.config.schema import Config


def keep_to_share(config: Config) -> None:
    """Let this process take no more of its GPU's memory than its trials' share, so that it cannot starve the others."""
    share = config.hyperopt.resources_per_trial.gpu
    if share is None or not 0 < share < 1:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def device_works() -> bool:
    """Return whether this process can still compute: after some CUDA errors, every later call fails alike."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
