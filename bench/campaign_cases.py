"""The searches of the fault campaign: how each runs, how often it is killed in which way, and what that cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A search to be killed: how it runs, and how often it is killed in which way."""

    name: str
    strategy: str
    hyperopt: dict[str, Any]
    kills: dict[str, int]  # kind to how often

    @property
    def trials(self) -> int:
        """How many trials it takes for the kills to find something to kill: ASHA stops most of them."""
        return 30 if self.strategy in ("combined", "asha") else 14

    @property
    def in_ray(self) -> bool:
        """Whether it has workers that can be killed."""
        return self.strategy in ("combined", "asha") or self.hyperopt["max_concurrent"] > 1


_IN_RAY = {"start": 1, "driver": 1, "driver in a write": 2, "everything": 1, "worker": 5, "worker in a write": 3}
_IN_PROCESS = {"start": 2, "driver": 6, "driver in a write": 8, "everything": 2}
_AT_THE_END = {"results": 1}
_MEDIAN = {"optuna_pruner": "median", "optuna_n_startup_trials": 3}
CASES = [
    Case("combined", "combined", {"max_concurrent": 2}, _IN_RAY | _AT_THE_END),
    Case("asha", "asha", {"max_concurrent": 2}, _IN_RAY | _AT_THE_END),
    Case("asha, promotion", "asha", {"max_concurrent": 2, "asha_type": "promotion"}, _IN_RAY | _AT_THE_END),
    Case(
        "optuna",
        "optuna",
        {"max_concurrent": 1, **_MEDIAN},
        _IN_PROCESS | _AT_THE_END,
    ),
    Case(
        "optuna in Ray",
        "optuna",
        {"max_concurrent": 2, **_MEDIAN},
        _IN_RAY | _AT_THE_END,
    ),
    Case("random", "random", {"max_concurrent": 1}, _IN_PROCESS | _AT_THE_END),
    Case("random in Ray", "random", {"max_concurrent": 2}, _IN_RAY | _AT_THE_END),
]


@dataclass
class Figures:
    """What was done to a search, and what it cost."""

    kills: dict[str, int] = field(default_factory=dict)
    lives: int = 0  # processes that led it
    trials: int = 0
    reports: int = 0
    without_ray: int = 0  # lives that ended before they began
    begun_again: int = 0  # reports that a kill cut off in the middle
    seconds: float = 0.0
