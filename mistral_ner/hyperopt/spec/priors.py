"""What is believed of a parameter's good values before a search, and how much of that its results leave.

The prior of a range is a normal distribution, cut off at both ends: its ``center``, and as ``width`` its standard
deviation on the range's own scale, which is a factor where the scale is logarithmic. That of choices is their weights.

Random draws come from the prior, but for a share of even ones, so that a wrong prior hides nothing for ever. PriorBand
(Mallik et al. 2023, https://arxiv.org/abs/2306.12370) weighs prior and results by how likely each makes the best
settings so far, and πBO (Hvarfner et al. 2022, https://arxiv.org/abs/2204.11051) lets the prior fade with the number of
trials. Here the share follows from Bayes' rule, with how likely the better and the poorer trials are under the prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

EVEN = 0.2  # of the random draws are even before there are results
_CLIP = 2.0  # log of the most that one trial can say for or against a prior
_CERTAIN = 50.0  # log of odds that need no more

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Prior:
    """A prior as it is written: ``center`` and ``width``, or the ``weights`` of choices by their text (others: 1)."""

    center: float = 0.0
    width: float = 0.0
    weights: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        """The prior in words."""
        if self.weights:
            return ", ".join(f"{name} weighs {weight:g}" for name, weight in self.weights)
        return f"around {self.center:g}, width {self.width:g}"

    def to_block(self) -> dict[str, float]:
        """Return the prior as its YAML block."""
        return dict(self.weights) if self.weights else {"center": self.center, "width": self.width}

    def weigh(self, choices: Sequence[Any]) -> Weights:
        """Return the prior of a parameter's choices."""
        weights = [dict(self.weights).get(str(choice), 1.0) for choice in choices]
        return Weights(tuple(weight / sum(weights) for weight in weights))


@dataclass(frozen=True)
class Weights:
    """The prior of choices, which share the range from 0 to 1 evenly."""

    shares: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """Return the place, 0 to 1, under which ``share`` of the draws lie."""
        for number, weight in enumerate(self.shares):
            if share < weight:
                return (number + share / weight) / len(self.shares)
            share -= weight
        return 1.0

    def log_ratio(self, place: float) -> float:
        """Return the log of how much more likely a place is than by even draws."""
        count = len(self.shares)
        share = count * self.shares[min(int(place * count), count - 1)]
        return max(-_CLIP, min(_CLIP, math.log(share)))


@dataclass(frozen=True)
class Bell:
    """The prior of a range that is mapped to the places 0 to 1: a normal distribution, cut off at both ends."""

    center: float
    width: float

    def quantile(self, share: float) -> float:
        """Return the place, 0 to 1, under which ``share`` of the draws lie."""
        low, high = self._ends
        if high - low < 1e-12:  # the range lies in a far tail
            return float(self.center > 0.5)
        inner = min(max(low + share * (high - low), 1e-12), 1 - 1e-12)
        return min(1.0, max(0.0, self.center + self.width * _NORMAL.inv_cdf(inner)))

    def log_ratio(self, place: float) -> float:
        """Return the log of how much more likely a place is than by even draws."""
        low, high = self._ends
        density = _NORMAL.pdf((place - self.center) / self.width) / self.width
        return max(-_CLIP, min(_CLIP, math.log(max(density, 1e-300) / max(high - low, 1e-12))))

    @property
    def _ends(self) -> tuple[float, float]:
        return _NORMAL.cdf(-self.center / self.width), _NORMAL.cdf((1 - self.center) / self.width)


def share_even_draws(log_ratios: Sequence[float], scores: Sequence[float]) -> float:
    """Return the share of even draws that the results so far leave.

    Each trial speaks for the prior as far as it is likely by it, weighed by its rank: from 1 for the best to -1 for the
    worst, 0 in the middle. So a prior by which all trials are as likely is neither right nor wrong.

    Args:
        log_ratios: of the settings of ended trials.
        scores: of these trials; more is better.
    """
    weights = [sum((score > other) - (score < other) for other in scores) / len(scores) for score in scores]
    evidence = sum(weight * ratio for weight, ratio in zip(weights, log_ratios, strict=True))
    odds = (1 - EVEN) / EVEN * math.exp(max(-_CERTAIN, evidence))
    return max(EVEN, 1 / (1 + odds))


def read_prior(block: Any, kind: str) -> Prior | str:
    """Read the ``prior`` of a parameter; return a broken rule in words if it is none."""
    if not isinstance(block, Mapping):
        return "must be a group with center and width, or with the weights of choices"
    numbers = {str(name): value for name, value in block.items()}
    try:
        numbers = {name: float(value) for name, value in numbers.items() if not isinstance(value, bool)}
    except (TypeError, ValueError):
        return "must hold numbers"
    if kind == "choice":
        if not numbers or not all(0 < weight < math.inf for weight in numbers.values()):
            return "must give choices weights above 0"
        return Prior(weights=tuple(numbers.items()))
    if numbers.keys() != {"center", "width"}:
        return "must hold center and width"
    least = 1.0 if kind.startswith("log") else 0.0
    if not math.isfinite(numbers["center"]) or not least < numbers["width"] < math.inf:
        return f"must have a width above {least:g}" + (" (a factor)" if least else "")
    if least and numbers["center"] <= 0:
        return f"must have a center above 0 for {kind}"
    return Prior(numbers["center"], numbers["width"])
