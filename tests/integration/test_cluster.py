"""Ray clusters: one that runs already is joined and left running; a private one is gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from arithmetic import run
from test_ended_from_outside import script, start

from mistral_ner.errors import UserError

ROOT = Path(__file__).parents[2]
BROKEN_START = """
import os, sys
if "--mode=specific-server" in sys.orig_argv and os.path.exists({broken!r}):
    os.unlink({broken!r})
    os._exit(1)
"""  # a sitecustomize.py


def ran(folder: Path, strategy: str, noting: int = 0, **hyperopt: Any) -> subprocess.CompletedProcess[str]:
    """Run a search to its end, of :func:`noting` or of arithmetic; none is left over if it takes too long.

    In a new process: one that Ray's client fails in is left in its client mode, and Ray asks for its token when it is
    imported.
    """
    objective, more = (
        ("noting({noting})", "from test_cluster import noting") if noting else ("arithmetic(seconds=0)", "")
    )
    code = script(folder, strategy, objective.format(noting=noting), more, **{"num_trials": 4, **hyperopt})
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def running_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Two machines of two CPUs, each ``ray start`` on loopback; yields their cluster's address in every form.

    While the file ``broken`` is there, the next server of a client ends when it starts, and the file is gone.
    """
    port, client = free_ports(2)
    shape = ["--block", "--num-cpus=2", "--disable-usage-stats"]
    head = [f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false", "--head"]
    folder = tmp_path_factory.mktemp("elsewhere")  # what the machines take for the working directory
    broken = folder / "broken"
    (folder / "sitecustomize.py").write_text(BROKEN_START.format(broken=str(broken)))
    machines = [machine(folder, *shape, *head)]
    try:
        until(lambda: reachable(port) or machines[0].poll() is not None, 120)
        machines.append(machine(folder, *shape, f"--address=127.0.0.1:{port}"))
        until(lambda: reachable(client) or machines[0].poll() is not None, 120)
        time.sleep(5)  # the nodes themselves follow the control store
        assert [one.poll() for one in machines] == [None, None], [one.communicate()[0] for one in machines]
        yield {
            "host:port": f"127.0.0.1:{port}",
            "ray://": f"ray://127.0.0.1:{client}",
            "auto": "auto",
            "broken": str(broken),
        }
        assert [one.poll() for one in machines] == [None, None], "a search that only joined the cluster ended it"
    finally:
        processes = [*machines, *(child for one in machines for child in children(one.pid))]
        for one in reversed(machines):
            one.send_signal(signal.SIGTERM)
        end(processes)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]


