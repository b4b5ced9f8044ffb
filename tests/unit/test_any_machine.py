"""What differs between machines: names that are taken, masks, variables, locks, signals, folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mistral_ner import files
from mistral_ner.config.check import check, read
from mistral_ner.config.hydra_errors import explain
from mistral_ner.hyperopt import sweepers
from mistral_ner.hyperopt.dry_run import stopping_rule
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.opening import lead_study
from mistral_ner.hyperopt.study.signals import Interrupted, catch_signals, handle_again
from mistral_ner.run import _in_shell_folder

ROOT = Path(__file__).parents[2]

SEARCH = ("hyperopt=optuna", "model=tiny", "output_dir=.", "hyperopt.max_concurrent=1")


def test_runs_that_begin_at_once_get_a_folder_each(tmp_path: Path) -> None:
    together = threading.Barrier(6)

    def claim(_: int) -> Path:
        together.wait()
        return files.claim_folder(tmp_path / "outputs" / "12-00-00")

    with ThreadPoolExecutor(6) as pool:
        names = sorted(path.name for path in pool.map(claim, range(6)))
    assert names == ["12-00-00", *(f"12-00-00_{number}" for number in range(2, 7))]


def test_a_training_claims_its_folder_once(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    mine = sweepers._claim_folder("outputs/a")
    assert sweepers._claim_folder("outputs/a") == mine == "outputs/a"
    sweepers._claim_folder.cache_clear()  # as in another process
    assert sweepers._claim_folder("outputs/a") == "outputs/a_2"
    sweepers._claim_folder.cache_clear()


def test_searches_of_the_same_second_get_a_name_each(tmp_path: Path, compose: Any) -> None:
    plans = [Plan.of(compose(*SEARCH, f"hyperopt.results_dir={tmp_path}")) for _ in range(2)]
    for one in plans:
        one.config.hyperopt.study_name = "optuna-2026-01-01_12-00-00"
    with lead_study(plans[0]) as first, lead_study(plans[1]) as second:
        first.ask()
        second.ask()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "optuna-2026-01-01_12-00-00",
        "optuna-2026-01-01_12-00-00_2",
    ]
    assert second.optuna.study_name == "optuna-2026-01-01_12-00-00_2"


def test_a_name_that_was_chosen_stays(tmp_path: Path, compose: Any) -> None:
    plan = Plan.of(compose(*SEARCH, f"hyperopt.results_dir={tmp_path}", "hyperopt.study_name=s"))
    assert not plan.named_by_time


def test_sweeps_of_the_same_second_get_a_folder_each(tmp_path: Path, compose: Any) -> None:
    config, jobs = compose(), [["seed=1"], ["seed=2"]]
    folder = tmp_path / config.hyperopt.study_name
    assert sweepers._in_own_folder(folder, config, jobs)[0] == folder
    second, with_name = sweepers._in_own_folder(folder, config, jobs)
    assert second.name == f"{folder.name}_2"
    assert with_name == [[job, f"hyperopt.study_name={second.name}"] for job in ("seed=1", "seed=2")]
    chosen = compose("hyperopt.study_name=s")
    assert sweepers._in_own_folder(tmp_path / "s", chosen, jobs) == (tmp_path / "s", jobs)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGXCPU", "SIGTERM"])
def test_a_signal_that_asks_for_an_end_gets_an_orderly_one(name: str) -> None:
    before = signal.getsignal(signal.Signals[name])
    with pytest.raises(Interrupted, match=name), catch_signals():
        signal.raise_signal(signal.Signals[name])
    assert signal.getsignal(signal.Signals[name]) == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with catch_signals():
            handle_again()
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [("077", "600", "700"), ("002", "664", "775"), ("027", "640", "750")]
)
def test_new_files_have_the_mode_that_the_umask_leaves(tmp_path: Path, umask: str, file: str, folder: str) -> None:
    code = f"""if True:
    import os; os.umask(0o{umask})
    from pathlib import Path
    from mistral_ner import files, locks
    place = Path({str(tmp_path)!r})
    files.write_text(place / "written", "x")
    with locks.hold(place / "lock", 0), locks.hold_for_a_write(place / "journal.flock"):
        pass
    files.build_folder(place / "built", "x", lambda folder: 1, lambda folder: None)
    print(*(oct((place / name).stat().st_mode)[-3:] for name in ("written", "lock", "journal.flock", "built")))"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [file, file, file, folder]


@pytest.mark.parametrize("key", ["output_dir", "hyperopt.results_dir", "data.cache_dir"])
def test_a_folder_without_a_name_is_refused(key: str, compose: Any) -> None:
    faults = read(compose("output_dir=o", f"{key}=''"))[1]
    assert [str(fault) for fault in faults] == [
        f"{key}: must be a folder, found an empty name\n      fix: {key}=FOLDER"
    ]


