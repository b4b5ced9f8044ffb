"""Ray clusters: one that runs already is joined and left running; a private one is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_contract import start

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(240)


def ran(folder: Path, strategy: str, **hyperopt: Any) -> subprocess.CompletedProcess[str]:
    """Run a search to its end; none is left over if it takes too long."""
    search = start(folder, strategy, seconds=0, **{"num_trials": 4, **hyperopt})
    try:
        output, _ = search.communicate(timeout=120)
    finally:
        search.kill()
    return subprocess.CompletedProcess([], search.returncode, output)


@pytest.fixture(scope="module")
def running_ray() -> Iterator[str]:
    """``ray start --head`` on loopback, in processes of its own; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    head = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: reachable(port) or head.poll() is not None, 60)
        assert head.poll() is None, head.communicate()[0]
        time.sleep(2)  # the node itself follows the control store
        yield f"127.0.0.1:{port}"
        assert head.poll() is None, "the cluster was ended by a search that only joined it"
    finally:
        processes = [head, *children(head.pid)]
        head.send_signal(signal.SIGTERM)
        end(processes)


def reachable(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def listened_to(pid: int) -> set[str]:
    """The addresses that a process listens on."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid).net_connections(kind="inet")
        return {item.laddr.ip.removeprefix("::ffff:") for item in found if item.status == psutil.CONN_LISTEN}
    return set()


def end(processes: list[Any]) -> None:
    deadline = time.monotonic() + 15
    for process in processes:
        with contextlib.suppress(psutil.Error, subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
    for process in processes:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process.kill()


def until(true: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


@pytest.mark.parametrize("strategy", ["combined", "optuna"])
def test_a_running_cluster_is_joined_and_left_running(tmp_path: Path, running_ray: str, strategy: str) -> None:
    search = ran(tmp_path, strategy, ray_address=running_ray)
    output = search.stdout
    assert search.returncode == 0, output
    assert "4 trials" in output or "completed" in output
    assert reachable(int(running_ray.rpartition(":")[2]))


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    search = ran(tmp_path, "combined", ray_address="127.0.0.1:1")
    output = search.stdout
    assert search.returncode != 0
    assert "no Ray cluster at hyperopt.ray_address=127.0.0.1:1" in output
    assert "fix: ray start --head there first, or hyperopt.ray_address=null for a private one" in output


@pytest.mark.parametrize("how", ["ends", "SIGKILL"])
def test_a_private_ray_is_gone_afterwards(tmp_path: Path, how: str) -> None:
    search = start(tmp_path, "combined", seconds=0.2, num_trials=4)
    until(lambda: search.poll() is not None or list(tmp_path.glob("s/trial_*/calls.txt")), 90)
    assert search.poll() is None
    started = children(search.pid)
    assert any("raylet" in process.name() for process in started)
    assert {address for process in [search, *started] for address in listened_to(process.pid)} == {"127.0.0.1"}
    raylet = next(process for process in started if "raylet" in process.name())
    assert raylet.environ()["RAY_AUTH_MODE"] == "token", "whoever has no token is not served"
    if how == "SIGKILL":
        search.kill()
    output, _ = search.communicate(timeout=120)
    assert how == "SIGKILL" or search.returncode == 0, output
    try:
        until(lambda: not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 60)
    except psutil.NoSuchProcess:
        pass
    finally:
        end(started)


@pytest.mark.parametrize(
    ("hyperopt", "message"),
    [
        (
            {"resources_per_trial": {"gpu": 1}},
            "2 trials of 1 GPUs do not fit this machine's 0 fix: hyperopt.resources_per_trial.gpu=0",
        ),
        ({"max_concurrent": 8}, "hyperopt.max_concurrent=8, but 2 trials at once fit what there is"),
    ],
)
def test_what_the_machine_does_not_have(tmp_path: Path, hyperopt: dict[str, Any], message: str) -> None:
    search = ran(tmp_path, "combined", **hyperopt)
    output = search.stdout
    assert message in " ".join(output.split())
    assert (search.returncode == 0) == ("max_concurrent" in hyperopt)
