"""Searches over hosts that share nothing: own addresses, processes, file systems; the driver has the whole study."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mistral_ner import files
from mistral_ner.hyperopt.dispatch import search
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.training.checkpoint import reports_on_disk
from tests import namespaces
from tests.namespaces import PROJECT, PYTHON, Host, Network, start_ray

pytestmark = pytest.mark.skipif(
    namespaces.why_not() is not None, reason=f"NOTHING SHARED IS NOT TESTED: {namespaces.why_not()}"
)

STUDY = "/tmp/results/s"  # on the driver's host, in its own /tmp
DRIVER = """
import logging, sys, yaml
logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s")
from mistral_ner.hyperopt import search
search(yaml.safe_load(open("/tmp/config.yaml")))
"""


class Cluster:
    """A head and a driver without CPUs, and workers of one CPU each."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        self.head, self.driver = network.add("head"), network.add("driver")
        self.workers: list[Host] = []
        self.head.forget_project()
        start_ray(self.head, self.log("head"))
        until(lambda: answers(self.head, self.driver), 120, "the head does not answer", self.log("head"))

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def add_worker(self) -> Host:
        host = self.network.add(f"worker{len(self.workers)}")
        host.forget_project()
        start_ray(host, self.log(host.name), self.head, cpus=1)
        self.workers.append(host)
        return host

    def search(self, config: dict[str, Any]) -> subprocess.Popen[str]:
        """Start a search on the driver's host, which joins Ray from outside."""
        files.write_yaml(self.driver.see("/tmp/config.yaml"), config)
        return self.driver.start(PYTHON, "-c", DRIVER, log=self.log("driver"), PYTHONPATH=PROJECT)

    @property
    def study(self) -> Path:
        """The study as this process sees it."""
        return self.driver.see(STUDY)

    def said(self) -> str:
        return self.log("driver").read_text()

    def reports(self) -> int:
        return sum(len(reports_on_disk(path)) for path in self.study.glob("trial_*"))


def answers(host: Host, asker: Host) -> bool:
    look = f"import socket; [socket.create_connection(({host.address!r}, p), 1) for p in (6379, 10001)]"
    return subprocess.run(asker.command(PYTHON, "-c", look), capture_output=True, check=False).returncode == 0


def until(true: Callable[[], Any], seconds: float, what: str, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}:\n{log.read_text()[-4000:]}"
        time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Network() as network:
        found = Cluster(network, tmp_path)
        for _ in range(2):
            found.add_worker()
        yield found


@pytest.fixture
def config(tiny: dict[str, Any], cluster: Cluster) -> dict[str, Any]:
    """A search of small trainings, whose data lies where only the driver sees it."""
    data = cluster.driver.see("/tmp/data")
    data.mkdir()
    named = {}
    for split in ("train", "dev", "test"):
        path = Path(tiny["data"][f"{split}_file"])
        shutil.copy(path, data / path.name)
        named[f"{split}_file"] = f"/tmp/data/{path.name}"
    hyperopt = {
        "strategy": "combined",
        "num_trials": 8,
        "asha_max_t": 3,
        "asha_grace_period": 1,
        "max_concurrent": 2,
        "ray_address": f"ray://{cluster.head.address}:10001",
        "results_dir": "/tmp/results",
        "study_name": "s",
        "final": {"top_k": 1, "seeds": 2},
    }
    space = {"learning_rate": {"type": "loguniform", "low": 1e-3, "high": 3e-2}}
    own = {"output_dir": "/tmp/run", "search_space": space, "hyperopt": hyperopt}
    return {**tiny, **own, "data": {"source": "files", **named, "cache_dir": "/tmp/cache"}}


def alone(config: dict[str, Any], tiny: dict[str, Any], folder: Path, **hyperopt: Any) -> Path:
    """Run the same search on this machine; return its study's folder."""
    here = {**config, "data": tiny["data"], "output_dir": str(folder)}
    here["hyperopt"] = {**config["hyperopt"], "ray_address": None, "results_dir": str(folder), **hyperopt}
    search(here)
    return folder / "s"


def ended_well(cluster: Cluster, driver: subprocess.Popen[str], seconds: float = 300) -> None:
    try:
        assert driver.wait(seconds) == 0, cluster.said()[-6000:]
    except subprocess.TimeoutExpired:
        pytest.fail(f"not in time:\n{cluster.said()[-6000:]}")


def exact(cluster: Cluster, trials: int) -> None:
    """Every trial ended once, and the study has each report that is on the disk, once."""
    found = read_study(cluster.study).trials
    assert [trial.number for trial in found] == list(range(trials))
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in found:
        rows = reports_on_disk(cluster.study / f"trial_{trial.number:04d}")
        assert [row["report"] for row in rows] == list(range(1, len(rows) + 1))
        assert trial.intermediate_values == {row["report"]: row["eval_f1"] for row in rows}


def nothing_seen(cluster: Cluster) -> None:
    """No worker sees the study, and none keeps a training of it."""
    for worker in cluster.workers:
        assert not worker.see("/tmp/results").exists()
        assert list(worker.see("/tmp").glob("mistral_ner-*/*")) == []


@pytest.mark.usefixtures("cold")
def test_the_winner_is_that_of_one_machine(
    cluster: Cluster, config: dict[str, Any], tiny: dict[str, Any], tmp_path: Path
) -> None:
    config["hyperopt"]["max_concurrent"] = 1  # so that the order of reports is the same
    ended_well(cluster, cluster.search(config))
    exact(cluster, 8)
    nothing_seen(cluster)
    one = alone(config, tiny, tmp_path / "one")
    for name in ("trial_*/result.json", "final/candidates/*/result.json"):
        ours, theirs = rows(cluster.study, name), rows(one, name)
        assert ours == theirs
        assert ours
    for name in ("adapter_model.safetensors", "labels.json", "predictions_test.jsonl", "metrics.json"):
        assert (cluster.study / "final" / name).read_bytes() == (one / "final" / name).read_bytes(), name
    assert not list(cluster.study.glob("trial_*/.incoming")), "what came is in its place"


def rows(study: Path, pattern: str) -> dict[str, list[dict[str, Any]]]:
    """The reports of trainings by folder, without what they took."""
    found = {}
    for path in sorted(study.glob(pattern)):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [{k: v for k, v in row.items() if not k.endswith(("_s", "seconds"))} for row in lines]
    return found
