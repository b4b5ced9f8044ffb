"""Faults of a search as a whole: its strategy, its budgets, and its space compared with its config."""

from __future__ import annotations

import contextlib
import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mistral_ner.config.check import read
from mistral_ner.config.schema import Config, HyperoptConfig, ModelConfig, known_keys
from mistral_ner.errors import Fault, nearest
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.cards import find_card_faults
from mistral_ner.hyperopt.spec.constraints import Constraint
from mistral_ner.hyperopt.spec.parse import searchable_keys
from mistral_ner.hyperopt.spec.passes import find_pass_faults
from mistral_ner.hyperopt.spec.space import FIRST, SearchSpace, at_extremes
from mistral_ner.training.tracking import tracker_fault


def uses_asha(config: Config) -> bool:
    """Whether the strategy stops trials by ASHA."""
    return config.hyperopt.strategy in ("combined", "asha")


def value_at(config: Config, path: str) -> Any:
    """Return the config's value at a dotted path, or None if there is none."""
    target: Any = config
    for part in path.split("."):
        target = target.get(part) if isinstance(target, dict) else getattr(target, part, None)
    return target


def with_values(config: Config, by_path: Mapping[str, Any]) -> Config:
    """Return a copy of ``config`` with values set at dotted paths; the values are not interpolated."""
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


