"""Checks values against a schema of dataclasses and collects every fault: its rule, the value and what to type instead.

A schema is a dataclass whose fields carry their rule (:func:`setting`); :func:`build` fills it from plain dicts. The
keys of this project are in schema.py.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from mistral_ner.errors import Fault, nearest


def setting(default: Any = dataclasses.MISSING, **rule: Any) -> Any:
    """Return a field with a rule: ``low``, ``high`` (allowed themselves), ``above``, ``below`` (not), ``choices``.

    ``words`` are allowed beside numbers.
    """
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=rule)
    return field(default=default, metadata=rule)


def build(schema: Any, values: Any, prefix: str, faults: list[Fault]) -> Any:
    """Return ``schema`` filled from ``values``, or None if a key without a default is missing.

    Faults are appended to ``faults`` by their dotted key, which begins with ``prefix``. A broken value is replaced by
    the default, so that later checks can run.
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
    words = item.metadata.get("words", ())
    if hint is Any or (value is None and type(None) in options) or value in words:
        return value
    kind = next(option for option in options if option is not type(None))
    fix = "" if item.default is dataclasses.MISSING else f"{key}={'null' if item.default is None else item.default}"
    converted = _convert(kind, value)
    if converted is None:
        wanted = " or ".join([_NAMES[typing.get_origin(kind) or kind], *words])
        faults.append(Fault(key, f"must be {wanted}, found {value!r}", fix))
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
    """Return ``value`` as ``kind`` if nothing is lost (``1e-5`` as YAML text, ``4`` for a float), else None."""
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
