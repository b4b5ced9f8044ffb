"""What can be wrong with a search as a whole: its strategy, its budgets, its space against its config."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mistral_ner import config as schema
from mistral_ner.config import Config, Fault, nearest
from mistral_ner.hyperopt import fits
from mistral_ner.hyperopt.search_space import SearchSpace, at_extremes
from mistral_ner.tracking import tracker_fault


def uses_asha(config: Config) -> bool:
    """Whether the strategy stops trials by ASHA."""
    return config.hyperopt.strategy in ("combined", "asha")


def value_at(config: Config, path: str) -> Any:
    """Return the config's value at a dotted path, None where there is none."""
    target: Any = config
    for part in path.split("."):
        target = target.get(part) if isinstance(target, dict) else getattr(target, part, None)
    return target


def with_values(config: Config, by_path: Mapping[str, Any]) -> Config:
    """Return a copy of ``config`` with values set by dotted path; the values are data, never interpolated."""
    changed = copy.deepcopy(config)
    for path, value in by_path.items():
        *groups, key = path.split(".")
        target: Any = changed
        for group in groups:
            target = target[group] if isinstance(target, dict) else getattr(target, group)
        if isinstance(target, dict):
            target[key] = value
        else:
            setattr(target, key, value)
    return changed


def search_faults(config: Config, space: SearchSpace) -> list[Fault]:
    """Return the faults that take the whole search to see."""
    return [
        *_strategy_faults(config),
        *_budget_faults(config),
        *_name_faults(config),
        *_enqueue_faults(config, space),
        *_space_faults(config, space),
        *_full_tuning_faults(config, space),
        *filter(None, [tracker_fault(config.tracking)]),
    ]


def _strategy_faults(config: Config) -> list[Fault]:
    hyperopt, faults = config.hyperopt, []
    if hyperopt.strategy == "none":
        return [Fault("hyperopt.strategy", "a search needs a strategy, found none", "hyperopt=combined")]
    samples = hyperopt.strategy in ("combined", "optuna")
    for key, wanted, acts in (
        ("enabled", hyperopt.enabled, True),
        ("optuna_enabled", hyperopt.optuna_enabled, samples),
        ("asha_enabled", hyperopt.asha_enabled, uses_asha(config)),
    ):
        if wanted is not None and wanted != acts:
            rule = f"hyperopt={hyperopt.strategy} says {str(acts).lower()}, found {str(wanted).lower()}"
            faults.append(Fault(f"hyperopt.{key}", rule, f"hyperopt.{key}=null, or another hyperopt="))
    if not samples and hyperopt.optuna_sampler != "Random":
        rule = f"{hyperopt.strategy} samples at random, found {hyperopt.optuna_sampler}"
        other = "combined" if hyperopt.strategy == "asha" else "optuna"
        faults.append(Fault("hyperopt.optuna_sampler", rule, f"hyperopt={other}"))
    return faults


