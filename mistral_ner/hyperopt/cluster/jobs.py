"""Runs functions as jobs of Slurm, or as processes of this machine in its place, through submitit.

A job is one process: Slurm starts it when there is room, and what it returns comes back through a file. The package's
own launcher waits until all the jobs that it was given are done; here the slot of a job that has ended is filled at
once.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from mistral_ner import files
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.workers import Call, Remote, WorkerDiedError
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.study import WORKER_DIED

GIVEN = "jobs.txt"  # in the study's folder: the jobs of a search that have not ended, one "CLUSTER ID" a line
_OF_EXECUTOR = ("submitit_folder", "max_num_timeout", "python")  # the launcher's settings that are no job's
_SHARED = (
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name"),
    "stderr_to_stdout",
)
_POLL = 0.1  # seconds; a look at a file, submitit asks Slurm itself more rarely


def is_submitit(launcher: Any) -> bool:
    """Return whether a Hydra launcher is one of hydra-submitit-launcher."""
    return type(launcher).__module__.startswith("hydra_plugins.hydra_submitit_launcher")


def check_launcher(launcher: Any) -> None:
    """Check the settings of the jobs before anything is written.

    Raises:
        UserError: there is no Slurm here, a job would be more than one process, or submitit does not know a setting.
    """
    for key in ("nodes", "tasks_per_node"):
        if launcher.params.get(key) not in (None, 1):
            raise UserError(
                f"hydra.launcher.{key}: a trial is one process, found {launcher.params[key]}; "
                f"fix: hydra.launcher.{key}=1, and hyperopt.max_concurrent for more trials at once"
            )
    with tempfile.TemporaryDirectory() as folder:
        try:
            _executor(launcher, folder)
        except RuntimeError as error:
            if "srun" not in str(error):
                raise
            raise UserError(
                "hydra/launcher=submitit_slurm: this machine has no srun, so it cannot give jobs to Slurm; "
                "fix: start the search on a login node, or hydra/launcher=submitit_local to try it here"
            ) from None
        except (AssertionError, TypeError, ValueError, NameError) as error:
            raise UserError(f"hydra.launcher: {' '.join(str(error).split())}") from None


def _executor(launcher: Any, folder: str) -> Any:
    """Return submitit's executor with the launcher's settings."""
    import submitit

    cluster, given = launcher._EXECUTOR, {key: value for key, value in launcher.params.items() if value is not None}
    own = {f"{cluster}_{key}": given[key] for key in _OF_EXECUTOR[1:] if key in given}
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **own)
    of_job = {key if key in _SHARED else f"{cluster}_{key}": given[key] for key in given if key not in _OF_EXECUTOR}
    executor.update_parameters(**of_job)
    return executor


class JobWorkers(Remote):
    """Runs each call as a job of its own, as many at once as the search runs trials.

    Jobs that an earlier run of the search left behind are ended first, since their trials are run again.

    Args:
        plan: the search.
        launcher: hydra-submitit-launcher's, after its setup.
    """

    elsewhere = True

    def __init__(self, plan: Plan, launcher: Any) -> None:
        self.at_once = plan.at_once
        self._cluster, self._given = launcher._EXECUTOR, plan.folder / GIVEN
        _cancel_all(self._given)
        self._executor = _executor(launcher, launcher.params["submitit_folder"])
        self._waiting: list[Call] = []
        self._running: list[tuple[Any, Call]] = []  # submitit's job
        self._refused: list[Call] = []

    def start(self, function: Callable[..., Any], *arguments: Any) -> Call:
        """Call ``function`` in a job as soon as a slot is free; return a handle that :meth:`ended` returns again."""
        call = Call(function, arguments)
        self._waiting.append(call)
        self._submit()
        return call

    def _submit(self) -> None:
        import submitit
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError

        while self._waiting and len(self._running) < self.at_once:
            call = self._waiting.pop(0)
            function = call.function if hasattr(call.function, "checkpoint") else _Again(call.function)
            try:
                with submitit.helpers.clean_env():  # what Slurm told the job that this search may itself be
                    job = self._executor.submit(function, *call.arguments)
            except (UncompletedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
                call.error = WorkerDiedError(f"{self._cluster} took no job: {_last_line(error)}")
                self._refused.append(call)
                continue
            self._running.append((job, call))
            self._note()

    def _note(self) -> None:
        files.write_text(self._given, "".join(f"{self._cluster} {job.job_id}\n" for job, _ in self._running))

    def ended(self, seconds: float) -> list[Call]:
        """Wait up to ``seconds`` for a job to end; return the calls of all that have ended."""
        until = time.monotonic() + seconds
        while True:
            calls, self._refused = self._refused, []
            done = [(job, call) for job, call in self._running if job.done()]
            calls += [_settle(job, call) for job, call in done]
            if done:
                self._running = [one for one in self._running if one not in done]
                self._note()
            self._submit()
            if calls or time.monotonic() >= until:
                return calls
            time.sleep(_POLL)

    def close(self) -> None:
        """End the jobs, whatever they are doing."""
        if self._running:
            _cancel_all(self._given)
        self._waiting, self._running = [], []
        self._given.unlink(missing_ok=True)


class _Again:
    """A function whose job Slurm may take back and start again: a training continues where it stopped."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def checkpoint(self, *arguments: Any) -> Any:
        """Return what submitit submits again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def _settle(job: Any, call: Call) -> Call:
    """Give a call what its job returned or raised."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        call.result = job.result()
    except FailedJobError as error:  # holds the job's own traceback
        reason = str(error).partition("-\n")[2].partition("\n--")[0]
        call.error = RuntimeError(_last_line(reason) or str(error))
    except UncompletedJobError:
        call.error = WorkerDiedError(WORKER_DIED)
    return call


def _last_line(error: object) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")


def _cancel_all(given: Path) -> None:
    """End every job that a file names and that still waits or runs."""
    lines = given.read_text(encoding="utf-8").splitlines() if given.exists() else []
    jobs = [line.split() for line in lines if line.count(" ") == 1]
    slurm = [number for cluster, number in jobs if cluster == "slurm"]
    if slurm:
        # submitit's jobs do not hear SIGTERM, and would go on writing until Slurm's patience ends
        for command in (["scancel"], ["scancel", "--full", "--signal=KILL"]):
            with contextlib.suppress(OSError):
                subprocess.run([*command, *slurm], check=False, capture_output=True)
    for cluster, number in jobs:
        if cluster == "local":
            _kill_local(int(number))
    given.unlink(missing_ok=True)


def _kill_local(pid: int) -> None:
    """Kill a job of this machine and its processes, if the number has not become another process's."""
    with contextlib.suppress(psutil.Error):
        job = psutil.Process(pid)
        if "submitit.local._local" not in job.cmdline():
            return
        there = [job, *job.children(recursive=True)]
        for one in there:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(there, timeout=10)
