"""What containers, jobs and their administrators set: CPUs that are not ours, users without a home, Python's flags."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException

from mistral_ner import files
from mistral_ner.config.check import check
from mistral_ner.config.hydra_errors import explain
from mistral_ner.errors import ConfigError, UserError, show_user_errors
from mistral_ner.hyperopt.results.finish import finish
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.opening import lead_study
from mistral_ner.hyperopt.study.study import Study

ROOT = Path(__file__).parents[2]


def in_a_process(code: str, *flags: str, **environment: str) -> str:
    """Run a line of Python with this environment and return what it writes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, *flags, "-c", code], env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


# --- CPUs ---------------------------------------------------------------------------------------------------------

CORES = "from mistral_ner.hyperopt.spec import capacity; print(capacity.cores())"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process has one CPU in any case")
def test_cpus_that_this_process_may_not_use_are_not_counted() -> None:
    """As under Slurm, taskset or a container's --cpuset-cpus."""
    limited = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); {CORES}"
    assert in_a_process(limited) == "1\n"


def test_a_share_of_the_cpus_is_counted(tmp_path: Path) -> None:
    """As under docker --cpus=1.5 or a pod's limit: the kernel's file says 1.5 CPUs of time, which keep two busy."""
    (tmp_path / "cpu.max").write_text("150000 100000")
    read = f"import builtins, os; os.cpu_count = lambda: 64; os.sched_getaffinity = lambda pid: set(range(64)); {PATCH}"
    assert in_a_process(f"{read}; {CORES}", LIMIT=str(tmp_path / "cpu.max")) == "2\n"


# the file's place cannot be chosen; the reading itself is joblib's
PATCH = (
    "exists, opened = os.path.exists, builtins.open; place = '/sys/fs/cgroup/cpu.max'; "
    "os.path.exists = lambda path: path == place or exists(path); "
    "builtins.open = lambda path, *args, **more: opened(os.environ['LIMIT'] if path == place else path, *args, **more)"
)


def test_a_number_that_is_set_for_all_of_pythons_pools_holds_here() -> None:
    assert in_a_process(CORES, LOKY_MAX_CPU_COUNT="1") == "1\n"
    assert 1 <= capacity.cores() <= (os.cpu_count() or 1)


# --- home ---------------------------------------------------------------------------------------------------------

PATHS = ["output_dir", "hyperopt.results_dir", "data.cache_dir", "data.train_file", "model.model_name"]


@pytest.mark.parametrize("key", PATHS)
def test_a_home_that_is_not_there_is_a_fault_of_its_key(key: str, compose: Any) -> None:
    files_too = ["data=files"] if key == "data.train_file" else []
    with pytest.raises(ConfigError) as error:
        check(compose(*files_too, f"{key}='~no_such_user/here'", *([] if key == "output_dir" else ["output_dir=."])))
    text = str(error.value)
    assert f"{key}: ~no_such_user/here: this machine knows no home folder for ~no_such_user" in text
    assert "fix: export HOME=FOLDER, or a path without ~" in text


def test_a_user_that_the_machine_does_not_know_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's that was started with --user 12345."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ConfigError) as error:
        check({"output_dir": "/tmp/x"})
    assert [fault.key for fault in error.value.faults] == ["data.cache_dir"]
    assert "~/.cache/mistral_ner: this machine knows no home folder for ~" in str(error.value)
    assert check({"output_dir": "/tmp/x", "data": {"cache_dir": "/tmp/c"}}).data.cache_dir == "/tmp/c"  # the fix helps
    monkeypatch.setenv("HOME", "/tmp/h")
    assert check({"output_dir": "/tmp/x"}).data.cache_dir == "/tmp/h/.cache/mistral_ner"


def test_a_known_home_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expand("~/x") == tmp_path / "x"
    assert files.expand("a/~b") == Path("a/~b")
    with pytest.raises(UserError, match="~nobody_here/x: this machine knows no home folder for ~nobody_here; fix: "):
        files.expand("~nobody_here/x")


