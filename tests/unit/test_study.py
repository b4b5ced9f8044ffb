"""The study after an end at an awkward moment, without processes: what a kill leaves is made here step by step."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mistral_ner import files, locks
from mistral_ner.config.schema import DataConfig, to_container
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.dispatch import run_search
from mistral_ner.hyperopt.dry_run import describe
from mistral_ner.hyperopt.report import write_report
from mistral_ner.hyperopt.results.finish import finish
from mistral_ner.hyperopt.results.summary import describe_reports, summarise
from mistral_ner.hyperopt.sampling.samplers import build_sampler
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.event_log import format_duration
from mistral_ner.hyperopt.study.opening import lead_study, read_study
from mistral_ner.hyperopt.study.signals import Interrupted
from mistral_ner.hyperopt.study.study import Proposal, Study

TRIALS, REPORTS = 14, 3
NAMES = ("Ada", "Bo", "Cy", "Di")


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


def run_whole(study: Study, asked: Proposal) -> None:
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
    with lead_study(plan(tmp_path / "whole", optuna_sampler=name)) as study:
        expected = []
        for _ in range(8):
            asked = study.ask()
            run_whole(study, asked)
            expected.append(asked.values)
    with lead_study(plan(tmp_path, optuna_sampler=name)) as study:
        for _ in range(7):
            run_whole(study, study.ask())
        study.optuna.sampler = build_sampler(study.plan, 7)
        trial = study.optuna.ask()
        for parameter in study.plan.space.parameters[:proposed]:
            parameter.suggest(trial)
    with lead_study(plan(tmp_path, optuna_sampler=name, resume=True)) as study:
        asked = study.ask()
    assert (asked.number, asked.again) == (7, True)
    assert asked.values == expected[7]


def test_a_trial_that_was_cut_off_before_its_judgement_is_judged(tmp_path: Path) -> None:
    """Its report is in the study; whether the pruner stops it there had not been asked."""
    settings = {"optuna_pruner": "median", "num_trials": 6}
    with lead_study(plan(tmp_path, **settings)) as study:
        for _ in range(5):
            run_whole(study, study.ask())
        poor = study.ask().number
        study.report(poor, 1, {"eval_f1": -1.0})
    run_search(plan(tmp_path, **settings, resume=True), lambda config, report: pytest.fail("there is nothing to run"))
    trial = read_study(tmp_path / "s").trials[poor]
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {1: -1.0})


def test_a_beginning_that_was_cut_off_is_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is in the journal, but not its config: neither a study that exists nor one to go on with."""

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("mistral_ner.hyperopt.study.opening.files.write_yaml", kill)
        with pytest.raises(Killed), lead_study(plan(tmp_path)):
            pass
    with pytest.raises(UserError, match="no study 's' to resume"), lead_study(plan(tmp_path, resume=True)):
        pass
    with lead_study(plan(tmp_path)) as study:
        assert study.ask().number == 0


def test_who_goes_on_waits_for_a_worker_that_is_still_there(tmp_path: Path) -> None:
    with lead_study(plan(tmp_path)) as study:
        number = study.ask().number
    held, ended = threading.Event(), list[float]()

    def worker() -> None:
        with locks.hold_folder(tmp_path / "s" / f"trial_{number:04d}"):
            held.set()
            time.sleep(0.5)
            ended.append(time.monotonic())

    thread = threading.Thread(target=worker)
    thread.start()
    assert held.wait(10)
    with lead_study(plan(tmp_path, resume=True)) as study:
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

    summary = run_search(plan(tmp_path, num_trials=3, max_failures=0), objective)
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

    summary = run_search(plan(tmp_path, num_trials=2, target=0.9, max_failure_rate=1.0), objective)
    assert (summary.n_failed, summary.n_complete, summary.budget_spent) == (1, 1, None)
    assert "| best none |" in caplog.text
    assert "| best 0.5000 (trial 1) |" in caplog.text
    assert "best inf" not in caplog.text


def test_a_study_whose_columns_an_earlier_version_saved_goes_on(tmp_path: Path) -> None:
    """It saved its defaults, columns 0 and -1, where this version looks for the columns."""
    first_last, number_first = tmp_path / "a.txt", tmp_path / "b.txt"
    first_last.write_text("".join(f"{name} NNP B-PER\nis VBZ O\n\n" for name in NAMES))
    number_first.write_text("".join(f"1 {name} B-PER\n2 is O\n\n" for name in NAMES))

    def read(**data: Any) -> Plan:
        return Plan.of(replace(made.config, data=replace(made.config.data, **data)))

    made = plan(tmp_path, resume=True)
    with lead_study(plan(tmp_path)) as study:
        study.ask()
    old = {"token_column": "0", "tag_column": "-1"}
    for settings, same in (
        ({"source": "sample"}, True),
        ({"source": "files", "train_file": str(first_last)}, True),
        ({"source": "files", "train_file": str(number_first)}, False),
    ):
        saved = to_container(read(**settings).config)
        files.write_yaml(tmp_path / "s/config.yaml", {**saved, "data": {**saved["data"], **old}})
        if same:
            with lead_study(read(**settings)):
                assert read_study(tmp_path / "s").plan.config.data.tag_column is None
        else:
            with pytest.raises(UserError, match=r"data.token_column: was '0', is None"), lead_study(read(**settings)):
                pass


