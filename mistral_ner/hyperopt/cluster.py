"""Ray for the length of a search: a private one on this machine, or one that runs already."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from mistral_ner.config import UserError
from mistral_ner.hyperopt import fits, reaper
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

log = logging.getLogger(__name__)


@contextmanager
def cluster(plan: Plan) -> Iterator[dict[str, float]]:
    """Start or join Ray; yields the CPUs and GPUs of one trial. Only what was started here is ended here.

    Raises:
        UserError: there is no Ray at ``ray_address``, or it cannot hold one trial.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    # Ray says at every start that its token authentication is on; it stays on
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # how a trial ended is ours to say
    started = not ray.is_initialized()
    if started:
        _connect(plan)
        handle_again()
    private = started and plan.config.hyperopt.ray_address is None
    with _gone_afterwards() if private else contextlib.nullcontext():
        try:
            yield _resources(plan)
        finally:
            if started:
                ray.shutdown()  # leaves a cluster that was joined


@contextmanager
def _gone_afterwards() -> Iterator[None]:
    """Have what Ray started here ended even if this process is killed: some of Ray's agents would live on."""
    command = [sys.executable, reaper.__file__, str(os.getpid())]
    # its standard input ends with this process; a Ctrl-C in the terminal is not for it
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()


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
        ray.init(hyperopt.ray_address, **common)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at hyperopt.ray_address={hyperopt.ray_address} ({str(error).splitlines()[0]}); "
            f"fix: ray start --head there first, or hyperopt.ray_address=null for a private one"
        ) from None


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


def _resources(plan: Plan) -> dict[str, float]:
    hyperopt = plan.config.hyperopt
    held: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpu = hyperopt.resources_per_trial.gpu
    one = {
        "cpu": cpus_per_trial(plan.config),
        "gpu": float(held.get("GPU", 0) > 0) if gpu is None else gpu,  # null: a whole one, where there are any
    }
    for kind, key in (("CPU", "cpu"), ("GPU", "gpu")):
        if one[key] > held.get(kind, 0):
            raise UserError(
                f"hyperopt.resources_per_trial.{key}={one[key]:g}, but Ray has {held.get(kind, 0):g} {kind}s; "
                f"fix: hyperopt.resources_per_trial.{key}={held.get(kind, 0):g}"
            )
    fit = min(int(held.get(kind, 0) // one[key]) for kind, key in (("CPU", "cpu"), ("GPU", "gpu")) if one[key] > 0)
    cores, gpus = fits.cores(), held.get("GPU", 0)
    if hyperopt.ray_address is None and hyperopt.resources_per_trial.cpu is None:
        fit = min(fit, cores)
    if plan.at_once > fit:
        share = gpus / plan.at_once
        log.warning(
            "hyperopt.max_concurrent=%d, but %d trials at once fit what there is (%d CPUs, %g GPUs)%s",
            *(plan.at_once, fit, cores, gpus),
            f"; hyperopt.resources_per_trial.gpu={share:.2g} lets them share GPUs, where memory allows it"
            if gpu is None and 0 < share < 1
            else "",
        )
    return one
