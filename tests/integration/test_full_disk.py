"""A disk that runs full in the middle of a search: it ends with one message, and goes on once there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arithmetic import STRATEGIES, arithmetic, config, states
from optuna.trial import TrialState

from mistral_ner.errors import UserError
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.study.opening import read_study

pytestmark = pytest.mark.usefixtures("ray_for_all")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"NOT TESTED: nothing may be mounted here ({mount.stderr.strip()}), so no disk can be filled")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def filling(base: Any) -> Callable[..., None]:
    """An objective that fills the disk before the third report of trial 2, and is like ``base`` otherwise."""

    def objective(trial: Any, report: Any) -> None:
        import contextlib as contextlib_
        from pathlib import Path as Path_

        folder = Path_(trial.output_dir)

        def reported(number: int, metrics: dict[str, float]) -> bool | None:
            stopped: bool | None = report(number, metrics)
            if folder.name == "trial_0002" and number == 2 and not (folder.parent / "emptied").exists():
                with contextlib_.suppress(OSError), (folder.parents[1] / "filler").open("wb", buffering=0) as filler:
                    for size in (4096, 1):
                        with contextlib_.suppress(OSError):
                            while filler.write(b"x" * size):
                                pass
            return stopped

        base(trial, reported)

    return objective


def no_room(base: Any) -> Callable[..., None]:
    """An objective whose third report in trial 2 finds no room (what /dev/full says is the kernel's own error)."""

    def objective(trial: Any, report: Any) -> None:
        from pathlib import Path as Path_

        folder = Path_(trial.output_dir)

        def reported(number: int, metrics: dict[str, float]) -> bool | None:
            if folder.name == "trial_0002" and number == 3 and not (folder.parent / "emptied").exists():
                Path_("/dev/full").write_text("x")
            stopped: bool | None = report(number, metrics)
            return stopped

        base(trial, reported)

    return objective


def assert_ends_and_goes_on(folder: Path, strategy: str, objective: Any) -> None:
    asked = config(
        folder, strategy, num_trials=5, enqueue=[{"learning_rate": 2e-3, "lora_r": 4}] * 2, asha_grace_period=9
    )
    with pytest.raises(UserError) as raised:
        search(asked, objective)
    message = str(raised.value)
    assert f"cannot write in {folder}/s" in message
    assert "(No space left on device)\n  fix: make room, then " in message
    (folder / "filler").unlink(missing_ok=True)
    trials = read_study(folder / "s").trials
    assert states(trials)["FAIL"] == 0, "a full disk is no fault of a trial"
    assert trials[2].state == TrialState.RUNNING
    (folder / "s/emptied").touch()
    asked["hyperopt"]["resume"] = True
    search(asked, objective)
    trials = read_study(folder / "s").trials
    assert [trial.number for trial in trials] == list(range(5))
    assert states(trials) == {"COMPLETE": 5}
    for trial in trials:
        assert "failures" not in trial.user_attrs
        assert len(trial.intermediate_values) == 9


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_trial_finds_no_room(tmp_path: Path, strategy: str) -> None:
    assert_ends_and_goes_on(tmp_path, strategy, no_room(arithmetic(seconds=0.05)))


@pytest.mark.parametrize("strategy", ["combined", "random"])
def test_the_disk_is_full(small_disk: Path, strategy: str) -> None:
    """For the trials, for the study and for Ray's own notes alike."""
    assert_ends_and_goes_on(small_disk, strategy, filling(arithmetic(seconds=0.05)))