def test_a_search_that_finds_no_entity_says_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def objective(config: Any, report: Any) -> None:
        for number in range(1, REPORTS + 1):
            report(number, {"eval_f1": 0.0})

    run_search(plan(tmp_path, num_trials=1), objective)
    [said] = [record.getMessage() for record in caplog.records if "F1 is 0" in record.getMessage()]
    assert "training.num_epochs=null training.min_steps=1000" in said


def test_a_dry_run_reads_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{name} NNP B-PER\nis VBZ O\n\n" for name in NAMES))
    made = plan(tmp_path)
    for name, text in (
        ("a.txt", "(conll, words in column 0, tags in column 2, tags iob2): 2 sentences"),
        ("b.txt", ""),
    ):
        made.config.data = DataConfig(source="files", train_file=str(tmp_path / name))
        if text:
            describe(made)
            assert f"train    {name} {text}" in capsys.readouterr().out
        else:
            with pytest.raises(UserError, match=r"b\.txt: there is no such file"):
                describe(made)
            assert capsys.readouterr().out == ""


@pytest.mark.parametrize("end", [KeyboardInterrupt(), UserError("Ray does not start"), RuntimeError("broken")])
def test_a_search_that_ran_nothing_leaves_no_study(tmp_path: Path, end: BaseException) -> None:
    with pytest.raises(type(end)), lead_study(plan(tmp_path)):
        raise end
    assert not list(tmp_path.iterdir())
    with lead_study(plan(tmp_path)) as study:  # the corrected command may use the name
        study.ask()
    assert (tmp_path / "s" / "config.yaml").exists()


def test_a_folder_that_holds_more_than_the_empty_study_stays(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").touch()
    with lead_study(plan(tmp_path)):
        pass
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["notes.txt"]


def test_an_empty_study_in_a_database_is_removed_there(tmp_path: Path) -> None:
    here = plan(tmp_path, storage_url=f"sqlite:///{tmp_path / 'studies.db'}")
    for _ in range(2):
        with lead_study(here):
            pass
    assert not (tmp_path / "s").exists()


def end_in_every_way(study: Study) -> None:
    """Of four trials of three reports, one is completed, one is stopped, one fails, and one is cut off."""
    run_whole(study, study.ask())
    for failure in (None, "ValueError: no"):
        number = study.ask().number
        study.report(number, 1, {"eval_f1": 0.1})
        study.end(number, failure, stopped=failure is None)
    study.report(study.ask().number, 1, {"eval_f1": 0.2})


def test_only_reports_that_were_not_needed_are_saved(tmp_path: Path) -> None:
    """Not those that a trial failed to make, and not those that an interrupt kept it from."""
    with lead_study(plan(tmp_path)) as study:
        end_in_every_way(study)
        summary = summarise(study)
    assert (summary.n_complete, summary.n_pruned, summary.n_failed, summary.n_unfinished) == (1, 1, 1, 1)
    assert (summary.reports_run, summary.reports_saved, summary.reports_full) == (6, 2, 12)
    assert describe_reports(asdict(summary)) == "6 run, 2 saved by stopping early (25%)"
    page = write_report([tmp_path / "s"], None).read_text(encoding="utf-8")
    assert "Reports: 6 run, 2 saved by stopping early (25%)." in page
    assert "4 of trials that failed or are unfinished count as neither." in page
    assert '<b>25%</b><span class="soft">of the reports saved: 6 run, 2 not needed' in page


def test_an_interrupted_search_has_saved_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lead_study(plan(tmp_path)) as study:
        run_whole(study, study.ask())
        study.report(study.ask().number, 1, {"eval_f1": 0.2})
        study.interrupted = "SIGINT"
        with pytest.raises(Interrupted):
            finish(study)
    assert "4 run, 0 saved by stopping early (0%)" in capsys.readouterr().out


def test_the_wall_time_of_a_study_is_the_same_for_all_who_look(tmp_path: Path) -> None:
    with lead_study(plan(tmp_path, num_trials=1)) as study:
        run_whole(study, study.ask())
        study.clock.started -= 100
        summary = finish(study)
        study.clock.started -= 100  # writing the report took its time
    assert 100 <= summary.wall_s < 110
    assert json.loads((tmp_path / "s/summary.json").read_text())["wall_s"] == summary.wall_s
    seen = read_study(tmp_path / "s")
    seen.clock.started -= 100
    assert summarise(seen).wall_s == summary.wall_s
    with lead_study(plan(tmp_path, num_trials=1, resume=True)) as study:
        study.clock.started -= 50
        assert 150 <= study.seconds_in_all < 170, "a further run adds to it"


def test_the_dashboard_finds_the_metrics_names(tmp_path: Path) -> None:
    with lead_study(plan(tmp_path)) as study:
        run_whole(study, study.ask())
        assert study.optuna.metric_names == ["eval_f1"]


@pytest.mark.parametrize(("seconds", "text"), [(9.4, "9 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
