"""Search spaces: the five kinds, from YAML and from Hydra's sweep syntax, to Optuna distributions.

A block such as ``{type: loguniform, low: 1e-5, high: 1e-3}`` under a parameter's name becomes a
:class:`Parameter`; its path is the config key whose last part is that name, or what ``path:`` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mistral_ner.config import Fault, is_whole, known_keys, nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

KINDS = ("uniform", "loguniform", "choice", "int", "logint")
_SEARCHABLE = ("model.", "data.", "training.", "seed")  # the rest says how to search, not what to train
# trials that differ in these could not be compared
_COMPARED_BY = {
    *("training.metric", "training.mode", "training.reports", "training.stop_after"),
    *("training.threads", "training.auto_batch"),
}
_GROUPS = ("model", "data", "training", "search_space", "hyperopt", "budget", "tracking", "debug")
_FIELDS = {"type", "low", "high", "step", "choices", "path", "when"}
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Parameter:
    """One thing a search may change: a config path and the values it may take, both ends included."""

    name: str
    path: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    choices: tuple[Any, ...] = ()
    when: tuple[tuple[str, Any], ...] = ()  # other parameters and the values that bring this one into play

    def suggest(self, trial: BaseTrial) -> Any:
        """Ask an Optuna trial for a value; choices that are no scalars are stored as JSON text."""
        if self.kind == "choice":
            return self.decode(trial.suggest_categorical(self.name, [_as_scalar(choice) for choice in self.choices]))
        if self.kind in ("int", "logint"):
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(self.name, low, high, step=step, log=self.kind == "logint")
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.kind == "loguniform")

    def decode(self, value: Any) -> Any:
        """Return the config value for what Optuna stores."""
        if self.kind != "choice":
            return value
        return next(choice for choice in self.choices if _same(_as_scalar(choice), value))

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one that a search could propose."""
        if self.kind == "choice":
            return any(type(choice) is type(value) and choice == value for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.kind in ("int", "logint") and not float(value).is_integer():
            return False
        return self.step is None or math.isclose(round((value - self.low) / self.step) * self.step, value - self.low)

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
        return block | ({"when": dict(self.when)} if self.when else {})

    def extremes(self) -> list[Any]:
        """Return the values at which a range of the config can be broken: both ends, or every choice."""
        if self.kind == "choice":
            return list(self.choices)
        whole = self.kind in ("int", "logint")
        return [int(end) if whole else end for end in (self.low, self.high)]

    def __str__(self) -> str:
        """The values in Hydra's own words."""
        if self.kind == "choice":
            return f"choice({', '.join(str(choice) for choice in self.choices)})"
        step = f", step {self.step:g}" if self.step else ""
        return f"{self.kind}({self.low:g}, {self.high:g}{step})"


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a search, those that others depend on first."""

    parameters: tuple[Parameter, ...]

    def __iter__(self) -> Any:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def conditional(self) -> bool:
        """Whether some parameter is in play only for some values of another."""
        return any(parameter.when for parameter in self.parameters)

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
        """Whether the space could propose these config values (by parameter name; more than it has do not matter)."""
        return all(p.name in values and p.holds(values[p.name]) for p in self.in_play(values))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the Optuna distribution of every parameter, by name."""
        return {parameter.name: parameter.distribution() for parameter in self.parameters}

    def to_block(self) -> dict[str, Any]:
        """Return the space as a ``search_space`` block that :func:`parse` reads."""
        return {parameter.name: parameter.to_block() for parameter in self.parameters}

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
        """Return the space as text by name, to tell whether two are the same."""
        return {p.name: f"{p.path} {p}" + (f" when {dict(p.when)}" if p.when else "") for p in self.parameters}


def searchable_keys() -> list[str]:
    """Return every config path that a search may change."""
    return [key for key in known_keys() if key.startswith(_SEARCHABLE) and key not in _COMPARED_BY]


def parse(block: Mapping[str, Any], arguments: Iterable[str] = ()) -> tuple[SearchSpace, list[Fault]]:
    """Read a ``search_space`` block and the command line's overrides on top of it.

    An override in Hydra's sweep syntax adds a parameter or takes the place of the one with its path; a plain value
    for a searched path pins it, which takes the parameter out of the space.
    """
    faults: list[Fault] = []
    inner = block.get("search_space")
    if len(block) == 1 and isinstance(inner, Mapping) and "type" not in inner:
        block = inner  # a file that was pasted with the head of its block
    parameters = [_parameter(str(name), spec, faults) for name, spec in block.items()]
    found = {parameter.name: parameter for parameter in parameters if parameter is not None}
    for override in _parsed(arguments):
        _apply(override, found, faults)
    faults += _twice(found.values()) + _unmet(found)
    return SearchSpace(tuple(sorted(found.values(), key=lambda p: len(p.when)))), faults


def _parameter(name: str, spec: Any, faults: list[Fault]) -> Parameter | None:
    key = f"search_space.{name}"
    before = len(faults)
    if not isinstance(spec, Mapping):
        faults.append(Fault(key, f"must be a group with type, low, high or choices, found {spec!r}", f"~{key}"))
        return None
    for field in spec:
        if field not in _FIELDS:
            faults.append(Fault(f"{key}.{field}", f"unknown key{nearest(str(field), _FIELDS)}", f"~{key}.{field}"))
    kind = spec.get("type")
    if kind not in KINDS:
        rule = f"must be one of {', '.join(KINDS)}{nearest(str(kind), KINDS)}, found {kind!r}"
        faults.append(Fault(f"{key}.type", rule, f"{key}.type=uniform"))
    path = _path(name, spec.get("path"), faults)
    when = spec.get("when") or {}
    if not isinstance(when, Mapping):
        faults.append(Fault(f"{key}.when", f"must be a group PARAMETER: VALUE, found {when!r}", f"~{key}.when"))
    if len(faults) > before:
        return None
    conditions = tuple((str(other), value) for other, value in when.items())
    if kind == "choice":
        return _choice(name, path, spec, conditions, faults)
    return _range(name, path, str(kind), spec, conditions, faults)


def _choice(name: str, path: str, spec: Any, when: Any, faults: list[Fault]) -> Parameter | None:
    key, choices = f"search_space.{name}.choices", spec.get("choices")
    if not isinstance(choices, list | tuple) or not choices:
        faults.append(Fault(key, f"must be a list with at least one value, found {choices!r}", f"{key}=[1,2]"))
        return None
    if len({json.dumps(choice, sort_keys=True) for choice in choices}) < len(choices):
        faults.append(Fault(key, f"holds a value twice: {list(choices)!r}", f"name each value once in {key}"))
        return None
    if "???" in choices:  # in a best_config.yaml it would stand for a value that is not given
        faults.append(Fault(key, "must not hold '???', which Hydra takes for a missing value", f"take it out of {key}"))
        return None
    return Parameter(name, path, "choice", choices=tuple(choices), when=when)


def _range(name: str, path: str, kind: str, spec: Any, when: Any, faults: list[Fault]) -> Parameter | None:
    key, before = f"search_space.{name}", len(faults)
    whole = kind in ("int", "logint")
    if is_whole(path) and not whole:
        right = "logint" if kind.startswith("log") else "int"
        faults.append(Fault(f"{key}.type", f"{path} is a whole number, found {kind}", f"{key}.type={right}"))
    ends: dict[str, float] = {}
    for end in ("low", "high", "step"):
        if end == "step" and spec.get("step") is None:
            continue
        number = _number(spec.get(end))
        if number is None or (whole and not number.is_integer()):
            wanted = "a whole number" if whole else "a number"
            faults.append(Fault(f"{key}.{end}", f"must be {wanted}, found {spec.get(end)!r}", f"{key}.{end}=1"))
        else:
            ends[end] = number
    if len(faults) > before:
        return None
    low, high, step = ends["low"], ends["high"], ends.get("step")
    if low >= high:
        faults.append(
            Fault(f"{key}.low", f"must be less than high={high:g}, found {low:g}", f"{key}.high={low * 2 or 1:g}")
        )
    if kind.startswith("log") and low <= 0:
        faults.append(Fault(f"{key}.low", f"must be greater than 0 for {kind}, found {low:g}", f"{key}.low=1e-5"))
    if step is not None and (step <= 0 or kind.startswith("log")):
        rule = f"a {kind} takes no step" if kind.startswith("log") else f"must be greater than 0, found {step:g}"
        faults.append(Fault(f"{key}.step", rule, f"~{key}.step"))
    return None if len(faults) > before else Parameter(name, path, kind, low, high, step, when=when)


def _number(value: Any) -> float | None:
    """Read a number, also one that YAML took for text (``1e-5``)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _path(name: str, given: Any, faults: list[Fault]) -> str:
    keys = searchable_keys()
    if given is not None:
        known = given in keys or str(given).startswith("model.random_init.")
        if not known:
            rule = f"no config key {given!r}{nearest(str(given), keys)}"
            faults.append(Fault(f"search_space.{name}.path", rule, f"search_space.{name}.path=training.learning_rate"))
        return str(given)
    matches = [key for key in keys if key.rpartition(".")[2] == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        rule = f"{name!r} could be {' or '.join(matches)}"
        faults.append(Fault(f"search_space.{name}", rule, f"+search_space.{name}.path={matches[0]}"))
        return ""
    hint = nearest(name, [key.rpartition(".")[2] for key in keys])
    faults.append(
        Fault(f"search_space.{name}", f"no config key is named {name!r}{hint}", f"+search_space.{name}.path=KEY")
    )
    return ""


def _parsed(arguments: Iterable[str]) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return list(OverridesParser.create().parse_overrides(list(arguments)))


def _apply(override: Any, found: dict[str, Parameter], faults: list[Fault]) -> None:
    path = override.get_key_element().lstrip("+~")
    same = next((name for name, parameter in found.items() if parameter.path == path), None)
    if not override.is_sweep_override():
        if same is not None and not override.is_delete():
            del found[same]
        return
    if path in _GROUPS:
        rule = "a whole group cannot be searched, only single keys under it"
        faults.append(Fault(path, rule, f"a search for each {path}=…; mistral_ner.hyperopt.report shows them together"))
        return
    if path not in searchable_keys() and not path.startswith("model.random_init."):
        hint = nearest(path, searchable_keys())
        faults.append(Fault(path, f"cannot be searched: no key under model, data or training{hint}", "name such a key"))
        return
    name = same or (path.rpartition(".")[2] if path.rpartition(".")[2] not in found else path)
    parameter = _from_sweep(name, path, override, faults)
    if parameter is not None:
        found[name] = parameter


def _from_sweep(name: str, path: str, override: Any, faults: list[Fault]) -> Parameter | None:
    """Read Hydra's sweep syntax: choice(…), a,b,c, interval(a,b), tag(log, …), range(a,b,step)."""
    value = override.value()
    tags = {str(tag) for tag in getattr(value, "tags", ())}
    if override.is_interval_sweep():
        whole = is_whole(path)
        kind = ("logint" if whole else "loguniform") if "log" in tags else ("int" if whole else "uniform")
        spec = {"type": kind, "low": value.start, "high": value.end, "path": path}
    else:
        from hydra.core.override_parser.types import Transformer

        spec = {"type": "choice", "choices": list(override.sweep_iterator(Transformer.identity)), "path": path}
        spec["choices"] = [_plain(choice) for choice in spec["choices"]]
    return _parameter(name, spec, faults)


def _plain(value: Any) -> Any:
    """Turn Hydra's quoted strings and other wrappers into plain values."""
    from decimal import Decimal

    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _twice(parameters: Iterable[Parameter]) -> list[Fault]:
    owner: dict[str, str] = {}
    faults = []
    for parameter in parameters:
        if parameter.path in owner:
            rule = f"{parameter.path} is searched twice, also by {owner[parameter.path]!r}"
            faults.append(Fault(f"search_space.{parameter.name}", rule, f"~search_space.{parameter.name}"))
        owner[parameter.path] = parameter.name
    return faults


def _unmet(found: dict[str, Parameter]) -> list[Fault]:
    faults = []
    for parameter in found.values():
        for other, value in parameter.when:
            key = f"search_space.{parameter.name}.when.{other}"
            if other not in found:
                faults.append(Fault(key, f"{other!r} is not searched{nearest(other, found)}", f"~{key}"))
            elif found[other].when:
                faults.append(Fault(key, f"{other!r} depends on another parameter itself", f"~{key}"))
            elif found[other].kind == "choice" and value not in found[other].choices:
                faults.append(Fault(key, f"must be one of {list(found[other].choices)}, found {value!r}", f"~{key}"))
    return faults


def _as_scalar(choice: Any) -> Any:
    return choice if isinstance(choice, _SCALARS) else json.dumps(choice, sort_keys=True)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def at_extremes(space: SearchSpace) -> list[dict[str, Any]]:
    """Return config values by path, one parameter at a time at each of its extremes."""
    return [{parameter.path: value} for parameter in space for value in parameter.extremes()]
