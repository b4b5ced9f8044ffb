"""A search, checked as a whole before anything is created: the config, the space, the budget, the folder."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mistral_ner import config as schema
from mistral_ner.config import Config, ConfigError, Fault
from mistral_ner.hyperopt.search_space import SearchSpace, at_extremes, parse


@dataclass(frozen=True)
class Plan:
    """Everything that a search needs to know, without a fault."""

    config: Config
    space: SearchSpace

    @classmethod
    def of(cls, cfg: DictConfig | Mapping[str, Any] | Config, arguments: Iterable[str] = ()) -> Plan:
        """Check a composed config and the command line's overrides (sweep syntax included).

        Raises:
            ConfigError: names every fault of the config, of the space, and of the two together.
        """
        config, faults = schema.read(cfg)
        if config is None:
            raise ConfigError(faults)
        space, space_faults = parse(config.search_space, arguments)
        faults += space_faults
        if not space_faults and not len(space):
            faults.append(Fault("search_space", "holds no parameter to search", "search_space=lora"))
        faults += _search_faults(config)
        faults += [fault for fault in _space_faults(config, space) if fault.key not in {known.key for known in faults}]
        if faults:
            raise ConfigError(faults)
        return cls(_settled(config), space)

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.config.hyperopt.results_dir) / self.config.hyperopt.study_name

    @property
    def asha(self) -> bool:
        """Whether ASHA stops trials early."""
        return self.config.hyperopt.strategy in ("combined", "asha")

    @property
    def reports_per_trial(self) -> int:
        """Reports of a trial that uses its whole budget."""
        reports = self.config.training.reports
        return min(reports, self.config.hyperopt.asha_max_t) if self.asha else reports

    def trial_config(self, number: int, values: Mapping[str, Any]) -> Config:
        """Return the config of one trial; ``values`` by parameter name."""
        config = with_values(self.config, self.space.by_path(values))
        config.output_dir = str(self.folder / trial_name(number))
        config.search_space = {}
        if not config.tracking.trials:
            config.tracking.report_to = "none"
        return config


def trial_name(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial_{number:04d}"


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


def _settled(config: Config) -> Config:
    """Fix what depends on the machine, so that a trial's config alone repeats it."""
    if config.training.threads is None:
        config.training.threads = max(1, int(cpus_per_trial(config)))
    return config


def cpus_per_trial(config: Config) -> float:
    """Return the CPUs of one trial: what is asked for, or the machine's share."""
    wanted = config.hyperopt.resources_per_trial.cpu
    return wanted if wanted is not None else max(0.01, round((os.cpu_count() or 1) / config.hyperopt.max_concurrent, 2))


def _search_faults(config: Config) -> list[Fault]:
    hyperopt, reports, faults = config.hyperopt, config.training.reports, []
    asha = hyperopt.strategy in ("combined", "asha")
    if hyperopt.strategy == "none":
        faults.append(Fault("hyperopt.strategy", "a search needs a strategy, found none", "hyperopt=combined"))
    if asha and hyperopt.asha_max_t > reports:
        rule = f"counts reports, and no trial reaches more than training.reports={reports}, found {hyperopt.asha_max_t}"
        faults.append(Fault("hyperopt.asha_max_t", rule, f"hyperopt.asha_max_t={reports}"))
    if asha and hyperopt.asha_grace_period > hyperopt.asha_max_t:
        rule = f"must be at most asha_max_t={hyperopt.asha_max_t}, found {hyperopt.asha_grace_period}"
        faults.append(Fault("hyperopt.asha_grace_period", rule, "hyperopt.asha_grace_period=1"))
    if hyperopt.strategy == "asha" and hyperopt.optuna_sampler != "Random":
        rule = f"asha samples at random, found {hyperopt.optuna_sampler}"
        faults.append(Fault("hyperopt.optuna_sampler", rule, "hyperopt=combined, or optuna_sampler=Random"))
    if not re.fullmatch(r"[\w.+-]+", hyperopt.study_name) or set(hyperopt.study_name) <= {"."}:
        rule = f"is a folder's name: letters, digits, dots, - and _ only, found {hyperopt.study_name!r}"
        faults.append(Fault("hyperopt.study_name", rule, "hyperopt.study_name=my_study"))
    if hyperopt.metric != config.training.metric or hyperopt.mode != config.training.mode:
        rule = f"must be the search's metric and mode ({hyperopt.metric}, {hyperopt.mode})"
        faults.append(Fault("training.metric", rule, f"hyperopt.metric={config.training.metric}"))
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


def compose(study_config: Path) -> Config:
    """Read a saved config back."""
    return schema.check(OmegaConf.to_container(OmegaConf.load(study_config)))  # type: ignore[arg-type]
