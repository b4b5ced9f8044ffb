"""Values against a schema of dataclasses: every fault found, each with its rule, the value and what to type instead.

A schema is a dataclass whose fields carry their rule (:func:`setting`); :func:`build` fills it from plain dicts. What
the keys of this project are, config.py says.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a config: where, which rule, and what to type instead."""

    key: str
    rule: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.rule}" + (f"\n      fix: {self.fix}" if self.fix else "")


class UserError(Exception):
    """Something the person who started the run can mend; shown without a traceback."""


class ConfigError(UserError):
    """All the faults of a config."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        head = "1 fault in the config:" if count == 1 else f"{count} faults in the config:"
        super().__init__("\n".join([head, *(f"  {n}. {fault}" for n, fault in enumerate(self.faults, 1))]))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to ``word``, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def setting(default: Any = dataclasses.MISSING, **rule: Any) -> Any:
    """A field with a rule: ``low``, ``high`` (both allowed), ``above``, ``below`` (not allowed), ``choices``."""
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=rule)
    return field(default=default, metadata=rule)


def build(schema: Any, values: Any, prefix: str, faults: list[Fault]) -> Any:
    """Return ``schema`` filled from ``values``, or None where a key without a default is missing.

    Faults are appended to ``faults`` by their dotted key, which begins with ``prefix``; the default stands in for a
    broken value, so that the checks that come after can run.
    """
    if not isinstance(values, dict):
        key = prefix.rstrip(".") or "config"
        faults.append(Fault(key, f"must be a group of keys, found {values!r}", f"write {key}: {{KEY: VALUE}}"))
        values = {}
    hints = _hints(schema)
    fields = {item.name: item for item in dataclasses.fields(schema)}
    for key in values:
        if key not in fields:
            faults.append(Fault(f"{prefix}{key}", f"unknown key{nearest(str(key), fields)}", f"~{prefix}{key}"))
    kwargs: dict[str, Any] = {}
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if name not in values:
            if required:
                faults.append(Fault(prefix + name, "must be set", f"{prefix}{name}=VALUE"))
        elif dataclasses.is_dataclass(hints[name]):
            kwargs[name] = build(hints[name], values[name], f"{prefix}{name}.", faults)
        else:
            value = _leaf(prefix + name, hints[name], values[name], item, faults)
            if value is not _BROKEN:
                kwargs[name] = value
    missing_required = any(
        item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING and name not in kwargs
        for name, item in fields.items()
    )
    return None if missing_required else schema(**kwargs)


_hints = functools.cache(typing.get_type_hints)


def _leaf(key: str, hint: Any, value: Any, item: Any, faults: list[Fault]) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if hint is Any or (value is None and type(None) in options):
        return value
    kind = next(option for option in options if option is not type(None))
    fix = "" if item.default is dataclasses.MISSING else f"{key}={'null' if item.default is None else item.default}"
    converted = _convert(kind, value)
    if converted is None:
        faults.append(Fault(key, f"must be {_NAMES[typing.get_origin(kind) or kind]}, found {value!r}", fix))
        return _BROKEN
    if rule := _broken_rule(item.metadata, converted):
        faults.append(Fault(key, f"{rule}, found {value!r}", fix))
        return _BROKEN
    return converted


_BROKEN: Any = object()

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a group of keys",
}


def _convert(kind: Any, value: Any) -> Any:
    """Return ``value`` as ``kind`` where nothing is lost (``1e-5`` as YAML text, ``4`` for a float), else None."""
    if kind in (int, float) and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind is float:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    if kind is int:
        return int(value) if isinstance(value, int | float) and float(value).is_integer() else None
    if kind is str:
        return str(value) if isinstance(value, str | int | float) else None
    return value if isinstance(value, typing.get_origin(kind) or kind) else None


def _broken_rule(rule: Mapping[str, Any], value: Any) -> str:
    if "choices" in rule and value not in rule["choices"]:
        return f"must be one of {', '.join(rule['choices'])}{nearest(str(value), rule['choices'])}"
    if "low" in rule and value < rule["low"]:
        return f"must be at least {rule['low']}"
    if "above" in rule and value <= rule["above"]:
        return f"must be greater than {rule['above']}"
    if "high" in rule and value > rule["high"]:
        return f"must be at most {rule['high']}"
    if "below" in rule and value >= rule["below"]:
        return f"must be less than {rule['below']}"
    return ""
