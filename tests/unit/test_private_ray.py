"""The folder of a private Ray, and what a person is told if it does not start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.errors import UserError
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.cluster import connect, reaper
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.opening import lead_study, read_study


def test_the_folder_has_a_short_name_that_nobody_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/" + "long/" * 20)
    one, other = connect.make_short_folder(), connect.make_short_folder()
    assert one != other
    assert one.parent == other.parent == Path("/tmp")
    session = "/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store"
    assert len(str(one) + session) <= 107
    one.rmdir()
    other.rmdir()


def test_a_short_folder_that_is_named_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/var/tmp")
    folder = connect.make_short_folder()
    assert folder.parent == Path("/var/tmp")
    folder.rmdir()


def test_no_folder_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_LONGEST_PARENT", 1)
    with pytest.raises(UserError, match=r"at most 1 bytes for its sockets, found none in .*\n  fix: RAY_TMPDIR="):
        connect.make_short_folder()


def test_the_folder_goes_with_the_process_that_asked(tmp_path: Path) -> None:
    (folder := tmp_path / "ner-1").mkdir()
    (folder / "log").touch()
    command = [sys.executable, reaper.__file__, str(folder)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    assert not folder.exists()


@pytest.mark.parametrize("strategy", ["combined", "optuna"])
def test_a_search_whose_ray_cannot_start_leaves_no_study(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corrected command finds the name free."""
    monkeypatch.setattr(connect, "_LONGEST_PARENT", 1)
    with pytest.raises(UserError, match="a private Ray needs a folder"):
        search(config(tmp_path, strategy), lambda config, report: None)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("end", [UserError("no Ray"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_whatever_stops_a_search_that_ran_nothing_its_name_is_free(end: BaseException, tmp_path: Path) -> None:
    plan = Plan.of(config(tmp_path, "optuna"))
    with pytest.raises(type(end)), lead_study(plan):
        raise end
    assert not plan.folder.exists()
    with lead_study(plan) as study:
        study.ask()
    assert len(read_study(plan.folder).trials) == 1, "what has a trial is kept"


def config(folder: Path, strategy: str) -> dict[str, Any]:
    place = {"results_dir": str(folder), "study_name": "s", "strategy": strategy, "max_concurrent": 2}
    space = {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}}
    return {"output_dir": str(folder), "search_space": space, "hyperopt": place}
