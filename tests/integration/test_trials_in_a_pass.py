"""Searches whose trials go through the base model together: the numbers of each are those of the trial alone."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from mistral_ner.config.schema import to_container
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.engines import hosts as hosts_module
from mistral_ner.hyperopt.engines.hosts import Hosts
from mistral_ner.hyperopt.results.found import SearchResult
from mistral_ner.hyperopt.spec.plan import Plan, read_saved_config
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.train import fit
from mistral_ner.training.checkpoint import reports_on_disk

_TIMES = ("time_s", "eval_seconds")


@pytest.fixture
def searched(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A search of six trials of the smallest training, two at a time in a pass."""
    tiny["training"].update(reports=4, precision="fp32")
    tiny["search_space"] = {
        "learning_rate": {"type": "loguniform", "low": 5e-4, "high": 5e-3},
        "lora_r": {"type": "choice", "choices": [2, 4, 8]},
        "per_device_train_batch_size": {"type": "choice", "choices": [4, 8]},
        "lora_dropout": {"type": "uniform", "low": 0.0, "high": 0.2},
    }
    tiny["hyperopt"] = {
        "strategy": "combined",
        "num_trials": 6,
        "max_concurrent": 2,
        "trials_per_pass": 2,
        "asha_max_t": 4,
        "asha_grace_period": 1,
        "asha_reduction_factor": 2,
        "results_dir": str(tmp_path),
        "study_name": "s",
        "final": {"top_k": 1, "seeds": 1},
    }
    return tiny


def assert_each_is_as_alone(folder: Path, tmp_path: Path, trials: int) -> None:
    """Train every trial of a study again, alone, and compare its reports."""
    studied = sorted(folder.glob("trial_*"))
    assert len(studied) == trials
    for trial in studied:
        found = reports_on_disk(trial)
        assert found, f"{trial.name} has no report"
        config = read_saved_config(trial / "config.yaml")
        config.output_dir = str(tmp_path / f"{trial.name}_alone")
        config.training.stop_after = len(found)
        fit(to_container(config))
        for row, expected in zip(found, reports_on_disk(Path(config.output_dir)), strict=True):
            for name in _TIMES:
                row.pop(name), expected.pop(name)
            assert row == pytest.approx(expected, abs=1e-5, rel=1e-5), trial.name


@pytest.mark.usefixtures("ray_for_all")
@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        ("combined", {}),
        ("asha", {"optuna_sampler": "Random"}),
        ("combined", {"asha_type": "promotion"}),
        ("optuna", {"optuna_pruner": "median", "optuna_n_startup_trials": 2}),
        ("random", {"optuna_sampler": "Random", "max_concurrent": 3, "trials_per_pass": 3}),
    ],
)
def test_every_strategy(searched: dict[str, Any], tmp_path: Path, strategy: str, more: dict[str, Any]) -> None:
    searched["hyperopt"].update(strategy=strategy, **more)
    found: SearchResult = search(searched)
    assert (found.n_trials, found.n_failed) == (6, 0)
    assert found.final is not None
    assert_each_is_as_alone(tmp_path / "s", tmp_path, 6)
    logged = (tmp_path / "s/trial_0000/logs.txt").read_text()
    assert "trial_0001" not in logged


def _run(config: dict[str, Any], wait: Callable[[Path], bool], kill: Callable[[psutil.Process], None]) -> int:
    """Run a search in a process of its own, and call ``kill`` with it as soon as ``wait`` says so."""
    script = "import json, sys; from mistral_ner.hyperopt import search; search(json.load(sys.stdin))"
    folder = Path(config["hyperopt"]["results_dir"]) / config["hyperopt"]["study_name"]
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdin is not None
    process.stdin.write(json.dumps(config))
    process.stdin.close()
    until = time.monotonic() + 300
    while not wait(folder) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "the search ended before anything was killed"
    kill(psutil.Process(process.pid))
    return process.wait(600)


def _some_report(folder: Path) -> bool:
    return any(folder.glob("trial_*/result.json"))


def test_a_host_that_is_killed(searched: dict[str, Any], tmp_path: Path) -> None:
    searched["training"]["num_epochs"] = 30
    killed: list[int] = []

    def kill(_: psutil.Process) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # one that has ended has no title
                if "ray::_Host" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)

    assert _run(searched, _some_report, kill) == 0
    assert killed
    trials = read_study(tmp_path / "s").trials
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert any("failures" in trial.user_attrs for trial in trials), "its trials were tried again"
    assert_each_is_as_alone(tmp_path / "s", tmp_path, 6)


@pytest.mark.usefixtures("ray_for_all")
def test_an_idle_host_leaves_its_place_to_one_that_waits(
    searched: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray has two CPUs, and a host takes both; where others use a cluster, or a machine has died, it is alike."""
    plan = Plan.of({**searched, "hyperopt": {**searched["hyperopt"], "max_concurrent": 4}})
    hosts = Hosts(plan, {"cpu": 2.0, "gpu": 0.0})
    try:
        first = hosts.choose(0, running=[])
        ray.get(ray.get_actor(first).introduce.remote())
        second = hosts.choose(1, running=[0])
        assert second != first
        hosts.make_room(running=[1])
        assert hosts.choose(2, running=[1]) == first, "it may only be starting, and an idle one is used"
        monkeypatch.setattr(hosts_module, "_LATE", 0.0)
        hosts.make_room(running=[1, 2])
        assert ray.get(ray.get_actor(first).introduce.remote()), "its trial is not ended"
        hosts.make_room(running=[1])
        assert ray.get(ray.get_actor(second).introduce.remote(), timeout=120)
        deadline = time.monotonic() + 60
        while hosts._starting and time.monotonic() < deadline:  # Ray tells a moment later that it has started
            hosts.make_room(running=[])  # as the engine does before each choice
        dying = ray.get_actor(second)
        ray.kill(dying)  # which answers for a moment
        with contextlib.suppress(ray.exceptions.RayActorError):
            while time.monotonic() < deadline:
                ray.get(dying.introduce.remote(), timeout=60)
        assert hosts.choose(3, running=[]) not in (first, second), "no trial goes to a dead one"
    finally:
        hosts.close()


def test_a_search_that_is_killed_and_resumed(searched: dict[str, Any], tmp_path: Path) -> None:
    searched["training"]["num_epochs"] = 30
    assert _run(copy.deepcopy(searched), _some_report, lambda driver: driver.send_signal(signal.SIGKILL)) != 0
    searched["hyperopt"]["resume"] = True
    found = search(searched)
    assert (found.n_trials, found.n_failed) == (6, 0)
    assert_each_is_as_alone(tmp_path / "s", tmp_path, 6)
