"""Ray for the length of a search: a private one on this machine, or one that runs already."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from mistral_ner.config import UserError
from mistral_ner.hyperopt import fits, reaper
from mistral_ner.hyperopt.machines import ask_every_machine, one_trial
from mistral_ner.hyperopt.plan import Plan, cpus_per_trial
from mistral_ner.hyperopt.signals import handle_again
from mistral_ner.hyperopt.storage import STORAGE_URL

ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning in workers
    "RAY_AIR_NEW_OUTPUT": "0",  # the progress lines are ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write their own result.json
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a broken trial reports its reason instead of the metric
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # the study is what a search is continued from, not Ray's snapshots
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a stopped trial may take the adapter off before its worker goes on
}

ATTEMPTS = 5  # to connect to a running Ray; one in three failed on two cores with Ray 2.60
NOT_STARTED = ("Starting Ray client server failed", "Proxy failed to Connect to backend")

log = logging.getLogger(__name__)


@contextmanager
def joined(plan: Plan) -> Iterator[None]:
    """Be in the Ray at ``ray_address``, where there is one, before a study is made; it is left running afterwards.

    Raises:
        UserError: there is no Ray, it cannot hold one trial, or one of its machines does not see the results folder.
    """
    if plan.config.hyperopt.ray_address is None or ray.is_initialized():
        yield
        return
    _prepare_process()
    _connect(plan)
    handle_again()
    try:
        one_trial(plan)
        ask_every_machine(plan)
        yield
    finally:
        ray.shutdown()


@contextmanager
def cluster(plan: Plan) -> Iterator[dict[str, float]]:
    """Yield the CPUs and GPUs of one trial in a Ray that is there, or in a private one that is gone afterwards.

    Raises:
        UserError: Ray cannot hold one trial.
    """
    _prepare_process()
    if ray.is_initialized():
        with _folder_for_tune():
            yield one_trial(plan, say=True)
        return
    before = psutil.Process().children()
    _connect(plan)
    handle_again()
    with _gone_afterwards(before):
        try:
            yield one_trial(plan, say=True)
        finally:
            ray.shutdown()


def _prepare_process() -> None:
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    # Ray says at every start that its token authentication is on; it stays on
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # how a trial ended is ours to say


@contextmanager
def _gone_afterwards(before: list[psutil.Process]) -> Iterator[None]:
    """Have Ray's processes ended even if this one is killed: some of its agents would live on; no other is touched."""
    command = [sys.executable, reaper.__file__, *(str(process.pid) for process in _of_ray(before))]
    # its standard input ends with this process; a Ctrl-C in the terminal is not for it
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()


def _of_ray(before: list[psutil.Process]) -> Iterator[psutil.Process]:
    """Yield the children that Ray started here: new ones whose program lies in its package."""
    package = str(Path(ray.__file__).parent)
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if process not in before and package in " ".join(process.cmdline()):
                yield process


@contextmanager
def _folder_for_tune() -> Iterator[None]:
    """Give Ray Tune a folder to put its files together in: a client (``ray://``) has none of Ray's own."""
    client: Any = ray.util.client.ray
    if not client.is_connected():
        yield
        return
    storage: Any = importlib.import_module("ray.train._internal.storage")
    theirs = storage._get_ray_train_session_dir
    with tempfile.TemporaryDirectory(prefix="mistral_ner-") as folder:
        storage._get_ray_train_session_dir = lambda: folder
        try:
            yield
        finally:
            storage._get_ray_train_session_dir = theirs


def _connect(plan: Plan) -> None:
    hyperopt = plan.config.hyperopt
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": ENVIRONMENT},
    }
    if hyperopt.ray_address is None:
        cpus = max(fits.cores(), math.ceil(cpus_per_trial(plan.config) * plan.at_once))
        with _on_loopback():
            ray.init("local", num_cpus=cpus, include_dashboard=False, **common)
        return
    try:
        _reach(hyperopt.ray_address)
        _initialize(hyperopt.ray_address, **common)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at hyperopt.ray_address={hyperopt.ray_address} ({_cause(error)}); "
            f"fix: ray start --head there first, or hyperopt.ray_address=null for a private one"
        ) from None


def _initialize(address: str, **settings: Any) -> None:
    """Connect to a running Ray; a few times where it is Ray's own doing that a client's server did not start.

    The process that makes those servers forks with gRPC's threads running, which ends some of the forked in their
    first moments (https://github.com/ray-project/ray/issues/63202).

    Raises:
        OSError, ValueError, RuntimeError: what kept Ray from it the last time.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            ray.init(address, **settings)
            return
        except (OSError, ValueError, RuntimeError) as error:
            ray.shutdown()  # a failed client leaves this process in Ray's client mode
            if not left or not any(text in str(error) for text in NOT_STARTED):
                raise
            log.warning("%s did not serve this client (%s); trying again", address, _cause(error))


def _cause(error: Exception) -> str:
    """Return an error on one line; of a server's traceback, the last one."""
    text = str(error).strip()
    return " ".join((text.splitlines()[-1] if "Traceback" in text else text).split())


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have the Ray that is started inside listen on this machine alone: on all its addresses otherwise.

    Ray takes 127.0.0.1 for any address that is given to it, unless it is told that there are no clusters.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def with_storage(plan: Plan, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` as a Ray task's that writes into the study, in a Ray that runs already, too.

    The storage's URL may hold a password. As a part of the pickled function it stays out of what Ray logs and shows,
    unlike a task's ``runtime_env``.
    """
    url = plan.config.hyperopt.storage_url

    def task(*arguments: Any) -> Any:
        if url is not None:
            os.environ[STORAGE_URL] = url
        return function(*arguments)

    return task


def _reach(address: str) -> None:
    """Knock at ``host:port`` or ``ray://host:port`` first: Ray itself tries for minutes.

    Raises:
        OSError: nobody is there.
    """
    with contextlib.suppress(ImportError):  # Ray before 2.52 has no tokens
        from ray._private.authentication import authentication_token_setup as tokens

        # Ray itself takes up this machine's token for address=auto alone
        tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
