"""A cluster of hosts that share nothing, a driver outside of it, and what holds of a search that has ended there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arithmetic import config as arithmetic_config
from arithmetic import value_of
from optuna.trial import TrialState

from mistral_ner import files
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.training.checkpoint import reports_on_disk
from tests import namespaces
from tests.namespaces import PROJECT, PYTHON, Host, Network, start_ray

if (WHY_NOT := namespaces.why_not()) is not None:
    warnings.warn(f"NOTHING SHARED IS NOT TESTED: {WHY_NOT}", stacklevel=1)  # pytest shows it at the end
needs_hosts = pytest.mark.skipif(WHY_NOT is not None, reason=f"NOTHING SHARED IS NOT TESTED: {WHY_NOT}")

STUDY = "/tmp/results/s"  # on the driver's host, in its own /tmp
DRIVER = """
import logging, sys, yaml
logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s")
from arithmetic import arithmetic
from mistral_ner.hyperopt import search
search(yaml.safe_load(open("/tmp/config.yaml")), {objective})
"""
# a silent machine is given up sooner than by default
IMPATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}


class Cluster:
    """A head and a driver without CPUs, and workers of one CPU each."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder, self.driver = network, folder, network.add("driver")
        self.workers: list[Host] = []
        self._count = 0
        self.head = self.add_head()

    def add_head(self) -> Host:
        """Return a new head, which no worker has joined."""
        self.head = self.network.add("head")
        self.head.forget_project()
        start_ray(self.head, self.log("head"), **IMPATIENT)
        until(lambda: answers(self.head, self.driver), 120, "the head does not answer", self.log("head"))
        return self.head

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def add_worker(self, **versions: str) -> Host:
        """Return a new machine, which joins Ray soon; it says that it has these versions of packages."""
        host = self.network.add(f"worker{self._count}")
        self._count += 1
        host.forget_project()
        for name, version in versions.items():
            said = host.see(f"/tmp/said/{name}-{version}.dist-info/METADATA")
            said.parent.mkdir(parents=True)
            said.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        start_ray(host, self.log(host.name), self.head, cpus=1, **({"PYTHONPATH": "/tmp/said"} if versions else {}))
        self.workers.append(host)
        return host

    def replace_ended(self) -> None:
        """Replace the machines whose Ray has ended, as it does where the head has given one up."""
        for host in list(self.workers):
            began = "Ray runtime started" in self.log(host.name).read_text()
            if began and not any(b"raylet/raylet" in command for _, command in host.processes()):
                self.kill(host)
                self.add_worker()

    def kill(self, host: Host) -> None:
        self.workers.remove(host)
        host.kill()

    def search(self, config: dict[str, Any], objective: str = "None") -> subprocess.Popen[str]:
        """Start a search on the driver's host, which joins Ray from outside."""
        files.write_yaml(self.driver.see("/tmp/config.yaml"), config)
        code, path = DRIVER.format(objective=objective), f"{PROJECT}:{PROJECT}/tests/integration"
        return self.driver.start(PYTHON, "-c", code, log=self.log("driver"), PYTHONPATH=path)

    def kill_driver(self, driver: subprocess.Popen[str]) -> None:
        """Kill the search's process; ``driver`` is the one that entered its host."""
        for pid in Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        driver.wait(30)

    @property
    def study(self) -> Path:
        """The study as this process sees it."""
        return self.driver.see(STUDY)

    def said(self) -> str:
        return self.log("driver").read_text()

    def reports(self) -> int:
        return sum(len(reports_on_disk(path)) for path in self.study.glob("trial_*"))

    def at_work(self) -> list[Host]:
        """The workers that train."""
        return [host for host in self.workers if works(host)]


def has_forked_workers(host: Host) -> bool:
    return any(Path(f"/proc/{pid}/comm").read_text().startswith("for ") for pid, _ in host.processes())


def works(host: Host) -> bool:
    return bool(list(host.see("/tmp").glob("mistral_ner-*/*/visits/*/trial_*")))


def answers(host: Host, asker: Host) -> bool:
    look = f"import socket; [socket.create_connection(({host.address!r}, p), 1) for p in (6379, 10001)]"
    return subprocess.run(asker.command(PYTHON, "-c", look), capture_output=True, check=False).returncode == 0


def until(true: Callable[[], Any], seconds: float, what: str, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}:\n{log.read_text()[-4000:]}"
        time.sleep(0.1)


def ended_well(cluster: Cluster, driver: subprocess.Popen[str], seconds: float = 500) -> None:
    try:
        assert driver.wait(seconds) == 0, cluster.said()[-6000:]
    except subprocess.TimeoutExpired:
        pytest.fail(f"not in time:\n{cluster.said()[-6000:]}")


def exact(cluster: Cluster, trials: int) -> None:
    """Every trial ended once, and the study has each report that is on the disk, once."""
    found = read_study(cluster.study).trials
    assert [trial.number for trial in found] == list(range(trials))
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}, cluster.said()[-6000:]
    for trial in found:
        rows = reports_on_disk(cluster.study / f"trial_{trial.number:04d}")
        assert [row["report"] for row in rows] == list(range(1, len(rows) + 1))
        assert trial.intermediate_values == {row["report"]: row["eval_f1"] for row in rows}


def nothing_seen(cluster: Cluster) -> None:
    """No worker sees the study, and none keeps a training of it."""
    for worker in cluster.workers:
        assert not worker.see("/tmp/results").exists()

    def left() -> list[str]:
        return [str(path) for worker in cluster.workers for path in worker.see("/tmp").glob("mistral_ner-*/*")]

    # most of a busy machine's time may go to others, and a process that was killed may not have ended yet
    until(lambda: not left(), 20, "files are left", cluster.log("driver"))


def counted(cluster: Cluster, strategy: str, **hyperopt: Any) -> dict[str, Any]:
    """A search whose objective is arithmetic, and notes every call."""
    address = f"ray://{cluster.head.address}:10001"
    found = arithmetic_config(Path("/tmp/results"), strategy, **{"ray_address": address, "num_trials": 8, **hyperopt})
    return {**found, "output_dir": "/tmp/run"}


def exact_calls(cluster: Cluster, trials: int) -> None:
    """Every trial ended once, no report that counted was made twice, none is missing from the study."""
    found = read_study(cluster.study).trials
    assert [trial.number for trial in found] == list(range(trials))
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}, cluster.said()[-6000:]
    for trial in found:
        calls = (cluster.study / f"trial_{trial.number:04d}" / "calls.txt").read_text().split()
        assert calls == [str(report) for report in range(1, len(trial.intermediate_values) + 1)]
        assert trial.intermediate_values == pytest.approx({k: value_of(trial.params, k) for k in map(int, calls)})


def wait_for_reports(cluster: Cluster, driver: subprocess.Popen[str], more: int) -> None:
    def enough() -> bool:
        cluster.replace_ended()
        return cluster.reports() >= wanted or driver.poll() is not None

    wanted = cluster.reports() + more
    until(enough, 300, "no reports", cluster.log("driver"))


def kill_workers(host: Host) -> None:
    """Kill the processes of a host that run trials."""
    for pid, command in host.processes():
        if command.startswith(b"ray::ImplicitFunc"):  # Ray Tune's
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
