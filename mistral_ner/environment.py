"""Environment variables: those that another launcher or agent left, and those that a library sets for a while."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

# torchrun, Kubeflow and MPI: torch and accelerate would wait for the other processes, which train something else
_DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "FORK_LAUNCHED")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
# an agent's run: every training would be written into it, one over the other
_RUN = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_SWEEP_PARAM_PATH")
_MLFLOW = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_NESTED_RUN")
_NAMES = frozenset((*_DISTRIBUTED, *_ADDRESS, *_RUN, *_MLFLOW))
# accelerate launch: precision, device, accumulation and sharding, which the config decides
_PREFIXES = (
    *("ACCELERATE_", "TORCHELASTIC_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_"),
    *("OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "PMI_", "MPI_LOCAL"),
)


def forget_other_launchers() -> list[str]:
    """Take what another launcher or agent left out of this process's environment, and return the variables' names.

    To be called before accelerate or a tracker begins. Processes that are started later do not inherit them.
    """
    found = sorted(name for name in os.environ if name in _NAMES or name.startswith(_PREFIXES))
    for name in found:
        del os.environ[name]
    if found:
        log.warning(
            "left aside: %s in the environment, from another launcher or run; a training has one process, one device "
            "and a run of its own in the tracker",
            ", ".join(found),
        )
    return found


@contextmanager
def restore_variable(name: str) -> Iterator[None]:
    """Put an environment variable back when the block ends, whatever it has become inside."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