def _budget_faults(config: Config) -> list[Fault]:
    hyperopt, reports, faults = config.hyperopt, config.training.reports, []
    if uses_asha(config) and hyperopt.asha_max_t > reports:
        rule = f"counts reports, and no trial reaches more than training.reports={reports}, found {hyperopt.asha_max_t}"
        faults.append(Fault("hyperopt.asha_max_t", rule, f"hyperopt.asha_max_t={reports}"))
    if uses_asha(config) and (hyperopt.asha_grace_period or 1) > hyperopt.asha_max_t:
        rule = f"must be at most asha_max_t={hyperopt.asha_max_t}, found {hyperopt.asha_grace_period}"
        faults.append(Fault("hyperopt.asha_grace_period", rule, "hyperopt.asha_grace_period=1"))
    if uses_asha(config) and hyperopt.asha_type == "promotion" and hyperopt.asha_brackets > 1:
        rule = f"asha_type=promotion has one bracket, found {hyperopt.asha_brackets}"
        faults.append(Fault("hyperopt.asha_brackets", rule, "hyperopt.asha_brackets=1"))
    if hyperopt.optuna_n_warmup_steps >= reports and hyperopt.optuna_pruner != "none":
        rule = f"leaves the pruner nothing of training.reports={reports}, found {hyperopt.optuna_n_warmup_steps}"
        faults.append(Fault("hyperopt.optuna_n_warmup_steps", rule, "hyperopt.optuna_n_warmup_steps=0"))
    if hyperopt.metric != config.training.metric or hyperopt.mode != config.training.mode:
        rule = f"must be the search's metric and mode ({hyperopt.metric}, {hyperopt.mode})"
        faults.append(Fault("training.metric", rule, f"hyperopt.metric={config.training.metric}"))
    if hyperopt.max_reports is not None and hyperopt.max_reports < (first := _first_leg(config)):
        rule = f"must pay for one trial up to its {'first rung' if uses_asha(config) else 'end'}, {first} reports"
        fault = f"{rule}, found {hyperopt.max_reports}"
        faults.append(Fault("hyperopt.max_reports", fault, f"hyperopt.max_reports={first}"))
    faults += _pareto_faults(config)
    gpu = hyperopt.resources_per_trial.gpu
    trials = hyperopt.max_concurrent or 1
    if gpu and hyperopt.ray_address is None and gpu * trials > (there := fits.gpus()):
        rule = f"{trials} trials of {gpu:g} GPUs do not fit this machine's {there}"
        fix = f"hyperopt.max_concurrent={int(there // gpu)}" if gpu <= there else "hyperopt.resources_per_trial.gpu=0"
        faults.append(Fault("hyperopt.max_concurrent", rule, fix))
    cpu, most = hyperopt.resources_per_trial.cpu, fits.cores()
    if cpu is not None and hyperopt.ray_address is None and cpu * trials > most:
        rule = f"{trials} trials of {cpu:g} CPUs do not fit this machine's {most}"
        fix = f"hyperopt.max_concurrent={int(most // cpu)}, or " if cpu <= most else ""
        faults.append(Fault("hyperopt.max_concurrent", rule, f"{fix}hyperopt.resources_per_trial.cpu=null"))
    if hyperopt.max_concurrent is None and hyperopt.ray_address is not None:
        rule = "must be set with ray_address: what a cluster holds is not known before it is joined"
        faults.append(Fault("hyperopt.max_concurrent", rule, "hyperopt.max_concurrent=8"))
    return faults


def _first_leg(config: Config) -> int:
    """Return the reports of a trial until something may stop it."""
    if uses_asha(config):
        return min(first_rung(config), config.hyperopt.asha_max_t)
    return config.training.stop_after or config.training.reports


