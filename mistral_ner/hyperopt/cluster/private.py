"""Every private name of Ray that this project uses, each with the reason why no public one does.

A new version of Ray may move them. ``tests/unit/test_private_names.py`` says first which one moved.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


def keep_no_averages(trial: Trial) -> None:
    """Let Ray Tune keep no averages over a trial's last reports, which it keeps for every metric for ever.

    They are two deques a metric, 14 kB a trial, and nobody reads them here. No setting switches them off.
    """
    trial.run_metadata._n_steps = ()  # type: ignore[assignment]  # declared as a tuple of one


def is_client() -> bool:
    """Tell whether this process has joined a Ray from outside (``ray://``), through a server on its head."""
    client: Any = ray.util.client.ray
    return bool(client.is_connected())


@contextmanager
def lend_folder_to_tune() -> Iterator[None]:
    """Give Ray Tune a folder to collect its files in, if this process is a client (``ray://``).

    Tune takes the session folder of the Ray on this machine, and a client has none. No setting names another.
    """
    if not is_client():
        yield
        return
    storage: Any = importlib.import_module("ray.train._internal.storage")
    original = storage._get_ray_train_session_dir
    with tempfile.TemporaryDirectory(prefix="mistral_ner-") as folder:
        storage._get_ray_train_session_dir = lambda: folder
        try:
            yield
        finally:
            storage._get_ray_train_session_dir = original


@contextmanager
def listen_on_loopback() -> Iterator[None]:
    """Make a Ray that is started inside listen on this machine only, not on all its addresses.

    Ray replaces 127.0.0.1 by the address in the network, even if ``ray.init`` is given it, unless clusters are off.
    The environment variable for that is read once, at the first import of Ray.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def take_up_token_mode() -> None:
    """Let RAY_AUTH_MODE count from now on; Ray reads it once, at its import, and again where it chooses itself."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()  # else a token that was read once is asked of others, too


def waiting_trials(tune_controller: Any) -> Iterator[Trial]:
    """Yield the trials of Ray Tune that wait for a worker, without those whose worker is starting.

    What Tune shows to its schedulers says neither which trials are live nor which of them has a worker.
    """
    controller = tune_controller._tune_controller
    workers: dict[Trial, Any] = controller._trial_to_actor
    is_starting = controller._actor_manager.is_actor_started  # Ray has room for it and creates it
    for trial in controller.get_live_trials():
        if trial.status == trial.PENDING and not (trial in workers and is_starting(workers[trial])):
            yield trial
