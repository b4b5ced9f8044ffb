"""Reads a search space: a block of YAML, changed by the command line's overrides."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mistral_ner.config.schema import is_whole, known_keys
from mistral_ner.errors import Fault, nearest
from mistral_ner.hyperopt.spec.priors import read_prior
from mistral_ner.hyperopt.spec.space import FIRST, KINDS, Parameter, SearchSpace

_SEARCHABLE = ("model.", "data.", "training.", "seed")  # other groups say how to search, not what to train


# trials with different values of these could not be compared
_COMPARED_BY = {
    *("training.metric", "training.mode", "training.reports", "training.stop_after"),
    "training.patience",
    *("training.threads", "training.processes", "training.auto_batch"),
}


_GROUPS = ("model", "data", "training", "search_space", "hyperopt", "budget", "tracking", "debug")


_FIELDS = {"type", "low", "high", "step", "choices", "path", "when", "prior"}


def searchable_keys() -> list[str]:
    """Return every config path that a search may change."""
    return [key for key in known_keys() if key.startswith(_SEARCHABLE) and key not in _COMPARED_BY]


def parse(block: Mapping[str, Any], arguments: Iterable[str] = ()) -> tuple[SearchSpace, list[Fault]]:
    """Read a ``search_space`` block, changed by the command line's overrides; return the space and its faults.

    An override in Hydra's sweep syntax adds a parameter, or replaces the one with the same path. A plain value pins its
    path: the parameter is removed from the space.
    """
    faults: list[Fault] = []
    inner = block.get("search_space")
    if len(block) == 1 and isinstance(inner, Mapping) and "type" not in inner:
        block = inner  # a file that was pasted with the line "search_space:"
    first, block = block.get(FIRST), {name: spec for name, spec in block.items() if name != FIRST}
    names = tuple(map(str, block))
    parameters = [_read_parameter(str(name), spec, faults, names) for name, spec in block.items()]
    found = {parameter.name: parameter for parameter in parameters if parameter is not None}
    for override in _parse_overrides(arguments):
        _apply(override, found, faults)
    settled = [_settle_ends(parameter, found, faults) for parameter in found.values()]
    found = {parameter.name: parameter for parameter in settled if parameter is not None}
    faults += _find_duplicates(found.values()) + _find_bad_conditions(found)
    in_order = tuple(sorted(found.values(), key=lambda p: len(p.when)))
    return SearchSpace(in_order, _read_first(first, found, faults)), faults


def _read_first(first: Any, found: Mapping[str, Parameter], faults: list[Fault]) -> tuple[dict[str, Any], ...]:
    """Read the settings to try first, as far as they name searched parameters."""
    key = f"search_space.{FIRST}"
    if not isinstance(first or [], list | tuple) or not all(isinstance(one, Mapping) for one in first or []):
        faults.append(Fault(key, f"must be a list of settings by parameter name, found {first!r}", f"{key}=[]"))
        return ()
    known = {*found, *(path.rpartition(".")[2] for path in searchable_keys())}
    for name in {str(name) for one in first or [] for name in one} - known:
        faults.append(Fault(key, f"{name!r} is no parameter{nearest(name, known)}", f"{key}=[]"))
    settings = [{name: value for name, value in one.items() if name in found} for one in first or []]
    return tuple(one for one in settings if one)


def _read_parameter(name: str, spec: Any, faults: list[Fault], names: Sequence[str] = ()) -> Parameter | None:
    """Read a parameter; its bounds may be other ``names`` of the space."""
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
    path = _find_path(name, spec.get("path"), faults)
    when = spec.get("when") or {}
    if not isinstance(when, Mapping):
        faults.append(Fault(f"{key}.when", f"must be a group PARAMETER: VALUE, found {when!r}", f"~{key}.when"))
    if len(faults) > before:
        return None
    conditions = tuple((str(other), value) for other, value in when.items())
    if kind == "choice":
        read = _read_choice(name, path, spec, conditions, faults)
    else:
        read = _read_range(name, path, str(kind), spec, conditions, faults, names)
    if read is None or spec.get("prior") is None:
        return read
    prior = read_prior(spec["prior"], read.kind)
    if isinstance(prior, str):
        faults.append(Fault(f"{key}.prior", f"{prior}, found {spec['prior']!r}", f"{key}.prior=null"))
        return None
    return replace(read, prior=prior)


def _read_choice(name: str, path: str, spec: Any, when: Any, faults: list[Fault]) -> Parameter | None:
    key, choices = f"search_space.{name}.choices", spec.get("choices")
    if not isinstance(choices, list | tuple) or not choices:
        faults.append(Fault(key, f"must be a list with at least one value, found {choices!r}", f"{key}=[1,2]"))
        return None
    if len({json.dumps(choice, sort_keys=True) for choice in choices}) < len(choices):
        faults.append(Fault(key, f"holds a value twice: {list(choices)!r}", f"name each value once in {key}"))
        return None
    if "???" in choices:  # in best_config.yaml it would mean a missing value
        faults.append(Fault(key, "must not hold '???', which Hydra takes for a missing value", f"take it out of {key}"))
        return None
    return Parameter(name, path, "choice", choices=tuple(choices), when=when)


def _read_range(
    name: str, path: str, kind: str, spec: Any, when: Any, faults: list[Fault], names: Sequence[str]
) -> Parameter | None:
    key, before = f"search_space.{name}", len(faults)
    whole = kind in ("int", "logint")
    if is_whole(path) and not whole:
        right = "logint" if kind.startswith("log") else "int"
        faults.append(Fault(f"{key}.type", f"{path} is a whole number, found {kind}", f"{key}.type={right}"))
    ends: dict[str, float] = {}
    for end in ("low", "high", "step"):
        named = isinstance(spec.get(end), str) and spec[end] in names and spec[end] != name
        if (end == "step" and spec.get("step") is None) or named:
            continue
        number = _read_number(spec.get(end))
        if number is None or (whole and not number.is_integer()):
            wanted = "a whole number" if whole else "a number"
            faults.append(Fault(f"{key}.{end}", f"must be {wanted}, found {spec.get(end)!r}", f"{key}.{end}=1"))
        else:
            ends[end] = number
    if len(faults) > before:
        return None
    within = tuple((end, spec[end]) for end in ("low", "high") if end not in ends)
    low, high, step = ends.get("low", 0.0), ends.get("high", 0.0), ends.get("step")
    return Parameter(name, path, kind, low, high, step, when=when, within=within)


def _settle_ends(parameter: Parameter, found: Mapping[str, Parameter], faults: list[Fault]) -> Parameter | None:
    """Give a parameter the widest range that bounds named after other parameters leave; None if it is no range."""
    ends, key, before = dict[str, float](), f"search_space.{parameter.name}", len(faults)
    for end, other in parameter.within:
        numbers = [] if other not in found or found[other].within else found[other].extremes()
        numbers = [one for one in numbers if isinstance(one, int | float) and not isinstance(one, bool)]
        if not numbers:
            rule = f"must be a number, or a parameter of numbers with bounds of its own, found {other!r}"
            faults.append(Fault(f"{key}.{end}", rule, f"{key}.{end}=1"))
            return None
        ends[end] = min(numbers) if end == "low" else max(numbers)
    parameter = replace(parameter, low=ends.get("low", parameter.low), high=ends.get("high", parameter.high))
    if parameter.kind != "choice":
        _check_range(parameter, faults)
    return parameter if len(faults) == before else None


def _check_range(parameter: Parameter, faults: list[Fault]) -> None:
    key, kind = f"search_space.{parameter.name}", parameter.kind
    low, high, step = parameter.low, parameter.high, parameter.step
    if low >= high:
        faults.append(
            Fault(f"{key}.low", f"must be less than high={high:g}, found {low:g}", f"{key}.high={low * 2 or 1:g}")
        )
    if kind.startswith("log") and low <= 0:
        faults.append(Fault(f"{key}.low", f"must be greater than 0 for {kind}, found {low:g}", f"{key}.low=1e-5"))
    if step is not None and (step <= 0 or kind.startswith("log")):
        rule = f"a {kind} takes no step" if kind.startswith("log") else f"must be greater than 0, found {step:g}"
        faults.append(Fault(f"{key}.step", rule, f"~{key}.step"))


def _read_number(value: Any) -> float | None:
    """Return a finite number, also from text that YAML does not read as a number (``1e-5``), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _find_path(name: str, given: Any, faults: list[Fault]) -> str:
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


