"""Search spaces: parameters of five kinds, and their Optuna distributions.

A block such as ``{type: loguniform, low: 1e-5, high: 1e-3}`` under a parameter's name becomes a
:class:`Parameter`; its path is the config key whose last part is that name, or what ``path:`` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mistral_ner.hyperopt.spec.priors import Bell, Prior, Weights

if TYPE_CHECKING:
    from numpy.random import Generator
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial


FIRST = "first"  # the key of a space that holds the settings to try first
KINDS = ("uniform", "loguniform", "choice", "int", "logint")


_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Parameter:
    """A config path that a search changes, and the values that it may take, both ends included."""

    name: str
    path: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    choices: tuple[Any, ...] = ()
    when: tuple[tuple[str, Any], ...] = ()  # the values of other parameters for which this one is in play
    within: tuple[tuple[str, str], ...] = ()  # ends (low, high) that are another parameter's value in each trial
    prior: Prior | None = None

    def suggest(self, trial: BaseTrial) -> Any:
        """Ask an Optuna trial for a value; choices that are not scalars are stored as JSON text."""
        if self.kind == "choice":
            return self.decode(trial.suggest_categorical(self.name, [_as_scalar(choice) for choice in self.choices]))
        if self.kind in ("int", "logint"):
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(self.name, low, high, step=step, log=self.kind == "logint")
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.kind == "loguniform")

    def decode(self, value: Any) -> Any:
        """Return the config value of a value that Optuna stores."""
        if self.kind != "choice":
            return value
        return next(choice for choice in self.choices if _same(_as_scalar(choice), value))

    def holds(self, value: Any) -> bool:
        """Whether a search could propose ``value``."""
        if self.kind == "choice":
            return any(type(choice) is type(value) and choice == value for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.kind in ("int", "logint") and not float(value).is_integer():
            return False
        return self.step is None or math.isclose(round((value - self.low) / self.step) * self.step, value - self.low)

    def values(self) -> list[Any] | None:
        """Return every value that a search could propose, None if they cannot be counted."""
        if self.kind == "choice":
            return list(self.choices)
        if self.kind in ("int", "logint"):
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step is None:
            return None
        return [
            self.low + number * self.step for number in range(math.floor((self.high - self.low) / self.step + 1e-9) + 1)
        ]

    def draw(self, rng: Generator) -> Any:
        """Return a random value, of a log kind evenly over the orders of magnitude."""
        return self.at(float(rng.random()))

    def at(self, place: float) -> Any:
        """Return the value at a place from 0 to 1; values that can be counted share that range evenly."""
        if (values := self._steps()) is not None:
            return values[min(int(place * len(values)), len(values) - 1)]
        if not self.kind.startswith("log"):
            return self.low + place * (self.high - self.low)
        value = min(max(self.low * (self.high / self.low) ** place, self.low), self.high)
        return round(value) if self.kind == "logint" else value

    def place(self, value: Any) -> float:
        """Return the place of a value, which :meth:`at` turns into that value again."""
        if (values := self._steps()) is not None:
            if self.kind == "choice":
                return (values.index(value) + 0.5) / len(values)
            return float(((value - self.low) / (self.step or 1) + 0.5) / len(values))
        if self.kind.startswith("log"):
            return math.log(value / self.low) / math.log(self.high / self.low)
        return float((value - self.low) / (self.high - self.low))

    def _steps(self) -> list[Any] | None:
        return self.values() if self.kind in ("choice", "int") or self.step is not None else None

    @property
    def belief(self) -> Bell | Weights | None:
        """The prior over places from 0 to 1."""
        if self.prior is None:
            return None
        if self.kind == "choice":
            return self.prior.weigh(self.choices)
        span = math.log(self.high / self.low) if self.kind.startswith("log") else self.high - self.low
        width = math.log(self.prior.width) if self.kind.startswith("log") else self.prior.width
        return Bell(self.place(self.prior.center), width / span)

    def distribution(self) -> BaseDistribution:
        """Return the values as an Optuna distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution([_as_scalar(choice) for choice in self.choices])
        if self.kind in ("int", "logint"):
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.kind == "logint", step=step)
        return FloatDistribution(self.low, self.high, log=self.kind == "loguniform", step=self.step)

    def to_block(self) -> dict[str, Any]:
        """Return the parameter as its YAML block."""
        block: dict[str, Any] = {"type": self.kind, "path": self.path}
        if self.kind == "choice":
            block["choices"] = list(self.choices)
        else:
            whole = self.kind in ("int", "logint")
            block |= {end: int(value) if whole else value for end, value in (("low", self.low), ("high", self.high))}
            if self.step is not None:
                block["step"] = int(self.step) if whole else self.step
            block |= dict(self.within)
        if self.prior is not None:
            block["prior"] = self.prior.to_block()
        return block | ({"when": dict(self.when)} if self.when else {})

    def extremes(self) -> list[Any]:
        """Return the values to check against the config's own limits: both ends, or every choice."""
        if self.kind == "choice":
            return list(self.choices)
        whole = self.kind in ("int", "logint")
        return [int(end) if whole else end for end in (self.low, self.high)]

    def __str__(self) -> str:
        """The values in Hydra's sweep syntax."""
        if self.kind == "choice":
            return f"choice({', '.join(str(choice) for choice in self.choices)})"
        step = f", step {self.step:g}" if self.step else ""
        low, high = ({"low": f"{self.low:g}", "high": f"{self.high:g}"} | dict(self.within)).values()
        return f"{self.kind}({low}, {high}{step})"


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a search, those that others depend on first, and settings to try first by parameter name.

    An override may have put some of these settings outside of the space (``faults.why_impossible`` says which).
    """

    parameters: tuple[Parameter, ...]
    first: tuple[Mapping[str, Any], ...] = ()

    def __iter__(self) -> Any:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Ask an Optuna trial for every parameter in play; returns config values by parameter name."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if all(name in values and values[name] == wanted for name, wanted in parameter.when):
                values[parameter.name] = parameter.suggest(trial)
        return values

    @property
    def names(self) -> list[str]:
        """The parameters' names."""
        return [parameter.name for parameter in self.parameters]

    def in_play(self, values: Mapping[str, Any]) -> list[Parameter]:
        """Return the parameters whose conditions ``values`` (by parameter name) meet."""
        return [p for p in self.parameters if all(name in values and values[name] == to for name, to in p.when)]

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the space could propose these config values by parameter name; other names are ignored."""
        return all(p.name in values and p.holds(values[p.name]) for p in self.in_play(values))

    def keeps_bounds(self, values: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
        """Whether ``values`` respect each bound that names another parameter, whose value is in ``known``."""
        bounds = [(values[p.name], end, known[other]) for p in self if p.name in values for end, other in p.within]
        return all(value >= bound if end == "low" else value <= bound for value, end, bound in bounds)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the Optuna distribution of every parameter, by name."""
        return {parameter.name: parameter.distribution() for parameter in self.parameters}

    def settings(self, most: int) -> list[dict[str, Any]] | None:
        """Return every setting by parameter name, None if there are more than ``most`` or they cannot be counted."""
        found: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            if (values := parameter.values()) is None or len(values) > most:
                return None
            name = parameter.name
            used = [parameter in self.in_play(one) for one in found]
            idle = [one for one, uses in zip(found, used, strict=True) if not uses]
            found = [{**one, name: value} for one, uses in zip(found, used, strict=True) if uses for value in values]
            found += idle
            if len(found) > most:
                return None
        return found

    def draw(self, rng: Generator, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return random settings by parameter name around those that are given."""
        found: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter in self.in_play(found):
                found[parameter.name] = given[parameter.name] if parameter.name in given else parameter.draw(rng)
        return found

    def to_block(self) -> dict[str, Any]:
        """Return the space as a ``search_space`` block that :func:`parse` reads."""
        first = {FIRST: [dict(one) for one in self.first]} if self.first else {}
        return {parameter.name: parameter.to_block() for parameter in self.parameters} | first

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return config values by parameter name for the parameters that Optuna stored."""
        return {p.name: p.decode(params[p.name]) for p in self.parameters if p.name in params}

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what Optuna stores for config values by parameter name."""
        kinds = {p.name: p.kind for p in self.parameters}
        return {name: _as_scalar(value) if kinds[name] == "choice" else value for name, value in values.items()}

    def by_path(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return config values by config path for values by parameter name."""
        return {p.path: values[p.name] for p in self.parameters if p.name in values}

    def describe(self) -> dict[str, str]:
        """Return the parameters as text by name, to compare two spaces."""
        texts = {p.name: f"{p.path} {p}" + (f" when {dict(p.when)}" if p.when else "") for p in self.parameters}
        return {p.name: texts[p.name] + (f" prior {p.prior.to_block()}" if p.prior else "") for p in self.parameters}


def _as_scalar(choice: Any) -> Any:
    return choice if isinstance(choice, _SCALARS) else json.dumps(choice, sort_keys=True)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def at_extremes(space: SearchSpace) -> list[dict[str, Any]]:
    """Return config values by path: each extreme of each parameter, one at a time."""
    return [{parameter.path: value} for parameter in space for value in parameter.extremes()]
