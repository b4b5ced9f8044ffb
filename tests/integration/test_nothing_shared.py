"""Searches over hosts that share nothing: own addresses, processes, file systems; the driver has the whole study."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arithmetic import STRATEGIES, value_of
from arithmetic import config as arithmetic_config
from optuna.trial import TrialState

from mistral_ner import files
from mistral_ner.hyperopt.dispatch import search
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.train import fit
from mistral_ner.training.checkpoint import reports_on_disk
from tests import namespaces
from tests.namespaces import PROJECT, PYTHON, Host, Network, start_ray

if (WHY_NOT := namespaces.why_not()) is not None:
    warnings.warn(f"NOTHING SHARED IS NOT TESTED: {WHY_NOT}", stacklevel=1)  # pytest shows it at the end
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"NOTHING SHARED IS NOT TESTED: {WHY_NOT}")

KILLS = int(os.environ.get("KILLS", "3"))  # of the campaign
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

    def add_worker(self) -> Host:
        host = self.network.add(f"worker{self._count}")
        self._count += 1
        host.forget_project()
        start_ray(host, self.log(host.name), self.head, cpus=1)
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


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Network() as network:
        yield Cluster(network, tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def cluster(network: Cluster) -> Cluster:
    """Two workers, and a driver that knows no study."""
    network.replace_ended()
    while len(network.workers) < 2:
        network.add_worker()
    shutil.rmtree(network.driver.see("/tmp/results"), ignore_errors=True)
    network.log("driver").unlink(missing_ok=True)
    return network


@pytest.fixture
def config(tiny: dict[str, Any], cluster: Cluster) -> dict[str, Any]:
    """A search of small trainings, whose data lies where only the driver sees it."""
    data = cluster.driver.see("/tmp/data")
    data.mkdir(exist_ok=True)
    named = {}
    for split in ("train", "dev", "test"):
        path = Path(tiny["data"][f"{split}_file"])
        shutil.copy(path, data / path.name)
        named[f"{split}_file"] = f"/tmp/data/{path.name}"
    hyperopt = {
        "strategy": "combined",
        "num_trials": TRIALS,
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


def ended_well(cluster: Cluster, driver: subprocess.Popen[str], seconds: float = 500) -> None:
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


TRIALS = 30


def nothing_seen(cluster: Cluster) -> None:
    """No worker sees the study, and none keeps a training of it."""
    for worker in cluster.workers:
        assert not worker.see("/tmp/results").exists()
        assert list(worker.see("/tmp").glob("mistral_ner-*/*")) == []


@pytest.mark.usefixtures("cold")
def test_the_winner_is_that_of_one_machine_though_a_machine_dies(
    cluster: Cluster, config: dict[str, Any], tiny: dict[str, Any], tmp_path: Path
) -> None:
    config["hyperopt"]["max_concurrent"] = 1  # so that the order of reports is the same
    driver = cluster.search(config)
    until(lambda: cluster.reports() >= 10 and cluster.at_work(), 400, "no reports", cluster.log("driver"))
    cluster.kill(cluster.at_work()[0])
    ended_well(cluster, driver)
    exact(cluster, TRIALS)
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


def counted(cluster: Cluster, strategy: str, **hyperopt: Any) -> dict[str, Any]:
    """A search whose objective is arithmetic, and notes every call."""
    address = f"ray://{cluster.head.address}:10001"
    found = arithmetic_config(Path("/tmp/results"), strategy, **{"ray_address": address, "num_trials": 8, **hyperopt})
    return {**found, "output_dir": "/tmp/run"}


def exact_calls(cluster: Cluster, trials: int) -> None:
    """Every trial ended once, no report that counted was made twice, none is missing from the study."""
    found = read_study(cluster.study).trials
    assert [trial.number for trial in found] == list(range(trials))
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in found:
        calls = (cluster.study / f"trial_{trial.number:04d}" / "calls.txt").read_text().split()
        assert calls == [str(report) for report in range(1, len(trial.intermediate_values) + 1)]
        assert trial.intermediate_values == pytest.approx({k: value_of(trial.params, k) for k in map(int, calls)})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_machine_dies_and_another_comes(cluster: Cluster, strategy: str) -> None:
    config = counted(cluster, strategy, max_concurrent=None, asha_type="promotion", asha_grace_period=3)
    driver = cluster.search(config, "arithmetic(seconds=0.4)")
    until(lambda: cluster.reports() >= 12 and len(cluster.at_work()) == 2, 400, "no reports", cluster.log("driver"))
    cluster.kill(cluster.workers[0])
    new = cluster.add_worker()
    until(lambda: "Ray runtime started" in cluster.log(new.name).read_text(), 60, "no Ray", cluster.log(new.name))
    began = time.monotonic()
    until(lambda: works(new), 60, "the new machine gets nothing to do", cluster.log("driver"))
    took = time.monotonic() - began
    ended_well(cluster, driver)
    exact_calls(cluster, 8)
    nothing_seen(cluster)
    assert took < 10, f"the new machine got its first trial after {took:.1f} s"


def test_a_campaign_against_machines_links_and_drivers(cluster: Cluster) -> None:
    """At seeded moments something is killed or cut; KILLS in the environment says how often."""
    rng, done = random.Random(19), []
    trials = 8 + 4 * KILLS
    config = counted(cluster, "combined", num_trials=trials, max_concurrent=2, max_failures=KILLS, asha_grace_period=3)
    driver = cluster.search(config, "arithmetic(seconds=0.2)")
    while len(done) < KILLS and driver.poll() is None:
        wait_for_reports(cluster, driver, rng.randint(2, 9))
        time.sleep(rng.random())
        what = rng.choice(["machine", "worker", "driver", "link"])
        done.append(what)
        if what == "driver":
            cluster.kill_driver(driver)
            config["hyperopt"]["resume"] = True
            driver = cluster.search(config, "arithmetic(seconds=0.2)")
            continue
        host = rng.choice(cluster.workers)
        if what == "machine":
            cluster.kill(host)
            cluster.add_worker()
        elif what == "worker":
            kill_workers(host)
        else:
            host.cut()
            time.sleep(rng.choice([0.5, 2.0, 8.0]))
            host.mend()
    ended_well(cluster, driver, 900)
    print(f"killed: {done}")
    assert len(done) == KILLS, "the search has ended before"
    exact_calls(cluster, trials)


def test_a_head_goes_and_the_search_goes_on_with_another(tmp_path: Path) -> None:
    with Network() as network:
        cluster = Cluster(network, tmp_path)
        cluster.add_worker()
        config = counted(cluster, "combined", num_trials=4, max_concurrent=1, asha_grace_period=3)
        driver = cluster.search(config, "arithmetic(seconds=0.4)")
        wait_for_reports(cluster, driver, 5)
        cluster.head.kill()
        cluster.kill(cluster.workers[0])
        assert driver.wait(200) == 1
        said = f"the Ray at hyperopt.ray_address={config['hyperopt']['ray_address']} is gone; the study is kept"
        assert said in cluster.said()
        cluster.add_head()
        cluster.add_worker()
        config["hyperopt"] |= {"resume": True, "ray_address": f"ray://{cluster.head.address}:10001"}
        ended_well(cluster, cluster.search(config, "arithmetic(seconds=0.4)"))
        exact_calls(cluster, 4)
        nothing_seen(cluster)


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


@pytest.fixture
def model_folder(tiny: dict[str, Any], cluster: Cluster, tmp_path: Path) -> dict[str, Any]:
    """The config of a base model that lies in a folder: on this machine, and on the driver's at the same path."""
    from transformers import AutoModelForTokenClassification

    from mistral_ner.config.check import check
    from mistral_ner.model.base import build_random_config
    from mistral_ner.training.prepare import prepare

    tokenizer, _ = prepare(check(tiny))
    folder = tmp_path / "model"
    tokenizer.save_pretrained(str(folder))
    config = build_random_config(tiny["model"]["random_init"], len(tokenizer))
    AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
    shutil.copytree(folder, cluster.driver.see(folder), dirs_exist_ok=True)
    return {"model_name": str(folder), "lora_r": 4, "lora_dropout": 0.1}


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize(
    ("strategy", "hyperopt"),
    [
        ("optuna", {"optuna_pruner": "median", "optuna_n_startup_trials": 2, "max_concurrent": None}),
        ("asha", {"asha_type": "promotion", "merge": True, "optuna_sampler": "Random"}),
        ("combined", {"trials_per_pass": 2, "max_concurrent": 4}),
    ],
)
def test_each_trial_is_as_alone(
    cluster: Cluster,
    config: dict[str, Any],
    model_folder: dict[str, Any],
    tiny: dict[str, Any],
    tmp_path: Path,
    strategy: str,
    hyperopt: dict[str, Any],
) -> None:
    """The model lies in a folder that only the driver has, and the windows' length is searched for, too."""
    config["model"] = model_folder
    config["hyperopt"] |= {"strategy": strategy, "num_trials": 8, **hyperopt}
    if strategy == "optuna":  # each length is another data set
        config["search_space"]["max_length"] = {"type": "choice", "choices": [8, 16], "path": "data.max_length"}
    ended_well(cluster, cluster.search(config))
    exact(cluster, 8)
    nothing_seen(cluster)
    final = json.loads((cluster.study / "final/final.json").read_text())
    winner = cluster.study / f"trial_{final['settings'][0]['trial'] or 0:04d}"
    saved = files.read_yaml(winner / "config.yaml")
    assert saved["model"]["model_name"] == model_folder["model_name"]
    fit({**saved, "data": {**saved["data"], **tiny["data"]}, "output_dir": str(tmp_path / "again")})
    ours, theirs = reports_on_disk(winner), reports_on_disk(tmp_path / "again")
    assert [row["report"] for row in ours] == [row["report"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):  # in a pass, sums are rounded otherwise
        assert one["eval_f1"] == pytest.approx(other["eval_f1"], abs=0.05 if "trials_per_pass" in hyperopt else 0)
    assert (cluster.study / "final/merged/model.safetensors").exists() == ("merge" in hyperopt)


def test_a_command_with_hydras_launcher_goes_on_with_another_address(cluster: Cluster, config: dict[str, Any]) -> None:
    """The driver is killed; the study goes on through another door of the same Ray."""
    address = f"ray://{cluster.head.address}:10001"
    more = ["hyperopt=random", "hydra/launcher=ray", "model=tiny", "data=files", "hyperopt.study_name=s"]
    more += [f"data.{name}_file={config['data'][f'{name}_file']}" for name in ("train", "dev", "test")]
    more += ["hyperopt.results_dir=/tmp/results", "data.cache_dir=/tmp/cache", "hyperopt.num_trials=8"]
    more += ["hyperopt.max_concurrent=2", "hyperopt.final.enabled=false", "training.reports=3", "training.min_steps=60"]
    command = f"cd /tmp && exec {PYTHON} {PROJECT}/launch.py -m hyperopt.ray_address={address} {' '.join(more)}"
    driver = cluster.driver.start("sh", "-c", command, log=cluster.log("driver"), PYTHONPATH=PROJECT)
    until(lambda: cluster.reports() >= 6 or driver.poll() is not None, 500, "no reports", cluster.log("driver"))
    cluster.kill_driver(driver)
    other = f"ray://{cluster.head.address}:10002"
    again = ["-m", "mistral_ner.hyperopt.resume", STUDY, "--ray-address"]
    wrong = cluster.driver.start(PYTHON, *again, other, log=cluster.log("wrong"), PYTHONPATH=PROJECT)
    assert wrong.wait(200) == 1
    assert f"no Ray cluster at hyperopt.ray_address={other}" in cluster.log("wrong").read_text()
    ended_well(cluster, cluster.driver.start(PYTHON, *again, address, log=cluster.log("driver"), PYTHONPATH=PROJECT))
    exact(cluster, 8)
    nothing_seen(cluster)
