"""Real searches through Ray Tune with the tiny model: ASHA stops trials, the study tells the truth about each."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.dispatch import run_search
from mistral_ner.hyperopt.sampling.promise import Judge, look_at
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.train import fit
from tests.runs import reports

pytestmark = pytest.mark.usefixtures("ray_for_all")


def plan(config: dict[str, Any], folder: Path, **hyperopt: Any) -> Plan:
    config = {
        **config,
        "search_space": {
            "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 3e-2},
            "lora_r": {"type": "choice", "choices": [2, 4]},
        },
        "hyperopt": {
            "strategy": "combined",
            "num_trials": 8,
            "max_concurrent": 2,
            "asha_grace_period": 1,
            "results_dir": str(folder),
            "study_name": "s",
            "final": {"enabled": False},
            **hyperopt,
        },
    }
    config["training"] = {**config["training"], "metric": config["hyperopt"].get("metric", "eval_f1")}
    config["training"]["mode"] = config["hyperopt"].get("mode", "max")
    config["hyperopt"].setdefault("asha_max_t", config["training"]["reports"])
    return Plan.of(config)


def stored_trials(plan: Plan) -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(plan.folder / "study.journal")))
    return optuna.load_study(study_name=plan.config.hyperopt.study_name, storage=storage).trials


def result_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any], toy_files: dict[str, str], ray_for_all: None
) -> tuple[Plan, Any]:
    """One search that the tests below look at from several sides."""
    folder = tmp_path_factory.mktemp("search")
    config = {
        "output_dir": str(folder),
        "model": tiny_model,
        "data": {"source": "files", **toy_files, "cache_dir": str(folder / "cache")},
        "training": {"num_epochs": 3, "reports": 9},
    }
    made = plan(config, folder, num_trials=12)
    return made, run_search(made)


def test_asha_stops_trials_and_each_ends_as_it_should(finished: tuple[Plan, Any]) -> None:
    made, summary = finished
    trials = stored_trials(made)
    assert len(trials) == 12
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(pruned) + len(complete) == 12
    assert pruned, "with 12 trials over three decades of learning rates some must be stopped"
    assert complete
    for trial in pruned:
        assert list(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
        assert max(trial.intermediate_values) in (1, 3), "ASHA compares at rungs 1 and 3 of 9"
    for trial in complete:
        assert list(trial.intermediate_values) == list(range(1, 10))
        assert trial.value == max(trial.intermediate_values.values())
    assert summary.reports_run == sum(len(trial.intermediate_values) for trial in trials)
    assert summary.reports_run < summary.reports_full == 12 * 9


def test_asha_stopped_only_what_was_under_the_rung(finished: tuple[Plan, Any]) -> None:
    """Whatever the order of arrival, the most promising trial at a rung goes on, judged by losses that are kept."""
    made, _ = finished
    trials = stored_trials(made)
    for rung in (1, 3):
        seen = {trial.number: look_at(trial, rung) for trial in trials if rung in trial.intermediate_values}
        scores = Judge(made).scores(rung, seen)
        assert "eval_loss" in scores.by
        best = max(scores.of, key=lambda number: (scores.of[number], -number))
        assert max(trials[best].intermediate_values) > rung
    for trial in trials:
        losses_on_disk = [row["eval_loss"] for row in result_lines(made.folder / f"trial_{trial.number:04d}")]
        assert losses_on_disk == [trial.user_attrs[f"eval_loss_{k}"] for k in trial.intermediate_values]
        assert trial.state == TrialState.COMPLETE or "eval_loss), its rung needs " in trial.user_attrs["verdict"]


def test_study_and_trial_folders_agree(finished: tuple[Plan, Any]) -> None:
    made, _ = finished
    for trial in stored_trials(made):
        folder = made.folder / f"trial_{trial.number:04d}"
        lines = result_lines(folder)
        assert {row["report"]: row["eval_f1"] for row in lines} == trial.intermediate_values
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["training"]["learning_rate"] == trial.params["learning_rate"]
        assert config["model"]["lora_r"] == trial.params["lora_r"]
        assert config["output_dir"] == str(folder)
        assert (folder / "logs.txt").exists()


def test_best_config_repeats_the_winner(finished: tuple[Plan, Any], tmp_path: Path) -> None:
    made, summary = finished
    config = yaml.safe_load((made.folder / "best_config.yaml").read_text())
    assert config["output_dir"] == "${hydra:runtime.output_dir}"
    config["output_dir"] = str(tmp_path / "again")
    assert fit(config) == summary.best_value
    trial = made.folder / f"trial_{summary.best_trial:04d}"
    assert reports(tmp_path / "again") == reports(trial)


def test_results_folder(finished: tuple[Plan, Any]) -> None:
    made, summary = finished
    names = {path.name for path in made.folder.iterdir()}
    expected = {"study.journal", "config.yaml", "hyperopt.log", "summary.json", "trials.csv", "best_config.yaml"}
    assert expected <= names
    assert any(name.startswith("experiment_state") for name in names)
    written = json.loads((made.folder / "summary.json").read_text())
    keys = "study_name strategy metric mode n_trials n_complete n_pruned n_failed best_value best_trial best_params "
    assert set((keys + "reports_run reports_full wall_s").split()) <= set(written)
    assert written["best_value"] == summary.best_value
    rows = (made.folder / "trials.csv").read_text().splitlines()
    assert len(rows) == 13
    assert rows[0] == "trial,state,value,reports,seconds,learning_rate,lora_r,reason"


def test_workers_are_warm(finished: tuple[Plan, Any]) -> None:
    """Twelve trials, two workers: the base model was loaded and the data encoded or read twice, not twelve times."""
    made, _ = finished
    logs = "".join(path.read_text() for path in made.folder.glob("trial_*/logs.txt"))
    assert logs.count("encoded train") + logs.count("encoded data read") <= 2


def test_same_name_again_is_refused(finished: tuple[Plan, Any]) -> None:
    made, _ = finished
    with pytest.raises(UserError, match=r"the study 's' exists already in .*fix: another name"):
        run_search(made)


def test_broken_trials_fail_with_their_reason(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Some learning rates of this space overflow: those trials FAIL, the rest of the search goes on."""
    tiny["training"]["max_grad_norm"] = 1e30
    made = plan(
        tiny, tmp_path, num_trials=6, max_concurrent=1, strategy="asha", optuna_sampler="Random", max_failure_rate=1
    )
    space = {"learning_rate": {"type": "choice", "choices": [1e-2, 1e30]}}
    made = Plan.of({**json.loads(json.dumps(as_dict(made))), "search_space": space})
    summary = run_search(made)
    states = {trial.number: trial for trial in stored_trials(made)}
    broken = [trial for trial in states.values() if trial.params["learning_rate"] == 1e30]
    assert broken
    for trial in broken:
        assert trial.state == TrialState.FAIL
        assert trial.user_attrs["reason"].startswith("TrainingError: non-finite training loss")
    assert summary.n_failed == len(broken)
    assert summary.n_complete >= 1
    assert summary.best_params["learning_rate"] == 1e-2
    assert sum(summary.failures.values()) == len(broken)


