"""Provides Ray for as long as a search runs: starts a private one on this machine, or connects to a running one."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster import private, reaper
from mistral_ner.hyperopt.cluster.address import ask_for_token, connect, describe_cause, show_token
from mistral_ner.hyperopt.cluster.machines import ask_every_machine, count_room, one_trial, wait_for_machines
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan, cpus_per_trial
from mistral_ner.hyperopt.study.signals import handle_again
from mistral_ner.hyperopt.study.storage import STORAGE_URL

ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning in workers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial without a GPU sees none
    "RAY_AIR_NEW_OUTPUT": "0",  # the progress lines are ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write their own result.json
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a broken trial reports its reason instead of the metric
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # the study is what a search is continued from, not Ray's snapshots
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a stopped trial may take the adapter off before its worker goes on
}

log = logging.getLogger(__name__)


@contextmanager
def join(plan: Plan) -> Iterator[None]:
    """Connect to the Ray at ``ray_address``, if one is given, before a study exists; leave it running afterwards.

    Raises:
        UserError: no Ray runs there, it has no room for a trial, a machine cannot run one, or Ray has gone meanwhile.
    """
    if plan.config.hyperopt.ray_address is None or ray.is_initialized():
        yield
        return
    _prepare_process()
    with show_token(plan.config.hyperopt.ray_address):
        connect(plan.config.hyperopt.ray_address, **_COMMON)
        handle_again()
        outside = private.is_client()
        try:
            wait_for_machines()
            plan.room.count = count_room(one_trial(plan), plan.room.strangers)
            ask_every_machine(plan)
            yield
        except Exception as error:
            if outside and not private.is_client():
                raise UserError(
                    f"the Ray at hyperopt.ray_address={plan.config.hyperopt.ray_address} is gone; the study is kept\n"
                    f"  fix: python -m mistral_ner.hyperopt.resume {plan.folder} --ray-address ADDRESS, once Ray runs "
                    "again"
                ) from error
            raise
        finally:
            ray.shutdown()


@contextmanager
def lend_cluster(plan: Plan) -> Iterator[dict[str, float]]:
    """Yield the CPUs and GPUs of one trial, in the Ray that is connected or in a private one that ends afterwards.

    Raises:
        UserError: Ray has no room for a trial.
    """
    _prepare_process()
    if ray.is_initialized():
        with private.lend_folder_to_tune():
            yield one_trial(plan, say=True)
        return
    before, folder = psutil.Process().children(), make_short_folder()
    with ask_for_token():
        try:
            _start(plan, folder)
        except BaseException:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        handle_again()
        with _end_afterwards(before, folder):
            try:
                yield one_trial(plan, say=True)
            finally:
                ray.shutdown()


def _prepare_process() -> None:
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # how a trial ended is ours to say


@contextmanager
def _end_afterwards(before: list[psutil.Process], folder: Path) -> Iterator[None]:
    """End the processes of our private Ray even if this process is killed: some of Ray's agents would live on.

    Then ``folder``, where they keep their files, is removed.
    """
    command = [sys.executable, reaper.__file__, str(folder), *(str(process.pid) for process in _of_ray(before))]
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


_COMMON: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "runtime_env": {"env_vars": ENVIRONMENT},
}


def _start(plan: Plan, folder: Path) -> None:
    """Start a private Ray that keeps its files in ``folder``.

    Raises:
        UserError: it does not start; the message has Ray's reason.
    """
    cpus = max(capacity.cores(), math.ceil(cpus_per_trial(plan.config) * plan.passes))
    try:
        with private.listen_on_loopback():
            ray.init(
                "local",
                num_cpus=cpus,
                num_gpus=capacity.gpus(),  # what torch can use: without CUDA it would train on the CPU and hold a card
                include_dashboard=False,
                _temp_dir=str(folder),
                **_COMMON,
            )
    except Exception as error:  # whatever its parts raise
        raise UserError(
            f"a private Ray does not start in {folder} ({describe_cause(error)})\n"
            f"  fix: RAY_TMPDIR=SHORT_FOLDER before the command, or without Ray: hyperopt=optuna "
            f"hyperopt.max_concurrent=1"
        ) from error


def make_short_folder() -> Path:
    """Create a folder for Ray's files whose name leaves room for its sockets.

    Ray's own choice, ``/tmp/ray``, may belong to somebody else, and TMPDIR may have a long name.

    Raises:
        UserError: there is no such folder that can be written to.
    """
    given = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    wanted = [path for path in (*given, "/tmp", "/var/tmp") if path]
    for parent in wanted:
        if len(os.fsencode(parent)) > _LONGEST_PARENT:
            log.info("%s is too long a name for Ray's sockets", parent)
            continue
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="ner-", dir=Path(parent).absolute()))
    raise UserError(
        f"a private Ray needs a folder that can be written to, with a name of at most {_LONGEST_PARENT} bytes for its "
        f"sockets, found none in {', '.join(wanted)}\n  fix: RAY_TMPDIR=SHORT_FOLDER before the command"
    )


# Linux takes 107 bytes as the name of a socket. Ray's are PARENT/ner-12345678 (13), then
# /session_2026-01-31_12-00-00_123456_1234567 (43), then /sockets/plasma_store (21) or a little longer.
_LONGEST_PARENT = 107 - 13 - 43 - 21 - 6


def with_storage(plan: Plan, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` for a Ray task that writes into the study: it sets the storage's URL in the worker first.

    The URL may hold a password. Ray logs and shows a task's ``runtime_env``, but not what a pickled function holds.
    """
    url = plan.config.hyperopt.storage_url

    def task(*arguments: Any) -> Any:
        if url is not None:
            os.environ[STORAGE_URL] = url
        return function(*arguments)

    return task