def find_search_faults(config: Config, space: SearchSpace) -> list[Fault]:
    """Return the faults that only show in the search as a whole."""
    return [
        *_strategy_faults(config),
        *_budget_faults(config),
        *_name_faults(config),
        *_enqueue_faults(config, space),
        *_space_faults(config, space),
        *_constraint_faults(config, space),
        *_full_tuning_faults(config, space),
        *find_pass_faults(config, space),
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
        end = "first rung" if uses_asha(config) and hyperopt.asha_type == "stopping" else "end"
        rule = f"must pay for one trial up to its {end}, {first} reports"
        fault = f"{rule}, found {hyperopt.max_reports}"
        faults.append(Fault("hyperopt.max_reports", fault, f"hyperopt.max_reports={first}"))
    faults += _pareto_faults(config)
    faults += find_card_faults(config)
    trials = min(hyperopt.max_concurrent or 1, capacity.on_cards(config) or hyperopt.num_trials)
    cpu, most = hyperopt.resources_per_trial.cpu, capacity.cores()
    trials = capacity.count_passes(config, trials)
    if cpu is not None and hyperopt.ray_address is None and cpu * trials > most:
        if cpu > most:
            rule, fix = f"a trial of {cpu:g} CPUs does not fit this machine, which has {most}", f"{most}"
            faults.append(Fault("hyperopt.resources_per_trial.cpu", rule, f"hyperopt.resources_per_trial.cpu={fix}"))
        else:
            rule, fix = f"{trials} trials of {cpu:g} CPUs do not fit this machine's {most}", f"{int(most // cpu)}"
            fix = f"hyperopt.max_concurrent={fix}, or hyperopt.resources_per_trial.cpu=null"
            faults.append(Fault("hyperopt.max_concurrent", rule, fix))
    return faults


def _first_leg(config: Config) -> int:
    """Return how many reports must be paid for at least.

    A trial that ASHA stops early makes those up to its first rung. Promotion pauses every trial there, so that the
    budget must bring one of them to its end.
    """
    whole = config.training.stop_after or config.training.reports
    if not uses_asha(config):
        return whole
    whole = min(whole, config.hyperopt.asha_max_t)
    return whole if config.hyperopt.asha_type == "promotion" else min(first_rung(config), whole)


def first_rung(config: Config) -> int:
    """Return the first report at which ASHA compares trials: the config's, else what the judge can see from.

    A ninth of a training is enough for the loss. Before a third of it, the entity F1 of good settings is often 0
    (bench/README.md).
    """
    most = config.hyperopt.asha_max_t
    return config.hyperopt.asha_grace_period or (-(-most // 9) if loss_may_judge(config) else max(1, most // 3))


_FALLS_WITH_THE_LOSS = re.compile(r"eval_(macro_)?(f1|precision|recall)(_.+)?")


def loss_may_judge(config: Config) -> bool:
    """Whether trials may be compared by their loss on dev; ``hyperopt.judge`` says, or the metric with ``auto``."""
    hyperopt = config.hyperopt
    if hyperopt.judge != "auto":
        return hyperopt.judge == "eval_loss"
    return hyperopt.mode == "max" and _FALLS_WITH_THE_LOSS.fullmatch(hyperopt.metric) is not None


def _pareto_faults(config: Config) -> list[Fault]:
    """Return the faults of a search for two metrics. Early stopping compares trials by the first."""
    hyperopt, faults = config.hyperopt, []
    if hyperopt.second_metric is None:
        return []
    if hyperopt.optuna_pruner == "hyperband":  # reads the study's one direction (optuna 5)
        rule = "hyperband takes studies of one metric, found hyperopt.second_metric"
        faults.append(Fault("hyperopt.optuna_pruner", rule, "hyperopt.optuna_pruner=successive_halving"))
    if hyperopt.optuna_sampler == "CMA":
        rule = "CMA-ES searches for one metric, found hyperopt.second_metric"
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
        if broken := _forbidden(config, space, values):
            faults.append(Fault(key, f"must meet {broken}, as every trial", f"other settings in {key}"))
    return faults


def why_impossible(config: Config, space: SearchSpace, values: Mapping[str, Any]) -> str | None:
    """Return why no trial can have these settings by parameter name; None if one can."""
    for parameter in space:
        if parameter.name in values and not parameter.holds(values[parameter.name]):
            return f"{parameter.name}={values[parameter.name]!r} is not in {parameter}"
    broken = _forbidden(config, space, values)
    return f"every trial must meet {broken}" if broken else None


def find_left_out(config: Config, space: SearchSpace) -> list[str]:
    """Return what cannot be tried of the settings that the space names to try first, in words."""
    reasons = [(place, why_impossible(config, space, values)) for place, values in enumerate(space.first)]
    return [f"search_space.{FIRST}[{place}] is left out: {reason}" for place, reason in reasons if reason]


def _forbidden(config: Config, space: SearchSpace, values: Mapping[str, Any]) -> str | None:
    """Return what settings by parameter name break, of the constraints and bounds whose parameters they all give."""
    known = {**named_values(config), **values}
    texts = [str(text) for text in config.hyperopt.constraints]
    texts += [f"{one.name} {'>=' if end == 'low' else '<='} {other}" for one in space for end, other in one.within]
    for text in texts:
        with contextlib.suppress(ValueError):  # an unreadable one is a fault of its own
            constraint = Constraint.read(text)
            given = set(constraint.names) - (set(space.names) - values.keys())
            if given == set(constraint.names) <= known.keys() and not constraint.holds(known):
                return text
    return None


def _space_faults(config: Config, space: SearchSpace) -> list[Fault]:
    """Return the faults of the config at the ends of the space, which a trial would otherwise find while it runs."""
    faults: dict[str, Fault] = {}
    _, own = read(config)  # reported as they are: the space has nothing to do with them
    for by_path in at_extremes(space):
        _, found = read(with_values(config, by_path))
        for fault in found:
            if fault in own:
                continue
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


def named_values(config: Config) -> dict[str, Any]:
    """Return the config's values by the last parts of their keys, where those are unique."""
    names = Counter(key.rpartition(".")[2] for key in searchable_keys())
    return {name: value_at(config, key) for key in searchable_keys() if names[name := key.rpartition(".")[2]] == 1}


def _constraint_faults(config: Config, space: SearchSpace) -> list[Fault]:
    """Return the faults of ``hyperopt.constraints``: unreadable ones, unknown names, and too few settings left."""
    faults, read_ones, known = [], [], {**named_values(config), **dict.fromkeys(space.names)}
    for place, text in enumerate(config.hyperopt.constraints):
        key = f"hyperopt.constraints[{place}]"
        try:
            constraint = Constraint.read(str(text))
        except ValueError as error:
            faults.append(
                Fault(key, f"{error}, in {text!r}", "'hyperopt.constraints=[\"lora_r * lora_alpha_ratio <= 64\"]'")
            )
            continue
        read_ones.append(constraint)
        for name in constraint.names:
            if name not in known:
                faults.append(
                    Fault(key, f"{name!r} is neither a parameter nor a config key{nearest(name, known)}", "mend it")
                )
    if faults or not read_ones:
        return faults
    rng = np.random.default_rng(0)
    draws = [{**known, **space.draw(rng, {})} for _ in range(_DRAWS)]
    never = [one.text for one in read_ones if not any(one.holds(draw) for draw in draws)]
    if never or not any(all(one.holds(draw) for one in read_ones) for draw in draws):
        which = " and ".join(never or [one.text for one in read_ones])
        rule = f"none of {_DRAWS} random settings meets {which}"
        faults.append(Fault("hyperopt.constraints", rule, "hyperopt.constraints=[], or another space"))
    return faults


_DRAWS = 1000
_CONSTRAINT = "'hyperopt.constraints=[\"lora_r * lora_alpha_ratio <= 64\"]'"  # as an example


def _full_tuning_faults(config: Config, space: SearchSpace) -> list[Fault]:
    """Return the faults of parameters that shape an adapter if no trial trains one."""
    if config.model.tuning != "full" or any(parameter.path == "model.tuning" for parameter in space):
        return []
    rule = "shapes an adapter, and model.tuning=full trains none"
    found = [parameter for parameter in space if parameter.path in _OF_THE_ADAPTER]
    return [Fault(f"search_space.{one.name}", rule, "search_space=full, or model.tuning=lora") for one in found]


_OF_THE_ADAPTER = {
    f"model.{name}" for name in known_keys(ModelConfig) if name.startswith("lora_") or name == "use_rslora"
}


# Keys that have an effect with some strategies only.
_ACTS = {
    "optuna_pruner": ("optuna",),
    "warm_start": ("combined", "optuna"),
    "optuna_n_startup_trials": ("combined", "optuna"),
    "optuna_n_warmup_steps": ("optuna",),
    "judge": ("combined", "asha", "optuna"),
    "asha_type": ("combined", "asha"),
    "asha_max_t": ("combined", "asha"),
    "asha_grace_period": ("combined", "asha"),
    "asha_reduction_factor": ("combined", "asha"),
    "asha_brackets": ("combined", "asha"),
}


def find_inert_keys(config: Config, arguments: Iterable[str]) -> list[str]:
    """Return a warning for each key, typed or set in a config file, that has no effect with the strategy."""
    typed = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    hyperopt, untouched = config.hyperopt, HyperoptConfig(asha_max_t=config.training.reports)
    warnings, pruning = [], ("optuna_n_warmup_steps", "judge")
    for key, strategies in _ACTS.items():
        if f"hyperopt.{key}" not in typed and getattr(hyperopt, key) == getattr(untouched, key):
            continue
        if key == "asha_reduction_factor" and hyperopt.optuna_pruner in ("hyperband", "successive_halving"):
            continue
        if hyperopt.strategy not in strategies:
            acts = f"acts with {', '.join(strategies)}"
            warnings.append(f"hyperopt.{key} does nothing with hyperopt={hyperopt.strategy} ({acts})")
        elif key in pruning and hyperopt.strategy == "optuna" and hyperopt.optuna_pruner == "none":
            warnings.append(f"hyperopt.{key} does nothing without a pruner (hyperopt.optuna_pruner=median)")
    return warnings