@pytest.mark.parametrize("max_failures", [0, 1])
def test_killed_worker(tiny: dict[str, Any], tmp_path: Path, max_failures: int) -> None:
    """A worker is killed from outside: its trial FAILs with the reason, or goes on from its last report elsewhere."""
    tiny["training"] |= {"num_epochs": 12, "reports": 12}
    made = plan(tiny, tmp_path, num_trials=2, max_concurrent=1, asha_grace_period=12, max_failures=max_failures)

    killed: list[str] = []

    def kill_first_worker() -> None:
        first = made.folder / "trial_0000" / "result.json"
        while not first.exists():
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # one that has ended has no title
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and "IDLE" not in title and "Agent" not in title:
                    process.kill()
                    killed.append(title)

    killer = threading.Thread(target=kill_first_worker)
    killer.start()
    summary = run_search(made)
    killer.join()
    assert len(killed) == 1, "one trial was running, in one worker"
    trials = stored_trials(made)
    died = "the worker process died (killed, or out of memory)"
    if max_failures == 0:
        assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE]
        assert trials[0].user_attrs["reason"] == died
    else:
        assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.COMPLETE]
        assert trials[0].user_attrs["failures"] == [died]
        again = {
            **yaml.safe_load((made.folder / "trial_0000/config.yaml").read_text()),
            "output_dir": str(tmp_path / "x"),
        }
        assert fit(again) == trials[0].value, "a trial that was killed ends with the numbers of one that was not"
    assert summary.n_complete == 1 + max_failures


def test_a_worker_that_dies_while_it_starts_costs_no_attempt(tiny: dict[str, Any], tmp_path: Path) -> None:
    """As on a machine that has died, which Ray has not noticed yet."""
    made = plan(tiny, tmp_path, num_trials=1, max_concurrent=1, max_failures=0)
    killed: list[int] = []

    def kill_first_start() -> None:
        while not killed:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if " ".join(process.cmdline()).strip() == "ray::ImplicitFunc.__init__":
                        process.kill()
                        killed.append(process.pid)

    killer = threading.Thread(target=kill_first_start)
    killer.start()
    run_search(made)
    killer.join()
    (trial,) = stored_trials(made)
    assert trial.state == TrialState.COMPLETE
    assert "failures" not in trial.user_attrs


def as_dict(made: Plan) -> dict[str, Any]:
    from mistral_ner.config.schema import to_container

    return to_container(made.config)


def test_max_t_under_the_reports_is_a_whole_trial_that_repeats(tiny: dict[str, Any], tmp_path: Path) -> None:
    """And so is a metric that is minimised."""
    tiny["training"]["reports"] = 6
    made = plan(tiny, tmp_path, num_trials=4, max_concurrent=1, asha_max_t=3, metric="eval_loss", mode="min")
    summary = run_search(made)
    complete = [trial for trial in stored_trials(made) if trial.state == TrialState.COMPLETE]
    assert complete
    assert summary.best_value == min(trial.value for trial in complete if trial.value is not None)
    assert all(trial.value == min(trial.intermediate_values.values()) for trial in complete)
    for trial in complete:
        assert list(trial.intermediate_values) == [1, 2, 3]
        assert (made.folder / f"trial_{trial.number:04d}" / "adapter" / "adapter_model.safetensors").exists()
    assert summary.reports_full == 4 * 3
    config = yaml.safe_load((made.folder / "best_config.yaml").read_text())
    assert fit({**config, "output_dir": str(tmp_path / "again")}) == summary.best_value