# --- Python -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flag", "refused"), [("-OO", True), ("-O", False)])
def test_a_python_without_docstrings_is_refused(flag: str, refused: bool, tmp_path: Path) -> None:
    code = (
        "from mistral_ner.config.check import check; from mistral_ner.training.inputs.check import check_inputs; "
        f"check_inputs(check({{'output_dir': '/tmp/x', 'data': {{'cache_dir': {str(tmp_path)!r}}}}}))"
    )
    said = in_a_process(code, flag)
    assert ("fix: unset PYTHONOPTIMIZE" in said) == refused, said


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (f"hyperopt.study_name={'n' * 300}", "hyperopt.study_name"),
        ("data.cache_dir=''", "data.cache_dir"),
        ("model.lora_layers=some", "model.lora_layers"),
    ],
)
def test_a_fault_of_the_config_is_not_said_again_of_the_space(override: str, key: str, compose: Any) -> None:
    with pytest.raises(ConfigError) as error:
        Plan.of(compose("hyperopt=random", "output_dir=.", override))
    assert [fault.key for fault in error.value.faults] == [key]


# --- a disk that takes the results, and no more -------------------------------------------------------------------


@pytest.fixture
def searched(tmp_path: Path) -> Iterator[Study]:
    """A search after its only trial."""
    space = {"lora_r": {"type": "choice", "choices": [4, 8]}}
    place = {"results_dir": str(tmp_path), "study_name": "s", "strategy": "optuna", "num_trials": 1}
    plan = Plan.of({"output_dir": ".", "training": {"reports": 1}, "search_space": space, "hyperopt": place})
    with lead_study(plan) as study:
        asked = study.ask()
        study.report(asked.number, 1, {"eval_f1": 0.5})
        study.end(asked.number)
        yield study


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_an_output_without_room_costs_no_result(
    searched: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in ``python launch.py … > log`` on a full disk, with the results on another."""
    with Path("/dev/full").open("w", buffering=1) as full, caplog.at_level(logging.WARNING):
        monkeypatch.setattr(sys, "stdout", full)
        assert finish(searched).best_value == 0.5
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert "the summary cannot be shown (No space left on device); it is in " in caplog.text
    assert (searched.plan.folder / "report.html").is_file()


def test_an_output_whose_reader_went_away_costs_no_result(searched: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``python launch.py … | head``."""
    read, write = os.pipe()
    os.close(read)
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "w", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert finish(searched).best_value == 0.5
        monkeypatch.undo()
    assert (searched.plan.folder / "summary.json").is_file()


def test_a_log_line_without_room_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(Path("/dev/full").open("w"))  # noqa: SIM115
    logger = logging.getLogger("odd")
    logger.addHandler(handler)
    with show_user_errors():
        logger.warning("a line")
    assert "Traceback" not in capfd.readouterr().err
    with show_user_errors(debug=True):
        logger.warning("a line")
    assert "Logging error" in capfd.readouterr().err
    logger.removeHandler(handler)


def test_a_report_that_cannot_be_written_is_one_line_with_the_command_that_writes_it(
    searched: Study, caplog: pytest.LogCaptureFixture
) -> None:
    """Its 400 kB are the last thing that a search writes; here a folder is in their way."""
    plan = searched.plan
    (plan.folder / "report.html").mkdir()
    with caplog.at_level(logging.WARNING):
        assert finish(searched).best_value == 0.5
    [record] = [record for record in caplog.records if "report.html" in record.getMessage()]
    assert record.exc_info is None, "no traceback"
    assert "report.html could not be written (Is a directory); fix: mend that, then python -m" in record.getMessage()
    (plan.folder / "report.html").rmdir()
    again = record.getMessage().partition("then python ")[2].split()
    done = subprocess.run([sys.executable, *again], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0, "the fix helps"
    assert (plan.folder / "report.html").is_file()


# --- a package that is not there ----------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", ["submitit_slurm", "submitit_local"])
def test_a_launcher_whose_package_is_missing_names_what_installs_it(launcher: str) -> None:
    options = "Available options in 'hydra/launcher':\n\tbasic\n\tjoblib\n\tray"
    said = explain(HydraException(f"Could not find 'hydra/launcher/{launcher}'\n\n{options}"))
    assert said.startswith(f"hydra/launcher: {launcher!r} comes with hydra-submitit-launcher, which is not installed")
    assert said.endswith("fix: pip install -e '.[slurm]'")
