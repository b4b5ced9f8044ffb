"""A search, checked as a whole before anything is created: the config, the space, the budget, the folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from mistral_ner import config as schema
from mistral_ner import files
from mistral_ner.config import Config, ConfigError, Fault, UserError
from mistral_ner.hyperopt import fits
from mistral_ner.hyperopt.faults import first_rung, inert_keys, search_faults, uses_asha, value_at, with_values
from mistral_ner.hyperopt.search_space import SearchSpace, parse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything that a search needs to know, without a fault."""

    config: Config
    space: SearchSpace
    folder_name: str | None = None  # of a study whose folder was renamed; else its name

    @classmethod
    def of(
        cls,
        cfg: DictConfig | Mapping[str, Any] | Config,
        arguments: Iterable[str] = (),
        strategies: tuple[str, ...] = schema.STRATEGIES,
    ) -> Plan:
        """Check a composed config and the command line's overrides (sweep syntax included).

        ``strategies`` are those that the engine about to run can follow.

        Raises:
            ConfigError: names every fault of the config, of the space, and of the two together.
        """
        config, faults = schema.read(cfg)
        if config is None:
            raise ConfigError(faults)
        arguments = list(arguments)
        if config.hyperopt.search_space:
            config.search_space, config.hyperopt.search_space = config.hyperopt.search_space, {}
        space, space_faults = parse(config.search_space, arguments)
        faults += space_faults
        if not space_faults and not len(space):
            faults.append(Fault("search_space", "holds no parameter to search", "search_space=lora"))
        found = search_faults(config, space)
        if space_faults:  # what is enqueued may be for parameters that could not be read
            found = [fault for fault in found if not fault.key.startswith("hyperopt.enqueue")]
        faults += [fault for fault in found if fault.key not in {known.key for known in faults}]
        if (strategy := config.hyperopt.strategy) not in strategies:
            rule = f"this engine follows {' and '.join(strategies)}, found {strategy}"
            faults.append(Fault("hyperopt.strategy", rule, f"hyperopt={strategy}, which brings its engine"))
        if faults:
            raise ConfigError(faults)
        for warning in inert_keys(config, arguments):
            log.warning(warning)
        return cls(_settled(config), space)

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        return 1 if self.config.hyperopt.mode == "max" else -1

    @property
    def enqueued(self) -> list[dict[str, Any]]:
        """Settings to try first, by parameter name: the config's own where the space holds them, then the list."""
        hyperopt = self.config.hyperopt
        values = {parameter.name: value_at(self.config, parameter.path) for parameter in self.space}
        default = {parameter.name: values[parameter.name] for parameter in self.space.in_play(values)}
        return [default] * (hyperopt.enqueue_default and self.space.holds(values)) + hyperopt.enqueue

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.config.hyperopt.results_dir) / (self.folder_name or self.config.hyperopt.study_name)

    @property
    def at_once(self) -> int:
        """How many trials run at once."""
        return _at_once(self.config)

    @property
    def asha(self) -> bool:
        """Whether ASHA stops trials early."""
        return uses_asha(self.config)

    @property
    def reports_per_trial(self) -> int:
        """Reports of a trial that uses its whole budget."""
        reports = self.config.training.stop_after or self.config.training.reports
        return min(reports, self.config.hyperopt.asha_max_t) if self.asha else reports

    @property
    def rungs(self) -> list[int]:
        """Reports at which ASHA compares trials, before the last."""
        hyperopt, rungs = self.config.hyperopt, []
        rung = float(hyperopt.asha_grace_period or 1)
        while rung < self.reports_per_trial:
            rungs.append(math.ceil(rung))
            rung *= hyperopt.asha_reduction_factor
        return rungs

    def leg(self, made: int) -> int:
        """Return how many reports a trial that has made ``made`` makes until ASHA judges it again, or to its end."""
        stops = [*(self.rungs if self.asha else []), self.reports_per_trial]
        return next((stop - made for stop in stops if stop > made), 0)

    def trial_config(self, number: int, values: Mapping[str, Any]) -> Config:
        """Return the config of one trial; ``values`` by parameter name."""
        config = with_values(self.config, self.space.by_path(values))
        config.output_dir = str(self.folder / trial_name(number))
        config.search_space = {}
        if url := config.hyperopt.storage_url:
            config.hyperopt.storage_url = files.redacted(url)  # it is written to a file
        if self.reports_per_trial < config.training.reports:
            config.training.stop_after = self.reports_per_trial
        if not config.tracking.trials:
            config.tracking.report_to = "none"
        schema.absolute_paths(config)  # of values that the search has set
        return config


def trial_name(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial_{number:04d}"


def train_again(folder: str | Path) -> str:
    """Return the command that trains the best config of the study in ``folder``."""
    return f"python launch.py --config-dir {folder} --config-name best_config"


def _settled(config: Config) -> Config:
    """Fix what depends on the machine, so that a trial's config alone repeats it."""
    config.hyperopt.max_concurrent = _at_once(config)
    if config.training.threads is None:
        config.training.threads = max(1, int(cpus_per_trial(config)))
    if config.hyperopt.asha_grace_period is None and uses_asha(config):
        config.hyperopt.asha_grace_period = first_rung(config)
    return config


def cpus_per_trial(config: Config) -> float:
    """Return the CPUs of one trial: what is asked for, else one on a cluster, or this machine's share."""
    wanted = config.hyperopt.resources_per_trial.cpu
    if wanted is None and config.hyperopt.ray_address is not None:
        return 1.0
    return wanted if wanted is not None else max(0.01, round(fits.cores() / _at_once(config), 2))


def _at_once(config: Config) -> int:
    wanted = config.hyperopt.max_concurrent
    return fits.trials_at_once(config) if wanted is None else wanted


_LAST = list(schema.TrackingConfig.__dataclass_fields__)[-1]  # as to_container orders them


def saved_config(path: Path) -> Config:
    """Read a config that a study has written.

    Raises:
        UserError: it is damaged.
    """
    try:
        container = files.read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError):
        container = None
    # of a file that was cut off, the last key is missing
    if not isinstance(container, dict) or _LAST not in (container.get("tracking") or {}):
        raise UserError(f"{path} is damaged; fix: restore it from a copy, or search anew under another name")
    return schema.check(container)
