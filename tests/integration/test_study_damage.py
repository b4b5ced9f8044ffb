"""What a study's folder says after any kind of damage: it is named, and repaired or refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from arithmetic import run, states
from damage import empty, garble, truncate
from optuna.trial import TrialState

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.study.opening import read_study

Damage = Callable[[Path], None]


def cut_the_tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def garble_the_tail(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:5] + b"\x00\xff" + lines[-1][7:])


def add_half_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"op_code": 6, "trial')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of which one trial is complete and one was cut off after its third report."""
    # the second setting reaches the target with its third report
    poor, good = ({"learning_rate": rate, "lora_r": 4} for rate in (1e-2, 1e-3))
    search = {"num_trials": 4, "max_concurrent": 1, "enqueue_default": False, "enqueue": [poor, good]}
    run(tmp_path, "random", **search, target=1.025)
    assert [trial.state for trial in read_study(tmp_path / "s").trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    return tmp_path / "s"


def resumed(folder: Path) -> None:
    """Going on ends with every trial complete and every report made once."""
    run(folder.parent, "random", num_trials=4, max_concurrent=1, resume=True)
    trials = read_study(folder).trials
    assert states(trials) == {"COMPLETE": 4}
    for trial in trials:
        calls = (folder / f"trial_{trial.number:04d}/calls.txt").read_text().split()
        assert calls == [str(report) for report in range(1, 10)]
        assert sorted(trial.intermediate_values) == list(range(1, 10))


@pytest.mark.parametrize("damage", [cut_the_tail, garble_the_tail, add_half_a_line])
def test_the_end_of_the_journal(folder: Path, damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    journal = folder / "study.journal"
    damage(journal)
    damaged = journal.read_bytes()
    with caplog.at_level(logging.WARNING):
        resumed(folder)
    assert "study.journal: its last line was cut off by a crash and is dropped" in caplog.text
    assert (folder / "study.journal.damaged").read_bytes() == damaged
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@pytest.mark.parametrize("damage", [empty, garble])
def test_the_rest_of_the_journal(folder: Path, damage: Damage) -> None:
    damage(folder / "study.journal")
    before = (folder / "study.journal").read_bytes()
    with pytest.raises(
        UserError, match=r"study.journal .*(line 1 of \d+ is damaged|holds no readable study).*fix: restore"
    ):
        resumed(folder)
    assert (folder / "study.journal").read_bytes() == before


@pytest.mark.parametrize("damage", [truncate, empty, garble])
def test_the_config_of_the_study(folder: Path, damage: Damage) -> None:
    config = folder / "config.yaml"
    damage(config)
    before = config.read_bytes()
    for use in (resumed, read_study):
        with pytest.raises(UserError, match=r"s/config.yaml is damaged; fix: restore it from a copy"):
            use(folder)
    assert config.read_bytes() == before


@pytest.mark.parametrize("damage", [truncate, empty, garble])
def test_the_config_of_a_trial(folder: Path, damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    config = folder / "trial_0001/config.yaml"
    whole = yaml.safe_load(config.read_text())
    damage(config)
    with caplog.at_level(logging.WARNING):
        resumed(folder)
    assert "trial_0001/config.yaml is damaged; written again from the study" in caplog.text
    again = yaml.safe_load(config.read_text())
    assert {key: again[key] for key in ("model", "data", "training", "seed")} == {
        key: whole[key] for key in ("model", "data", "training", "seed")
    }
