"""The contract of a search on each storage: a journal file, SQLite, PostgreSQL; and many workers on one journal."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from arithmetic import REPORTS, arithmetic, config, states
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.errors import UserError
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.results.summary import Summary
from mistral_ner.hyperopt.study.opening import read_study
from tests import warm

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
PASSWORD = "geheim-42"
pytestmark = pytest.mark.usefixtures("ray_for_all")


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres, None where they are not installed."""
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *map(Path, os.get_exec_path())]
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL server of our own on loopback, with a password; yields its URL."""
    programs = postgres_programs()
    if programs is None:
        message = "PostgreSQL is not installed: apt-get install postgresql"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    (folder / "password").write_text(PASSWORD)
    run: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": (folder / "log").open("w")}
    if os.geteuid() == 0:  # it refuses to run as root
        run |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, "nobody", "nogroup")
    data, port = folder / "data", free_port()
    initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--no-sync"]
    made = subprocess.run([*initdb, f"--pwfile={folder}/password"], check=False, timeout=60, **run)
    assert made.returncode == 0, (folder / "log").read_text()
    options = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off"]
    process = subprocess.Popen([programs / "postgres", *options], **run)
    try:
        deadline = time.monotonic() + 30
        while not answers(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # its fast shutdown
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "postgresql":
        return str(request.getfixturevalue("server"))
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else None


def made(
    folder: Path, strategy: str, url: str | None, breaks: str = "", seconds: float = 0.0, **hyperopt: Any
) -> Summary:
    # PostgreSQL's studies share one database
    name = f"s-{folder.name}"
    return search(
        config(folder, strategy, **{"storage_url": url, "study_name": name, **hyperopt}),
        arithmetic(seconds=seconds, breaks=breaks),
    )


def trials_of(folder: Path, url: str | None) -> list[FrozenTrial]:
    """The trials as another process sees them, which has to be told the password again."""
    import optuna

    from mistral_ner.hyperopt.study.storage import open_storage

    name = f"s-{folder.name}"
    return optuna.load_study(study_name=name, storage=open_storage(folder / name, url)).trials


def assert_whole(folder: Path, trials: list[FrozenTrial], count: int) -> None:
    """Every trial once, ended, with each of its reports run once."""
    assert [trial.number for trial in trials] == list(range(count))
    for trial in trials:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        place = folder / f"s-{folder.name}" / f"trial_{trial.number:04d}"
        calls = [int(line) for line in (place / "calls.txt").read_text().split()]
        assert calls == sorted(trial.intermediate_values) == list(range(1, len(calls) + 1))
        assert (trial.state == TrialState.COMPLETE) == (len(calls) == REPORTS)


@pytest.mark.parametrize("strategy", ["combined", "optuna"])
def test_a_whole_search_extended(tmp_path: Path, url: str | None, strategy: str) -> None:
    summary = made(tmp_path, strategy, url, num_trials=8)
    assert_whole(tmp_path, trials_of(tmp_path, url), 8)
    best = max((t for t in trials_of(tmp_path, url) if t.value is not None), key=lambda t: (t.value, -t.number))
    assert (summary.best_value, summary.best_trial) == (best.value, best.number)
    with pytest.raises(UserError, match=r"exists already in .*fix: another name"):
        made(tmp_path, strategy, url, num_trials=8)
    made(tmp_path, strategy, url, num_trials=12, resume=True)
    assert_whole(tmp_path, trials_of(tmp_path, url), 12)


@pytest.mark.parametrize("strategy", ["combined", "random"])
def test_cut_off_by_a_budget_and_resumed(tmp_path: Path, url: str | None, strategy: str) -> None:
    made(tmp_path, strategy, url, num_trials=6, target=1.005)
    before = trials_of(tmp_path, url)
    assert any(trial.state == TrialState.RUNNING for trial in before)
    made(tmp_path, strategy, url, num_trials=6, resume=True)
    assert_whole(tmp_path, trials_of(tmp_path, url), 6)


def test_broken_trials_are_named(tmp_path: Path, url: str | None) -> None:
    reasons = {2e-2: "is not finite", 5e-2: "ValueError: too high a rate"}
    enqueue = [{"learning_rate": rate, "lora_r": 4} for rate in reasons]
    summary = made(tmp_path, "random", url, breaks="both ways", max_failure_rate=1.0, enqueue=enqueue)
    failed = [trial for trial in trials_of(tmp_path, url) if trial.state == TrialState.FAIL]
    assert {trial.params["learning_rate"] for trial in failed} >= set(reasons)
    for trial in failed:
        assert reasons[2e-2 if trial.params["learning_rate"] < 3e-2 else 5e-2] in trial.user_attrs["reason"]
    assert summary.n_failed == len(failed)
    assert states(trials_of(tmp_path, url))["FAIL"] == sum(summary.failures.values())


def test_driver_killed_and_resumed(tmp_path: Path, url: str | None) -> None:
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_storages import made; "
        "made(Path(sys.argv[2]), 'random', json.loads(sys.argv[3]), seconds=0.05, num_trials=6)"
    )
    here = str(Path(__file__).parent)
    process = warm.Process(["-c", script, here, str(tmp_path), json.dumps(url)], ROOT, ENVIRONMENT)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob("s-*/trial_0001/calls.txt")):
        assert process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert len(trials_of(tmp_path, url)) < 6
    made(tmp_path, "random", url, num_trials=6, resume=True)
    trials = trials_of(tmp_path, url)
    assert [trial.number for trial in trials] == list(range(6))
    assert states(trials) == {"COMPLETE": 6}
    for trial in trials:  # the one report that was under way may have been run, but not finished
        calls = (tmp_path / f"s-{tmp_path.name}" / f"trial_{trial.number:04d}" / "calls.txt").read_text().split()
        assert sorted(set(map(int, calls))) == list(range(1, REPORTS + 1))
        assert len(calls) <= REPORTS + 1


def test_password_is_in_no_file_and_no_message(tmp_path: Path, server: str, capfd: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "random", server, num_trials=2)
    with pytest.raises(UserError) as refused:
        made(tmp_path, "random", server, num_trials=2)
    with pytest.raises(UserError) as unknown:
        made(
            tmp_path, "random", server.replace("/postgres", "/nowhere").replace("//nowhere", "//postgres"), resume=True
        )
    said = str(refused.value) + str(unknown.value) + "".join(capfd.readouterr())
    assert "postgresql://postgres:***@127.0.0.1" in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    assert any("runtime_env" in path.name for path in logs.iterdir())
    files += [path for path in logs.rglob("*") if path.is_file()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    assert PASSWORD not in said
    # a study whose password is not saved can be looked at once it is given again
    with pytest.raises(UserError, match=r"the password of .*\*\*\*.* is not saved; fix: give hyperopt.storage_url"):
        read_study(tmp_path / f"s-{tmp_path.name}")


def test_sqlite_in_parallel_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = f"sqlite:///{tmp_path}/study.db"
    with caplog.at_level(logging.WARNING):
        made(tmp_path, "random", database, num_trials=1, max_concurrent=1)
        assert "SQLite" not in caplog.text
        made(tmp_path, "random", database, num_trials=1, max_concurrent=2, study_name="t")
    assert "SQLite locks when several trials write; hyperopt.storage_url=null is made for it" in caplog.text


def test_database_that_does_not_answer(tmp_path: Path) -> None:
    dead = f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/x"
    with pytest.raises(UserError, match=r"must be a storage that Optuna can open, but: .*start the database") as error:
        made(tmp_path, "random", dead)
    assert PASSWORD not in str(error.value)
    assert not list(tmp_path.glob("s-*/trial_*"))


def test_driver_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs its database's driver, which is not installed; fix: pip install"):
        made(tmp_path, "random", f"mysql+pymysql://me:{PASSWORD}@127.0.0.1/x")


def test_eight_workers_500_trials_and_a_second_leader(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_storages import made; "
        "made(Path(sys.argv[2]), 'asha', None, num_trials=500, max_concurrent=8)"
    )
    leader = warm.Process(["-c", script, str(Path(__file__).parent), str(tmp_path)], ROOT, ENVIRONMENT)
    refused = 0
    while leader.poll() is None:
        if list(tmp_path.glob("s-*/trial_0010")):
            try:
                made(tmp_path, "asha", None, num_trials=500, max_concurrent=8, resume=True)
                assert leader.poll() is not None, "two processes led one study"
            except UserError as error:
                assert "is led by another process" in str(error)  # noqa: PT017
                refused += 1
        time.sleep(1)
    assert leader.returncode == 0
    assert refused >= 3
    trials = trials_of(tmp_path, None)
    assert_whole(tmp_path, trials, 500)
    folder = tmp_path / f"s-{tmp_path.name}"
    assert len(list(folder.glob("trial_*"))) == 500
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n_complete"] + summary["n_pruned"] == summary["n_trials"] == 500
    assert summary["reports_run"] == sum(len(trial.intermediate_values) for trial in trials)
