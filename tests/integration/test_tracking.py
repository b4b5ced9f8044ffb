"""Each tracker's real library, writing to local files: what of a training and of a search is found there."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.errors import ConfigError
from mistral_ner.hyperopt.dispatch import run_search
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.train import fit

ROOT = Path(__file__).parents[2]

# What a tracker holds: of each run by name, the values of each metric in order, and the names of what else is there.
Runs = dict[str, tuple[dict[str, list[float]], set[str]]]


def plan(tiny: dict[str, Any], folder: Path, tracker: str, **tracking: Any) -> Plan:
    return Plan.of(
        {
            **tiny,
            "tracking": {"report_to": tracker, "project": "our_project", **tracking},
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-3, "high": 3e-2}},
            "hyperopt": {
                "strategy": "random",
                "optuna_sampler": "Random",
                "num_trials": 2,
                "max_concurrent": 1,
                "results_dir": str(folder / "multirun"),
                "study_name": "s",
                "final": {"top_k": 1, "seeds": 2, "share": None},
            },
        }
    )


def in_wandb(folder: Path) -> Runs:
    from wandb.proto import wandb_internal_pb2

    runs: Runs = {}
    for path in folder.rglob("*.wandb"):
        name, values, other = "", dict[str, list[float]](), set[str]()
        for data in leveldb_log(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                name = record.run.display_name or name
                assert record.run.project == "our_project"
                other |= {item.key for item in record.run.config.update}
                other |= {f"group {record.run.run_group}"} if record.run.run_group else set()
            for item in record.history.item:
                key, value = item.key or ".".join(item.nested_key), json.loads(item.value_json)
                if isinstance(value, int | float):
                    values.setdefault(key, []).append(value)
                else:
                    other.add(key)
            if record.HasField("request") and record.request.HasField("log_artifact"):
                other.add(record.request.log_artifact.artifact.name)
            if record.HasField("artifact"):
                other.add(record.artifact.name)
        runs[name] = values, other
    return runs


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format (its doc/log_format.md) after a head of seven bytes."""
    assert content.startswith(b":W&B")
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block that no head fits in
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


def in_mlflow(folder: Path) -> Runs:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("our_project")
    assert experiment is not None
    runs: Runs = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.status == "FINISHED"
        values = {
            _as_elsewhere(key): [
                point.value for point in sorted(client.get_metric_history(run.info.run_id, key), key=_step)
            ]
            for key in run.data.metrics
        }
        artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        group = {f"group {run.data.tags['study']}"} if "study" in run.data.tags else set()
        runs[run.info.run_name] = values, artifacts | set(run.data.params) | group
    return runs


def _as_elsewhere(key: str) -> str:
    """Trainer gives MLflow its own names, the other trackers eval/f1 and train/loss."""
    if key.startswith("eval_"):
        return f"eval/{key.removeprefix('eval_')}"
    return key if "/" in key else f"train/{key}"


def _step(point: Any) -> int:
    return int(point.step)


def in_tensorboard(folder: Path) -> Runs:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs: Runs = {}
    for path in {path.parent for path in folder.rglob("events.out.tfevents.*")}:
        events = EventAccumulator(str(path))
        events.Reload()
        tags = events.Tags()
        values = {tag: [event.value for event in events.Scalars(tag)] for tag in tags["scalars"]}
        runs["/".join(path.parent.relative_to(folder).parts).removeprefix("multirun/")] = values, set(tags["tensors"])
    return runs


READ: dict[str, Callable[[Path], Runs]] = {"wandb": in_wandb, "mlflow": in_mlflow, "tensorboard": in_tensorboard}
# besides the values: the config of a training, the table and the best config of a search
TRAINING = {
    "wandb": {"model", "training", "group s"},
    "mlflow": {"config.model.lora_r", "config.training.learning_rate", "group s"},
    "tensorboard": {"args/text_summary"},
}
SEARCH = {
    "wandb": {"search/trials.sha256", "s-best_config", "group s"},
    "mlflow": {"trials.csv", "best_config.yaml", "group s"},
    "tensorboard": {"search/trials/text_summary", "search/best_config/text_summary", "search/summary/text_summary"},
}


@pytest.mark.parametrize("tracker", READ)
def test_a_training_the_final_trainings_and_the_search_are_tracked_and_its_trials_are_not(
    tmp_path: Path, tiny: dict[str, Any], tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    made = plan(tiny, tmp_path, tracker)
    fit({**tiny, "tracking": {"report_to": tracker, "project": "our_project"}})
    summary = run_search(made)
    assert summary.final is not None
    runs = READ[tracker](tmp_path)

    single = "run" if tracker == "tensorboard" else f"{tmp_path.name}/run"
    finals = [f"s/final/candidates/{path.name}" for path in (made.folder / "final/candidates").iterdir()]
    assert len(finals) >= len(summary.final["settings"]), "one with the new seed for each, and what no trial was"
    assert set(runs) == {single, "s", *finals}, "and no trial"
    for name in (single, *finals):
        values, other = runs[name]
        folder = tmp_path / "run" if name == single else made.folder.parent / name
        rows = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
        assert values["eval/f1"] == pytest.approx([row["eval_f1"] for row in rows])
        assert values["train/loss"] == pytest.approx([row["train_loss"] for row in rows])
        assert len(values["train/learning_rate"]) == 3
        assert other >= TRAINING[tracker] - ({"group s"} if name == single else set())
    values, other = runs["s"]
    assert len(values["search/best_so_far"]) == summary.reports_run
    assert values["search/best_so_far"][-1] == pytest.approx(summary.best_value)
    assert other >= SEARCH[tracker]


def test_trials_are_tracked_on_demand_each_in_its_folder(tmp_path: Path, tiny: dict[str, Any]) -> None:
    made = plan(tiny, tmp_path, "tensorboard", trials=True)
    run_search(made)
    assert {"s/trial_0000", "s/trial_0001"} <= set(in_tensorboard(tmp_path))
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_a_broken_tracker_breaks_no_training(
    tmp_path: Path, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuch://store")
    assert fit({**tiny, "tracking": {"report_to": "mlflow"}}) > 0
    assert "not tracked: mlflow cannot begin a run" in caplog.text


def test_a_tracker_that_is_not_there_is_said_before_anything_starts(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else there(name))
    with pytest.raises(ConfigError, match=r"mlflow is not installed\s+fix: pip install -e '\.\[tracking\]'"):
        plan(tiny, tmp_path, "mlflow")


@pytest.mark.parametrize("command", [[], ["-m", "hyperopt=random"]])
def test_without_a_key_wandb_is_refused_before_anything_starts(tmp_path: Path, command: list[str]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *command, "model=tiny", "tracking=wandb"],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 1
    assert "wandb is not logged in fix: wandb login, or WANDB_MODE=offline, or tracking=none" in " ".join(
        done.stderr.split()
    )
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("home", "wandb")] == []