def test_an_empty_variable_does_not_name_a_cache() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MISTRAL_NER_CACHE": ""}
    code = "import mistral_ner, os; print('MISTRAL_NER_CACHE' in os.environ)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_dry_run_needs_a_search() -> None:
    faults = read({"output_dir": "o", "hyperopt": {"dry_run": True}})[1]
    assert "hyperopt.dry_run: true prints the plan of a search, and hyperopt=none is a plain training" in str(faults[0])
    assert "fix: hyperopt=combined, or hyperopt.dry_run=false" in str(faults[0])
    assert not read({"output_dir": "o", "hyperopt": {"dry_run": True, "strategy": "optuna"}})[1]


@pytest.mark.parametrize(("reports", "rule"), [(1, "none: ASHA compares"), (2, "at reports 1 of 2"), (9, "3 of 9")])
def test_a_dry_run_names_the_rungs_that_there_are(reports: int, rule: str, compose: Any) -> None:
    plan = Plan.of(compose("hyperopt=combined", "output_dir=.", f"training.reports={reports}"))
    assert rule in stopping_rule(plan)


@pytest.mark.parametrize(
    ("text", "where", "fix"),
    [
        ("Key 'params' not in '_SweeperConf'", "params: a sweeper of", "fix: 'hyperopt.search_space={learning_rate:"),
        ("Key 'n_jobs' not in '_SweeperConf'", "this one is hyperopt.max_concurrent", "fix: hyperopt.max_concurrent=2"),
        (
            "Could not override 'hydra.sweeper.sampler'.",
            "is hyperopt.optuna_sampler",
            "fix: hyperopt.optuna_sampler=TPE",
        ),
        (
            "Could not override 'hyperopt.search_space.lora_r.high'.\nKey=hyperopt.search_space.lora_r.high=8",
            "the space that it would change is search_space",
            "fix: 'search_space.lora_r.high=8'",
        ),
        (
            "Could not override 'search_space'.\nTo append use +search_space={lora_dropout: {type: uniform}}",
            "adds parameters to a space, which hyperopt.search_space replaces",
            "fix: 'hyperopt.search_space={lora_dropout: {type: uniform}}'",
        ),
        (
            "Could not override 'search_space.lora_r.step'.\nTo append use +search_space.lora_r.step=2",
            "the search space has no such key; a plus adds it",
            "fix: '+search_space.lora_r.step=2' if search_space.lora_r is searched, and '+search_space.lora_r={type: ",
        ),
        ("PlainSweeper() takes no arguments", "sweeper.KEY: a sweeper of this project", "fix: ~hydra.sweeper.KEY"),
    ],
)
def test_the_settings_of_another_sweeper_have_a_place_here(text: str, where: str, fix: str) -> None:
    message = explain(RuntimeError(text))
    assert where in message
    assert fix in message


def test_a_whole_space_can_be_typed_and_is_data(compose: Any) -> None:
    """It replaces the group's five parameters, and nothing in its choices is looked up."""
    typed = "hyperopt.search_space={lora_r: {type: choice, choices: [4, 8]}, "
    typed += "lr_scheduler_type: {type: choice, choices: ['${oc.env:HOME}', linear]}}"
    config, faults = read(compose("hyperopt=optuna", "output_dir=.", typed))
    assert config is not None
    assert not faults
    assert config.hyperopt.search_space is not None
    assert list(config.hyperopt.search_space) == ["lora_r", "lr_scheduler_type"]
    assert config.hyperopt.search_space["lr_scheduler_type"]["choices"] == ["${oc.env:HOME}", "linear"]
    fits = "hyperopt.search_space={lora_r: {type: choice, choices: [4, 8]}}"
    assert Plan.of(compose("hyperopt=optuna", "output_dir=.", fits)).space.names == ["lora_r"]


def test_a_job_works_where_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.txt").touch()
    (job := tmp_path / "outputs").mkdir()
    monkeypatch.chdir(job)  # hydra.job.chdir=true
    with _in_shell_folder(tmp_path):
        config = check({"output_dir": str(job), "data": {"source": "files", "train_file": "train.txt"}})
    assert config.data.train_file == str(tmp_path / "train.txt")
    assert config.hyperopt.results_dir == str(tmp_path / "multirun")  # where a search's jobs find their study
    assert Path.cwd() == job


def test_a_job_that_fails_may_remove_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job := tmp_path / "outputs").mkdir()
    monkeypatch.chdir(job)
    with pytest.raises(FileNotFoundError, match="not_there"), _in_shell_folder(tmp_path):
        (job.rmdir() or tmp_path / "not_there").rename("x")  # type: ignore[func-returns-value]


def test_a_job_on_another_machine_stays_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with _in_shell_folder(tmp_path / "not_here"):
        assert Path.cwd() == tmp_path
