"""How many optimiser steps and passes over the data a training gets."""

from __future__ import annotations

import pytest

from mistral_ner.config.check import read
from mistral_ner.config.schema import TrainingConfig
from mistral_ner.errors import UserError
from mistral_ner.training.schedule import Schedule

EIGHT = {"per_device_train_batch_size": 8, "min_steps": 300}


@pytest.mark.parametrize(
    ("windows", "settings", "steps", "epochs"),
    [
        (100, {}, 1000, 40),
        (100, EIGHT, 300, 300 / 13),
        (16, EIGHT, 120, 60),  # max_epochs
        (5000, EIGHT, 1875, 3),  # min_epochs
        (100, {**EIGHT, "min_steps": 26}, 39, 3),
        (100, {**EIGHT, "gradient_accumulation_steps": 2}, 300, 300 / 7),
        (100, {**EIGHT, "num_epochs": 4.0}, 52, 4),  # what is given is obeyed
        (100, {**EIGHT, "num_epochs": 0.5, "reports": 1}, 7, 7 / 13),
    ],
)
def test_steps_and_epochs(windows: int, settings: dict[str, float], steps: int, epochs: float) -> None:
    training = TrainingConfig(**{"reports": 9, **settings})
    schedule = Schedule.of(training, windows)
    assert (schedule.steps, schedule.epochs) == (steps, pytest.approx(epochs))
    assert schedule.report_steps[-1] == steps
    assert len(schedule.report_steps) == training.reports


def test_it_says_how_long_the_training_is() -> None:
    assert str(Schedule.of(TrainingConfig(), 100)) == "1000 optimiser steps (40 epochs), 9 reports"


def test_more_reports_than_steps() -> None:
    with pytest.raises(UserError, match=r"for 60 epochs make 60; fix: training.num_epochs=100 or training.reports=60"):
        Schedule.of(TrainingConfig(reports=100, per_device_train_batch_size=8), 8)


def test_bounds_that_exclude_each_other() -> None:
    _, faults = read({"output_dir": "run", "training": {"min_epochs": 70}})
    assert [(fault.key, fault.fix) for fault in faults] == [("training.min_epochs", "training.min_epochs=60")]
    assert read({"output_dir": "run", "training": {"min_epochs": 70, "num_epochs": 2}})[1] == []