def _parse_overrides(arguments: Iterable[str]) -> list[Any]:
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
        faults.append(Fault(path, rule, f"a search for each {path}=…; mistral_ner.hyperopt.report compares them"))
        return
    if path not in searchable_keys() and not path.startswith("model.random_init."):
        hint = nearest(path, searchable_keys())
        faults.append(Fault(path, f"cannot be searched: no key under model, data or training{hint}", "name such a key"))
        return
    name = same or (path.rpartition(".")[2] if path.rpartition(".")[2] not in found else path)
    parameter = _read_sweep(name, path, override, faults)
    if parameter is not None:
        found[name] = parameter


def _read_sweep(name: str, path: str, override: Any, faults: list[Fault]) -> Parameter | None:
    """Read a parameter in Hydra's sweep syntax: choice(…), a,b,c, interval(a,b), tag(log, …), range(a,b,step)."""
    value = override.value()
    tags = {str(tag) for tag in getattr(value, "tags", ())}
    if override.is_interval_sweep():
        whole = is_whole(path)
        kind = ("logint" if whole else "loguniform") if "log" in tags else ("int" if whole else "uniform")
        spec = {"type": kind, "low": value.start, "high": value.end, "path": path}
    else:
        from hydra.core.override_parser.types import Transformer

        spec = {"type": "choice", "choices": list(override.sweep_iterator(Transformer.identity)), "path": path}
        spec["choices"] = [_unwrap(choice) for choice in spec["choices"]]
    return _read_parameter(name, spec, faults)


def _unwrap(value: Any) -> Any:
    """Return the plain value of Hydra's quoted strings and other wrappers."""
    from decimal import Decimal

    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_unwrap(item) for item in value]
    return value


def _find_duplicates(parameters: Iterable[Parameter]) -> list[Fault]:
    owner: dict[str, str] = {}
    faults = []
    for parameter in parameters:
        if parameter.path in owner:
            rule = f"{parameter.path} is searched twice, also by {owner[parameter.path]!r}"
            faults.append(Fault(f"search_space.{parameter.name}", rule, f"~search_space.{parameter.name}"))
        owner[parameter.path] = parameter.name
    return faults


def _find_bad_conditions(found: dict[str, Parameter]) -> list[Fault]:
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
