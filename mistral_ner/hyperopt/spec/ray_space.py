"""Converts search spaces to Ray Tune's domains, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.spec.space import Parameter, SearchSpace


class RayTuneSearchSpace(dict[str, Any]):
    """Ray Tune domains by parameter name, with the paths and conditions that a domain cannot hold."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__({parameter.name: _build_domain(parameter) for parameter in space})
        self._blocks = {parameter.name: (self[parameter.name], parameter.to_block()) for parameter in space}

    def to_block(self) -> dict[str, Any]:
        """Return the ``search_space`` block, with the domains that have been replaced since."""
        block = {}
        for name, domain in self.items():
            known, made = self._blocks.get(name, (None, {}))
            block[name] = made if domain is known else {**_keep_path(made), **_read_domain(name, domain)}
        return block


def to_block(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``search_space`` block of Ray Tune domains, or of blocks, by parameter name.

    Raises:
        UserError: a domain is of a kind that a search space does not have (normal distributions, functions, grids).
    """
    if isinstance(space, RayTuneSearchSpace):
        return space.to_block()
    return {name: _read_domain(name, spec) if isinstance(spec, Domain) else spec for name, spec in space.items()}


def _keep_path(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: block[key] for key in ("path", "when") if key in block}


def _build_domain(parameter: Parameter) -> Any:
    low, high, step = parameter.low, parameter.high, parameter.step
    if parameter.kind == "choice":
        return tune.choice(list(parameter.choices))
    if parameter.kind == "uniform":
        return tune.quniform(low, high, step) if step else tune.uniform(low, high)
    if parameter.kind == "loguniform":
        return tune.loguniform(low, high)
    # Ray excludes the upper end of whole numbers, unless they have a step
    if parameter.kind == "logint":
        return tune.lograndint(int(low), int(high) + 1)
    return tune.qrandint(int(low), int(high), int(step)) if step else tune.randint(int(low), int(high) + 1)


def _read_domain(name: str, domain: Any) -> dict[str, Any]:
    sampler: Any = domain.get_sampler() if isinstance(domain, Domain) else None  # type: ignore[no-untyped-call]
    step = None
    if isinstance(sampler, Quantized):
        step, sampler = sampler.q, sampler.get_sampler()  # type: ignore[no-untyped-call]
    log, normal = isinstance(sampler, LogUniform), "Normal" in type(sampler).__name__
    if isinstance(domain, Categorical):
        return {"type": "choice", "choices": list(domain.categories)}
    if isinstance(domain, Float | Integer) and not normal:
        whole = isinstance(domain, Integer)
        block: dict[str, Any] = {"type": ("log" if log else "") + ("int" if whole else "uniform")}
        high = domain.upper - 1 if whole and step in (None, 1) else domain.upper
        return block | {"low": domain.lower, "high": high} | ({"step": step} if step not in (None, 1) else {})
    raise UserError(
        f"{name} must be a Ray Tune choice, uniform, loguniform, randint or lograndint, found {type(domain).__name__}; "
        f"fix: tune.uniform(LOW, HIGH), or a block such as {{type: uniform, low: 0, high: 1}}"
    )
