"""Locks where the file system has none: Lustre without flock, NFS without its lock daemon. The kernel is faked."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout

from mistral_ner import locks
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.opening import lead_study, read_study
from mistral_ner.train import fit

ROOT = Path(__file__).parents[2]
ERRORS = ["ENOSYS", "ENOLCK", "EOPNOTSUPP"]
HOLD = """if True:
    import errno, fcntl, os, sys
    def refuse(*_): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock = refuse
    from pathlib import Path
    from mistral_ner import locks
    with locks.hold(Path(sys.argv[1]), 0):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(params=ERRORS)
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(errno, request.param)

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    locks._say_once.cache_clear()


def test_a_lock_is_held_all_the_same(no_locks: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with locks.hold(tmp_path / "lock", 0), locks.hold(tmp_path / "lock", 0):
                assert (tmp_path / "lock.soft").exists()
            with locks.hold_for_a_write(tmp_path / "journal.flock"):
                assert (tmp_path / "journal.flock.soft").exists()
    assert not list(tmp_path.glob("*.soft"))
    with locks.hold(tmp_path / "other", 0, keep=False):
        assert (tmp_path / "other.soft").exists()
    assert not list(tmp_path.glob("other*"))
    assert len(caplog.records) == 1, "it is said once"
    assert "no file locks on this file system (" in caplog.text


def test_a_training_and_a_study_need_no_locks(no_locks: None, tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["training"] |= {"num_epochs": 1, "reports": 1}
    assert fit(tiny) >= 0
    place = {"results_dir": str(tmp_path), "study_name": "s", "strategy": "optuna", "max_concurrent": 1}
    space = {"lora_r": {"type": "choice", "choices": [2, 4]}}
    plan = Plan.of({"output_dir": ".", "search_space": space, "hyperopt": place})
    with lead_study(plan) as study:
        study.ask()
    assert len(read_study(plan.folder).trials) == 1


def test_another_process_waits_until_the_holder_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_locks: None
) -> None:
    lock = tmp_path / "lock"
    command, environment = [sys.executable, "-c", HOLD, str(lock)], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Timeout), locks.hold(lock, 0):
            pass
        holder.send_signal(signal.SIGKILL)  # it cannot remove its lock file
        holder.wait()
    with locks.hold(lock, 30):
        pass


def test_another_error_of_a_lock_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(IsADirectoryError), locks.hold(tmp_path / "lock", 0):
        pass