def machine(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a machine of a cluster, in processes of its own."""
    command = [str(Path(sys.executable).with_name("ray")), "start", *arguments]
    env = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    env["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # with it, one in three of the servers of clients ends in its first moments
    if Path("~/.ray/auth_token").expanduser().exists():
        env["RAY_AUTH_MODE"] = "token"  # a head takes up this machine's token by itself, a second machine does not
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def reachable(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def titles(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


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


def noting(together: int) -> Any:
    """Return an objective that notes where and when it ran; none goes on before so many have begun."""

    def objective(config: Any, report: Any) -> None:
        import time as time_
        from pathlib import Path as Path_

        import ray

        where, began = ray.get_runtime_context().get_node_id(), time_.time()
        folder = Path_(config.output_dir)
        (folder / "began").touch()
        while len(list(folder.parent.glob("trial_*/began"))) < together and time_.time() < began + 60:
            time_.sleep(0.1)
        groups = ray.util.placement_group_table().values()
        waiting = [group for group in groups if group["state"] == "PENDING"]
        for number in range(1, config.training.reports + 1):
            report(number, {"eval_f1": 0.5 + number / 100 + config.training.learning_rate})
        (folder / "ran.txt").write_text(f"{where} {began} {time_.time()} {len(waiting)}")

    return objective


def at_once(spans: list[tuple[float, float]]) -> int:
    """The most of these times that overlap."""
    return max(sum(began <= start < ended for began, ended in spans) for start, _ in spans)


@pytest.mark.parametrize(
    ("strategy", "address", "max_concurrent", "cpu", "together"),
    [  # as many at once as the search allows, or as the machines hold
        ("combined", "ray://", 3, 1, 3),
        ("asha", "auto", 4, 2, 2),
        ("optuna", "host:port", 4, 2, 2),
        ("random", "ray://", 3, 1, 3),
    ],
)
def test_a_running_cluster_is_joined_and_its_machines_share_the_trials(
    tmp_path: Path,
    running_ray: dict[str, str],
    strategy: str,
    address: str,
    max_concurrent: int,
    cpu: int,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", running_ray["host:port"])  # what auto finds
    chosen = {"max_concurrent": max_concurrent, "resources_per_trial": {"cpu": cpu}, "asha_grace_period": 9}
    search = ran(tmp_path, strategy, together, ray_address=running_ray[address], num_trials=8, **chosen)
    assert search.returncode == 0, search.stdout
    summary = json.loads((tmp_path / "s/summary.json").read_text())
    assert (summary["n_complete"], summary["reports_run"]) == (8, 72)
    noted = [path.read_text().split() for path in tmp_path.glob("s/trial_*/ran.txt")]
    spans = {where: [(float(a), float(b)) for there, a, b, _ in noted if there == where] for where, *_ in noted}
    assert len(spans) == 2, "both machines work"
    assert at_once([span for there in spans.values() for span in there]) == together
    assert all(at_once(there) <= 2 // cpu for there in spans.values()), "no machine has more than it holds"
    most_waiting = max(int(waiting) for *_, waiting in noted)
    of_tune = strategy in ("combined", "asha")
    assert most_waiting == (max_concurrent - together if of_tune else 0), "what a cluster grows by"
    assert reachable(int(running_ray["host:port"].rpartition(":")[2])), "it runs on"


def test_a_server_for_a_client_that_does_not_start(tmp_path: Path, running_ray: dict[str, str]) -> None:
    """Ray's own fault: the search connects again, and says the cause."""
    broken, address = Path(running_ray["broken"]), running_ray["ray://"]
    broken.touch()
    search = ran(tmp_path, "combined", noting=1, ray_address=address, num_trials=2)
    assert search.returncode == 0, search.stdout
    summary = json.loads((tmp_path / "s/summary.json").read_text())
    assert (summary["n_trials"], summary["n_failed"], broken.exists()) == (2, 0, False)
    said = [line for line in search.stdout.splitlines() if line.endswith("; trying again")]
    assert len(said) >= 1  # a busy machine may fail to start another one
    assert re.search(
        rf"{address} did not serve this client \(RuntimeError: (Starting Ray client server|Proxy) fail", said[0]
    )


def test_what_the_machines_do_not_have(tmp_path: Path, running_ray: dict[str, str]) -> None:
    """Found before a study is made."""
    address = running_ray["host:port"]
    with pytest.raises(UserError, match=r"cpu=3, but no machine of this Ray has more than 2 CPUs; fix: .*cpu=2"):
        run(tmp_path, "combined", ray_address=address, resources_per_trial={"cpu": 3})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", ["combined", "optuna"])
def test_machines_that_do_not_see_the_study(
    tmp_path: Path, running_ray: dict[str, str], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their trials' files come to the driver all the same; as many run at once as there is room for."""
    monkeypatch.chdir(tmp_path)
    elsewhere = Path("/proc/self/cwd/results")  # a path that says another folder to every process
    _, trials = run(elsewhere, strategy, ray_address=running_ray["host:port"], max_concurrent=None)
    assert len(trials) == 12
    for trial in trials:
        calls = (tmp_path / "results" / "s" / f"trial_{trial.number:04d}" / "calls.txt").read_text().split()
        assert calls == [str(report) for report in sorted(trial.intermediate_values)]
    assert not (Path(running_ray["broken"]).parent / "results").exists()
    assert not (tmp_path / "results/s/.seen").exists()


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    search = ran(tmp_path, "combined", ray_address="127.0.0.1:1")
    output = search.stdout
    assert search.returncode != 0
    assert "no Ray cluster at hyperopt.ray_address=127.0.0.1:1" in output
    assert (
        "fix: ray start --head there first, or a private one: hyperopt.ray_address=null (--ray-address null" in output
    )
    assert list(tmp_path.iterdir()) == [], "no study was made"


@pytest.mark.parametrize("how", ["ends", "SIGKILL"])
@pytest.mark.usefixtures("new_workers")
def test_a_private_ray_is_gone_afterwards(tmp_path: Path, how: str) -> None:
    search = start(tmp_path, "combined", seconds=0.2, num_trials=4)
    until(lambda: search.poll() is not None or list(tmp_path.glob("s/trial_*/calls.txt")), 180)
    assert search.poll() is None
    started = children(search.pid)
    assert any("raylet" in process.name() for process in started)
    assert {address for process in [search, *started] for address in listened_to(process.pid)} == {"127.0.0.1"}
    raylet = next(process for process in started if "raylet" in process.name())
    assert raylet.environ()["RAY_AUTH_MODE"] == "token", "whoever has no token is not served"
    if how == "SIGKILL":
        search.kill()
    output, _ = search.communicate(timeout=400)
    assert how == "SIGKILL" or search.returncode == 0, output
    try:
        until(lambda: not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 60)
    except psutil.NoSuchProcess:
        pass
    finally:
        end(started)


def test_what_the_caller_started_is_left_alone(tmp_path: Path) -> None:
    """A tracker's service, a loader of data: whatever else the process of a search has for children."""
    sleep = ["sleep", "120"]
    theirs = [subprocess.Popen(sleep)]
    later = threading.Timer(4.0, lambda: theirs.append(subprocess.Popen(sleep)))
    later.start()
    try:
        run(tmp_path, "combined", noting(1), num_trials=2)
        later.join()
        until(lambda: not [child for child in children(os.getpid()) if "reaper.py" in " ".join(titles(child))], 30)
        assert [process.poll() for process in theirs] == [None, None]
    finally:
        for process in theirs:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("hyperopt", "message"),
    [
        (
            {"resources_per_trial": {"gpu": 1}},
            "a trial of 1 GPUs does not fit this machine, which has none fix: hyperopt.resources_per_trial.gpu=0",
        ),
        ({"max_concurrent": 8}, "hyperopt.max_concurrent=8, but 2 trials at once fit what there is"),
    ],
)
def test_what_the_machine_does_not_have(tmp_path: Path, hyperopt: dict[str, Any], message: str) -> None:
    search = ran(tmp_path, "combined", **hyperopt)
    output = search.stdout
    assert message in " ".join(output.split())
    assert (search.returncode == 0) == ("max_concurrent" in hyperopt)