def first_rung(config: Config) -> int:
    """Return the report at which ASHA compares trials first."""
    # entity F1 before a third of a training says little: good settings are often at 0 then (bench/README.md)
    return config.hyperopt.asha_grace_period or max(1, config.hyperopt.asha_max_t // 3)


def _pareto_faults(config: Config) -> list[Fault]:
    """Faults of a search for two metrics: what stops trials early compares them by one."""
    hyperopt, faults = config.hyperopt, []
    if hyperopt.second_metric is None:
        return []
    rule = "two metrics cannot be compared at a rung"
    if uses_asha(config):
        faults.append(Fault("hyperopt.second_metric", f"{rule}, which {hyperopt.strategy} does", "hyperopt=optuna"))
    elif hyperopt.optuna_pruner != "none":
        faults.append(Fault("hyperopt.optuna_pruner", f"{rule}, which a pruner does", "hyperopt.optuna_pruner=none"))
    if hyperopt.optuna_sampler == "CMA":
        rule = "CMA-ES looks for one metric, found hyperopt.second_metric"
        faults.append(Fault("hyperopt.optuna_sampler", rule, "hyperopt.optuna_sampler=TPE"))
    if hyperopt.second_metric == hyperopt.metric:
        faults.append(Fault("hyperopt.second_metric", f"is hyperopt.metric itself, {hyperopt.metric}", "name another"))
    return faults


def _name_faults(config: Config) -> list[Fault]:
    name = config.hyperopt.study_name
    if re.fullmatch(r"[\w.-]+", name) and not set(name) <= {"."}:
        return []
    rule = f"is a folder's name: letters, digits, dots, - and _ only, found {name!r}"
    return [Fault("hyperopt.study_name", rule, "hyperopt.study_name=my_study")]


def _enqueue_faults(config: Config, space: SearchSpace) -> list[Fault]:
    parameters, faults = {parameter.name: parameter for parameter in space}, []
    for place, values in enumerate(config.hyperopt.enqueue):
        key = f"hyperopt.enqueue[{place}]"
        if not isinstance(values, Mapping):
            faults.append(
                Fault(key, f"must be settings by parameter name, found {values!r}", "hyperopt.enqueue=[{lora_r: 8}]")
            )
            continue
        for name, value in values.items():
            if name not in parameters:
                rule = f"{name!r} is not searched{nearest(str(name), parameters)}"
                faults.append(Fault(key, rule, f"name one of {', '.join(parameters)}"))
            elif not parameters[name].holds(value):
                faults.append(
                    Fault(key, f"{name}={value!r} is not in {parameters[name]}", f"widen search_space.{name}")
                )
    return faults


def _space_faults(config: Config, space: SearchSpace) -> list[Fault]:
    """Faults of the config at the ends of the space: what a trial would only find out while it runs."""
    faults: dict[str, Fault] = {}
    for by_path in at_extremes(space):
        _, found = schema.read(with_values(config, by_path))
        for fault in found:
            name = next((p.name for p in space if p.path == fault.key), fault.key)
            faults.setdefault(
                f"{name} {fault.rule}",
                Fault(
                    f"search_space.{name}",
                    f"reaches values that {fault.key} cannot take: {fault.rule}",
                    f"~search_space.{name}",
                ),
            )
    return list(faults.values())


def _full_tuning_faults(config: Config, space: SearchSpace) -> list[Fault]:
    """Faults of parameters that shape an adapter where no trial has one."""
    if config.model.tuning != "full" or any(parameter.path == "model.tuning" for parameter in space):
        return []
    rule = "shapes an adapter, and model.tuning=full trains none"
    shaping = [parameter for parameter in space if parameter.path in _OF_THE_ADAPTER]
    return [Fault(f"search_space.{one.name}", rule, "search_space=full, or model.tuning=lora") for one in shaping]


_OF_THE_ADAPTER = {
    f"model.{name}"
    for name in schema.known_keys(schema.ModelConfig)
    if name.startswith("lora_") or name == "use_rslora"
}


# Keys that act with some strategies only, and with which.
_ACTS = {
    "optuna_pruner": ("optuna",),
    "warm_start": ("combined", "optuna"),
    "optuna_n_startup_trials": ("combined", "optuna"),
    "optuna_n_warmup_steps": ("optuna",),
    "asha_type": ("combined", "asha"),
    "asha_max_t": ("combined", "asha"),
    "asha_grace_period": ("combined", "asha"),
    "asha_reduction_factor": ("combined", "asha"),
    "asha_brackets": ("combined", "asha"),
}


def inert_keys(config: Config, arguments: Iterable[str]) -> list[str]:
    """Return a warning for every key set by hand, typed or in a config file, that cannot act with the strategy."""
    typed = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    hyperopt, untouched = config.hyperopt, schema.HyperoptConfig(asha_max_t=config.training.reports)
    warnings = []
    for key, strategies in _ACTS.items():
        if f"hyperopt.{key}" not in typed and getattr(hyperopt, key) == getattr(untouched, key):
            continue
        if key == "asha_reduction_factor" and hyperopt.optuna_pruner in ("hyperband", "successive_halving"):
            continue
        if hyperopt.strategy not in strategies:
            acts = f"acts with {', '.join(strategies)}"
            warnings.append(f"hyperopt.{key} does nothing with hyperopt={hyperopt.strategy} ({acts})")
        elif key == "optuna_n_warmup_steps" and hyperopt.optuna_pruner == "none":
            warnings.append(f"hyperopt.{key} does nothing without a pruner (hyperopt.optuna_pruner=median)")
    return warnings
