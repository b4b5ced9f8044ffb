"""Runs a command of this project as a process of its own, forked from one that has imported the libraries.

``python launch.py`` takes seconds to import torch, transformers and peft, and the tests run it some hundred times. A
forked process begins where those imports end: it imports this project, reads its arguments and its environment, takes
signals and ends exactly as a new one does, and it has a PID and, if asked for, a session of its own.

What it does not show is what happens before and while libraries are imported: flags of Python, the order of imports,
variables that libraries read then (:func:`environment` refuses others than the server's), another seed of hashes, what
is warned of. So each kind of command is also run as a new process in at least one test:

- ``launch.py``, a question, a training and a search: ``tests/cli/test_launch.py``, ``tests/cli/test_smoke.py``
- ``mistral_ner.hyperopt.resume``: ``tests/integration/test_resume.py``
- ``mistral_ner.predict``: ``tests/cli/test_predict_cli.py``
- the five commands of README, the report among them: ``tests/cli/test_readme.py``

Ray's workers are forked as well, from another server (:func:`serve_workers`), but for those of a new process or in a
test with the fixture ``new_workers``. Jobs of Slurm are new processes.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tests.warm_server import WORKERS, read_at_import

ROOT = Path(__file__).parents[1]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return ``env`` with the server's own values of what is read while libraries are imported.

    Raises:
        ValueError: ``env`` has another value than the server and this process, which only a new process would read.
    """
    ours = _server().environment
    for name, value in read_at_import(env).items():
        # libraries set some in the process of the tests, when it imports them
        if value not in (ours.get(name), os.environ.get(name)):
            raise ValueError(f"{name}={value} is read while libraries are imported; start a new process for it")
    # Ray sets it in the process of the tests; where it finds it set, it does not read it again after a fork
    found = {name: value for name, value in {**env, **ours}.items() if name != "RAY_AUTH_MODE"}
    return found | {name: os.environ[name] for name in (WORKERS,) if name in os.environ}


class Process:
    """A running command, with the methods of :class:`subprocess.Popen`; standard error goes to standard output.

    Args:
        command: what follows ``python``: a file or ``-m MODULE`` or ``-c CODE``, and its arguments.
        cwd: the working directory.
        env: its environment, as :func:`environment` takes it.
        start_new_session: whether it leads a session and a process group.
        stdin: what it reads; nothing by default.
        stdout: a file for its output; left out, :meth:`communicate` returns it.
        stderr: a file for its errors, apart from its output.
    """

    def __init__(
        self,
        command: list[str],
        cwd: Path,
        env: Mapping[str, str],
        *,
        start_new_session: bool = False,
        stdin: IO[Any] | None = None,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
    ) -> None:
        self.returncode: int | None = None
        # a file, not a pipe: what Ray has started would hold the pipe open for some seconds after the end
        self._output = stdout or tempfile.TemporaryFile()  # noqa: SIM115
        self._status, status = os.pipe()
        told = {
            "arguments": command,
            "folder": str(cwd),
            "environment": environment(env),
            "session": start_new_session,
        }
        with Path(os.devnull).open("rb") as nothing:
            files = [stdin or nothing, self._output, stderr or self._output]
            self.pid = _server().fork(told, [*(one.fileno() for one in files), status])
        os.close(status)

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code: minus the signal's number if one ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if (code := self._look(timeout)) is None:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        return code

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            text = os.read(self._status, 20)
            os.close(self._status)
            assert text, "the server of processes is gone"
            self.returncode = int(text)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for the end and return what was printed."""
        self.wait(timeout)
        self._output.seek(0)
        text = self._output.read()
        return (text.decode() if isinstance(text, bytes) else text), None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(
    command: list[str], cwd: Path, env: Mapping[str, str], stdin: bytes = b"", timeout: float = 800
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end and return what it printed, as :func:`subprocess.run` does.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        process = Process(command, cwd, env, stdin=given, stdout=output, stderr=errors)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(command, code, output.read(), errors.read())


def run_text(command: list[str], cwd: Path, env: Mapping[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as :func:`run` does; its output is text."""
    done = run(command, cwd, env, **more)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@functools.cache
def _before_a_fork() -> dict[str, str]:
    """Return what a server has read while it imported libraries.

    One thread, so that none is left behind by a fork; a hub that has nothing and gives no answer; and torch must not
    begin with a GPU before the fork only to see whether there is one.
    """
    hub = tempfile.mkdtemp(prefix="no-hub-")
    atexit.register(shutil.rmtree, hub, ignore_errors=True)
    one_thread = {"OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    return {**read_at_import(os.environ), **one_thread, "HF_HUB_OFFLINE": "1", "HF_HOME": hub}


def _start(script: str, descriptors: tuple[int, ...], errors: IO[Any]) -> subprocess.Popen[bytes]:
    """Start a server with these descriptors as its arguments."""
    env = {**os.environ, **_before_a_fork()}
    env.pop("PYTHONPATH", None)
    python = Path(sys.prefix).resolve() / "bin/python"  # where hosts see it that have a /tmp of their own
    return subprocess.Popen(
        [str(python), str(Path(__file__).with_name(script)), *map(str, descriptors)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=descriptors,
    )


class _Server:
    """The process that forks, and the socket that it listens to."""

    def __init__(self) -> None:
        self.environment = _before_a_fork()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as errors:
            self._process = _start("warm_server.py", (theirs.fileno(),), errors)
            theirs.close()
            answer = self._control.recv(64)
            errors.seek(0)
            assert answer == b"ready", errors.read().decode()
        atexit.register(self.end)

    def fork(self, told: dict[str, Any], descriptors: list[int]) -> int:
        """Start a process; return its PID."""
        socket.send_fds(self._control, [json.dumps(told).encode()], descriptors)
        return int(self._control.recv(64))

    def end(self) -> None:
        """End the server; what it has started runs on."""
        self._control.close()
        self._process.wait(30)


@functools.cache
def _server() -> _Server:
    """Return the server of this process, which starts it when it is first needed."""
    return _Server()


@functools.cache
def serve_workers() -> str:
    """Start the server that forks workers for the Ray of this process and of its commands; return its socket's path.

    Nobody waits for it here: a worker that asks before the libraries are imported waits.
    """
    folder = tempfile.mkdtemp(prefix="workers-")
    control, theirs = socket.socketpair()
    with (
        theirs,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
        Path(folder, "errors").open("wb") as errors,
    ):
        listening.bind(f"{folder}/socket")
        listening.listen(64)
        process = _start("warm_workers.py", (theirs.fileno(), listening.fileno()), errors)

    def end() -> None:
        control.close()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return f"{folder}/socket"
