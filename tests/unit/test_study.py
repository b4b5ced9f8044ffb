"""The study after an end at an awkward moment, without processes: what a kill leaves is made here step by step."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mistral_ner import files
from mistral_ner.config import UserError
from mistral_ner.hyperopt.leader import lead, look
from mistral_ner.hyperopt.optuna_sweep import search
from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.samplers import sampler
from mistral_ner.hyperopt.study import Asked, Study

TRIALS, REPORTS = 14, 3


def plan(folder: Path, **hyperopt: Any) -> Plan:
    return Plan.of(
        {
            "output_dir": str(folder),
            "training": {"reports": REPORTS},
            "search_space": {
                "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1},
                "lora_r": {"type": "choice", "choices": [4, 8, 16]},
                "weight_decay": {"type": "uniform", "low": 0.0, "high": 0.1},
            },
            "hyperopt": {
                "strategy": "optuna",
                "num_trials": TRIALS,
                "max_concurrent": 1,
                "optuna_n_startup_trials": 4,
                "results_dir": str(folder),
                "study_name": "s",
                **hyperopt,
            },
        }
    )


def run_whole(study: Study, asked: Asked) -> None:
    for report in range(1, REPORTS + 1):
        study.report(asked.number, report, {"eval_f1": float(str(asked.values["learning_rate"])) + report / 10})
    study.end(asked.number)


@pytest.mark.parametrize(
    ("name", "proposed"),
    # GP proposes all parameters together, and sees those that a trial has already: it is the same from 0 alone
    [(name, proposed) for name in ("TPE", "Random", "CMA") for proposed in (0, 1, 2)] + [("GPSampler", 0)],
)
def test_a_proposal_that_was_cut_off_is_the_one_of_an_unbroken_search(tmp_path: Path, name: str, proposed: int) -> None:
    """The trial is there, and so many of its parameters."""
    with lead(plan(tmp_path / "whole", optuna_sampler=name)) as study:
        expected = []
        for _ in range(8):
            asked = study.ask()
            run_whole(study, asked)
            expected.append(asked.values)
    with lead(plan(tmp_path, optuna_sampler=name)) as study:
        for _ in range(7):
            run_whole(study, study.ask())
        study.optuna.sampler = sampler(study.plan, 7)
        trial = study.optuna.ask()
        for parameter in study.plan.space.parameters[:proposed]:
            parameter.suggest(trial)
    with lead(plan(tmp_path, optuna_sampler=name, resume=True)) as study:
        asked = study.ask()
    assert (asked.number, asked.again) == (7, True)
    assert asked.values == expected[7]


def test_a_trial_that_was_cut_off_before_its_judgement_is_judged(tmp_path: Path) -> None:
    """Its report is in the study; whether the pruner stops it there had not been asked."""
    settings = {"optuna_pruner": "median", "num_trials": 6}
    with lead(plan(tmp_path, **settings)) as study:
        for _ in range(5):
            run_whole(study, study.ask())
        poor = study.ask().number
        study.report(poor, 1, {"eval_f1": -1.0})
    search(plan(tmp_path, **settings, resume=True), lambda config, report: pytest.fail("there is nothing to run"))
    trial = look(tmp_path / "s").trials[poor]
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {1: -1.0})


def test_a_beginning_that_was_cut_off_is_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is in the journal, but not its config: neither a study that exists nor one to go on with."""

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("mistral_ner.hyperopt.leader.files.write_yaml", kill)
        with pytest.raises(Killed), lead(plan(tmp_path)):
            pass
    with pytest.raises(UserError, match="no study 's' to resume"), lead(plan(tmp_path, resume=True)):
        pass
    with lead(plan(tmp_path)) as study:
        assert study.ask().number == 0


def test_who_goes_on_waits_for_a_worker_that_is_still_there(tmp_path: Path) -> None:
    with lead(plan(tmp_path)) as study:
        number = study.ask().number
    held, ended = threading.Event(), list[float]()

    def worker() -> None:
        with files.alone(tmp_path / "s" / f"trial_{number:04d}"):
            held.set()
            time.sleep(0.5)
            ended.append(time.monotonic())

    thread = threading.Thread(target=worker)
    thread.start()
    assert held.wait(10)
    with lead(plan(tmp_path, resume=True)) as study:
        assert study.ask().again
        assert ended
        assert time.monotonic() >= ended[0]
    thread.join()


@pytest.mark.parametrize("end", [SystemExit(2), MemoryError(), ConnectionResetError("reset")])
def test_no_end_of_a_trial_is_that_of_the_search(tmp_path: Path, end: BaseException) -> None:
    def objective(config: Any, report: Any) -> None:
        if Path(config.output_dir).name == "trial_0001":
            raise end
        for number in range(1, REPORTS + 1):
            report(number, {"eval_f1": 0.5})

    summary = search(plan(tmp_path, num_trials=3, max_failures=0), objective)
    assert (summary.n_complete, summary.n_failed) == (2, 1)
    assert list(summary.failures) == [f"{type(end).__name__}: {end}" if str(end) else type(end).__name__]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_broken_value_is_neither_the_best_nor_the_target(
    tmp_path: Path, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mistral_ner")

    def objective(config: Any, report: Any) -> None:
        for number in range(1, REPORTS + 1):
            report(number, {"eval_f1": value if Path(config.output_dir).name == "trial_0000" else 0.5})

    summary = search(plan(tmp_path, num_trials=2, target=0.9, max_failure_rate=1.0), objective)
    assert (summary.n_failed, summary.n_complete, summary.budget_spent) == (1, 1, None)
    assert "| best none |" in caplog.text
    assert "| best 0.5000 (trial 1) |" in caplog.text
    assert "best inf" not in caplog.text
