"""Trainings on hosts that share nothing: own addresses, processes, file systems; the driver has the whole study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hosts import (
    STUDY,
    Cluster,
    ended_well,
    exact,
    exact_calls,
    has_forked_workers,
    needs_hosts,
    nothing_seen,
    until,
)

from mistral_ner import files
from mistral_ner.hyperopt.dispatch import search
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.train import fit
from mistral_ner.training.checkpoint import reports_on_disk
from tests.namespaces import PROJECT, PYTHON

pytestmark = needs_hosts
TRIALS = 30


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


@pytest.mark.usefixtures("cold")
def test_the_winner_is_that_of_one_machine_though_a_machine_dies(
    cluster: Cluster, config: dict[str, Any], tiny: dict[str, Any], tmp_path: Path
) -> None:
    config["hyperopt"]["max_concurrent"] = 1  # so that the order of reports is the same
    driver = cluster.search(config)
    until(lambda: cluster.reports() >= 10 and cluster.at_work(), 400, "no reports", cluster.log("driver"))
    assert any(has_forked_workers(host) for host in cluster.workers)
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


@pytest.fixture
def model_folder(tiny: dict[str, Any], cluster: Cluster, tmp_path: Path) -> dict[str, Any]:
    """The config of a base model that lies in a folder: on this machine, and on the driver's at the same path."""
    from transformers import AutoModelForTokenClassification

    from mistral_ner.config.check import check
    from mistral_ner.model.base import build_random_config
    from mistral_ner.training.inputs.prepare import prepare

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
        ("combined", {"trials_per_pass": 2, "max_concurrent": None}),
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


def test_no_pass_goes_to_a_machine_with_other_versions(cluster: Cluster, config: dict[str, Any]) -> None:
    """It joins when the others train; the trials that its place was taken for begin elsewhere, with no failure."""
    config["training"]["num_epochs"] = 60
    config["hyperopt"] |= {"num_trials": 12, "trials_per_pass": 2, "max_concurrent": None, "max_failures": 0}
    config["hyperopt"]["final"] = {"enabled": False}
    driver = cluster.search(config)
    until(lambda: cluster.reports() or driver.poll() is not None, 400, "no reports", cluster.log("driver"))
    stranger = cluster.add_worker(torch="0.1")
    said = f"{stranger.address} has joined and gets no trials: "
    try:
        until(lambda: said in cluster.said() or driver.poll() is not None, 120, "not noticed", cluster.log("driver"))
        ended_well(cluster, driver)
    finally:
        cluster.kill(stranger)  # the next search would be refused for it
    assert cluster.said().count("gets no trials") == 1
    exact(cluster, 12)
    nothing_seen(cluster)
    assert not any("failures" in trial.user_attrs for trial in read_study(cluster.study).trials)


def test_the_trials_of_a_pass_whose_machine_dies_end_on_another(cluster: Cluster, config: dict[str, Any]) -> None:
    """Both machines are full when one of them dies: its trials have a place once the other one is idle."""
    config["training"]["num_epochs"] = 60
    config["hyperopt"] |= {"num_trials": 4, "trials_per_pass": 2, "max_concurrent": 4, "asha_grace_period": 3}
    config["hyperopt"]["final"] = {"enabled": False}
    driver = cluster.search(config)
    until(lambda: len(cluster.at_work()) == 2 or driver.poll() is not None, 400, "not at work", cluster.log("driver"))
    cluster.kill(cluster.at_work()[1])
    ended_well(cluster, driver, 300)
    exact(cluster, 4)
    nothing_seen(cluster)
    # relays lie anywhere, so that a trial of the other machine may have lost its own
    assert all(len(trial.user_attrs.get("failures", [])) <= 1 for trial in read_study(cluster.study).trials)


APP = f"""
import hydra
import mistral_ner.hyperopt.sweepers
from arithmetic import arithmetic

objective = arithmetic()

@hydra.main(config_path="{PROJECT}/conf", config_name="config")
def main(cfg):
    from mistral_ner.hyperopt.engines.trial import run_job
    return run_job(cfg, objective)

main()
"""


def test_a_hydra_task_of_ones_own_is_what_a_trial_runs(cluster: Cluster) -> None:
    """Its machine sees neither the study nor the task's file; the winner is trained as ever."""
    cluster.driver.see("/tmp/app.py").write_text(APP)
    given = [f"hyperopt.ray_address=ray://{cluster.head.address}:10001", "hyperopt=random", "hydra/launcher=ray"]
    given += ["model=tiny", "debug=quick", "training.reports=9", "data.max_train_sentences=100"]
    given += ["hyperopt.results_dir=/tmp/results", "hyperopt.study_name=s", "data.cache_dir=/tmp/cache"]
    given += ["hyperopt.num_trials=4", "hyperopt.final.top_k=1", "hyperopt.final.seeds=1"]
    command = f"cd /tmp && exec {PYTHON} app.py -m {' '.join(given)}"
    path = f"{PROJECT}:{PROJECT}/tests/integration"
    ended_well(cluster, cluster.driver.start("sh", "-c", command, log=cluster.log("driver"), PYTHONPATH=path))
    exact_calls(cluster, 4)
    nothing_seen(cluster)


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
