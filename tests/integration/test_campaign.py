"""A short part of the fault campaign of bench/campaign.py: searches are killed and resumed until they end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests import warm

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from campaign import ENVIRONMENT, LIFE, Case, campaign

MEDIAN = {"optuna_pruner": "median", "optuna_n_startup_trials": 3}
SHORT = [
    Case(
        *("combined", "combined", {"max_concurrent": 2}),
        {"driver in a write": 1, "everything": 1, "worker": 3, "worker in a write": 1},
    ),
    Case(
        *("optuna in Ray", "optuna", {"max_concurrent": 2, **MEDIAN}),
        {"driver": 1, "worker": 2, "worker in a write": 2},
    ),
    Case(
        *("optuna", "optuna", {"max_concurrent": 1, **MEDIAN}),
        {"driver": 1, "driver in a write": 4, "results": 1},
    ),
]


def start(told: str, log: Path) -> Any:
    """Fork the process that leads the search; the workers that it starts are new processes."""
    with log.open("ab") as file:
        return warm.Process([str(LIFE), told], Path.cwd(), ENVIRONMENT, start_new_session=True, stdout=file)


@pytest.mark.usefixtures("new_workers")  # what is killed is found in the process tree of the search
@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
def test_nothing_is_lost_and_nothing_is_done_twice(case: Case) -> None:
    figures = campaign(case, seed=1, trials=10, start=start)
    # some come too late: how far a search is at a moment depends on the machine
    assert sum(figures.kills.values()) >= sum(case.kills.values()) / 2
