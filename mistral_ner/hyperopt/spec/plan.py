"""The plan of a search: config, space, budgets and folder, checked before anything is created."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from mistral_ner import files
from mistral_ner.config.check import absolute_paths, check, named_by_time, read
from mistral_ner.config.schema import STRATEGIES, Config, TrackingConfig
from mistral_ner.errors import ConfigError, Fault, UserError
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.cards import share_of_card
from mistral_ner.hyperopt.spec.constraints import Constraint
from mistral_ner.hyperopt.spec.faults import (
    find_inert_keys,
    find_left_out,
    find_search_faults,
    first_rung,
    loss_may_judge,
    named_values,
    uses_asha,
    value_at,
    why_impossible,
    with_values,
)
from mistral_ner.hyperopt.spec.parse import parse
from mistral_ner.hyperopt.spec.space import SearchSpace
from mistral_ner.training.checkpoint import has_lost_patience

log = logging.getLogger(__name__)


@dataclass
class Room:
    """What a cluster has for the trials: known once it is joined."""

    count: Callable[[], int] = lambda: 1  # how many workers there is room for
    strangers: set[str] = field(default_factory=set)  # addresses of machines that get no trials


@dataclass(frozen=True)
class Plan:
    """Everything that a search needs to know, checked."""

    config: Config
    space: SearchSpace
    folder_name: str | None = None  # if the study's folder was renamed
    named_by_time: bool = False  # so that the study may get another name
    room: Room = field(default_factory=lambda: Room())

    @classmethod
    def of(
        cls,
        cfg: DictConfig | Mapping[str, Any] | Config,
        arguments: Iterable[str] = (),
        strategies: tuple[str, ...] = STRATEGIES,
    ) -> Plan:
        """Return the plan of a composed config and the command line's overrides, which may use the sweep syntax.

        Args:
            cfg: the composed config.
            arguments: the command line's overrides.
            strategies: the strategies that the engine can run.

        Raises:
            ConfigError: names every fault of the config, of the space, and of the two together.
        """
        config, faults = read(cfg, typed=not isinstance(cfg, Config))  # a Config is a saved one, or checked
        if config is None:
            raise ConfigError(faults)
        arguments = list(arguments)
        if config.hyperopt.search_space:
            config.search_space, config.hyperopt.search_space = config.hyperopt.search_space, None
        space, space_faults = parse(config.search_space, arguments)
        faults += space_faults
        if not space_faults and not len(space):
            faults.append(Fault("search_space", "holds no parameter to search", "search_space=lora"))
        found = find_search_faults(config, space)
        if space_faults:  # enqueued settings may be of parameters that could not be read
            found = [fault for fault in found if not fault.key.startswith("hyperopt.enqueue")]
        faults += [fault for fault in found if fault.key not in {known.key for known in faults}]
        if (strategy := config.hyperopt.strategy) not in strategies:
            rule = f"this engine runs {' and '.join(strategies)}, found {strategy}"
            faults.append(Fault("hyperopt.strategy", rule, f"hyperopt={strategy}, which brings its engine"))
        if faults:
            raise ConfigError(faults)
        for warning in [*find_inert_keys(config, arguments), *find_left_out(config, space)]:
            log.warning(warning)
        config.hyperopt.resources_per_trial.gpu = share_of_card(config, space)
        return cls(_settle(config), space, named_by_time=named_by_time(cfg))

    @cached_property
    def settings(self) -> list[dict[str, Any]] | None:
        """Every setting that the search may try, by parameter name; None if the space is large or cannot be counted."""
        found = self.space.settings(_COUNTED)
        return None if found is None else [one for one in found if self.allows(one)]

    @cached_property
    def constraints(self) -> list[Constraint]:
        """The forbidden combinations."""
        return [Constraint.read(text) for text in self.config.hyperopt.constraints]

    def allows(self, values: Mapping[str, Any]) -> bool:
        """Whether settings by parameter name meet every constraint, and every bound that names a parameter."""
        if not self.restricts:
            return True
        known = {**self._named_values, **values}
        return self.space.keeps_bounds(values, known) and all(one.holds(known) for one in self.constraints)

    @property
    def restricts(self) -> bool:
        """Whether some settings of the space are not allowed."""
        return bool(self.constraints) or any(parameter.within for parameter in self.space)

    @cached_property
    def _named_values(self) -> dict[str, Any]:
        return named_values(self.config) | {one.name: value_at(self.config, one.path) for one in self.space}

    @property
    def sign(self) -> int:
        """1 if a greater metric is better, -1 if a smaller one is."""
        return 1 if self.config.hyperopt.mode == "max" else -1

    @property
    def enqueued(self) -> list[dict[str, Any]]:
        """Settings to try first by parameter name: the config's own if the space holds them, then ``given``."""
        values = {parameter.name: value_at(self.config, parameter.path) for parameter in self.space}
        default = {parameter.name: values[parameter.name] for parameter in self.space.in_play(values)}
        fits = self.config.hyperopt.enqueue_default and self.space.holds(values) and self.allows(default)
        wanted = [default] * fits + self.given
        # whole settings are trained once; what leaves some parameters open is another setting each time
        return [
            one for place, one in enumerate(wanted) if one not in wanted[:place] or not default.keys() <= one.keys()
        ]

    @property
    def given(self) -> list[dict[str, Any]]:
        """Settings to try next by parameter name: those of enqueue, and those of the space's own that are possible."""
        first = [dict(one) for one in self.space.first if why_impossible(self.config, self.space, one) is None]
        return self.config.hyperopt.enqueue + first

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.config.hyperopt.results_dir) / (self.folder_name or self.config.hyperopt.study_name)

    @property
    def at_once(self) -> int:
        """How many trials run at once; where the plan grows, as many as the cluster has room for now."""
        if not self.grows:
            return _at_once(self.config)
        hyperopt = self.config.hyperopt
        return min(self.room.count() * hyperopt.trials_per_pass, hyperopt.num_trials)

    @property
    def grows(self) -> bool:
        """Whether the search takes all that a cluster has."""
        return _takes_all(self.config)

    @property
    def passes(self) -> int:
        """How many workers these trials need: one each, or one for ``trials_per_pass`` of them."""
        return capacity.count_passes(self.config, self.at_once)

    @property
    def asha(self) -> bool:
        """Whether ASHA stops trials early."""
        return uses_asha(self.config)

    @property
    def pauses(self) -> bool:
        """Whether trials pause at rungs, and the best of them continue."""
        return self.asha and self.config.hyperopt.asha_type == "promotion"

    @property
    def loss_may_judge(self) -> bool:
        """Whether trials may be compared by their loss on dev: it is of the same tokens in each."""
        same = not any(parameter.path.startswith("data.") for parameter in self.space)
        return loss_may_judge(self.config) and (same or self.config.hyperopt.judge != "auto")

    @property
    def reports_per_trial(self) -> int:
        """Reports of a trial that uses its whole budget."""
        reports = self.config.training.stop_after or self.config.training.reports
        return min(reports, self.config.hyperopt.asha_max_t) if self.asha else reports

    @property
    def rungs(self) -> list[int]:
        """Reports at which ASHA compares trials, without the last one."""
        hyperopt, rungs = self.config.hyperopt, []
        rung = float(hyperopt.asha_grace_period or 1)
        while rung < self.reports_per_trial:
            rungs.append(math.ceil(rung))
            rung *= hyperopt.asha_reduction_factor
        return rungs

    def is_whole(self, values: Mapping[int, float]) -> bool:
        """Whether a trial has used its whole budget; values by report."""
        patience = None if self.asha else self.config.training.patience
        in_order = [values[report] for report in sorted(values)]
        return len(values) >= self.reports_per_trial or has_lost_patience(in_order, self.sign, patience)

    def leg(self, made: int) -> int:
        """Return how many reports a trial makes after the first ``made`` until ASHA judges it again or it ends."""
        stops = [*(self.rungs if self.asha else []), self.reports_per_trial]
        return next((stop - made for stop in stops if stop > made), 0)

    def trial_config(self, number: int, values: Mapping[str, Any]) -> Config:
        """Return the config of one trial; ``values`` by parameter name."""
        config = with_values(self.config, self.space.by_path(values))
        config.output_dir = str(self.folder / trial_name(number))
        config.search_space = {}
        if url := config.hyperopt.storage_url:
            config.hyperopt.storage_url = files.redact(url)  # the config is written to a file
        if self.reports_per_trial < config.training.reports:
            config.training.stop_after = self.reports_per_trial
        if self.asha:  # which decides when a trial ends
            config.training.patience = None
        if not config.tracking.trials:
            config.tracking.report_to = "none"
        absolute_paths(config)  # also of values that the search has set
        return config


_COUNTED = 10_000  # settings of a space that is small enough to be listed
ENQUEUED = "fixed_params"  # where Optuna keeps the settings of an enqueued trial; the name is not public


def trial_name(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial_{number:04d}"


def train_again(folder: str | Path) -> str:
    """Return the command that trains the best config of the study in ``folder``."""
    return f"python launch.py --config-dir {folder} --config-name best_config"


def _settle(config: Config) -> Config:
    """Set the values that depend on the machine, so that a trial's config alone repeats the trial."""
    wanted, fit = config.hyperopt.max_concurrent, _at_once(config)
    if wanted is not None and fit < wanted:
        log.warning(
            "hyperopt.max_concurrent=%d, but this machine's GPUs hold %d of its trials: %d at once%s",
            *(wanted, fit, fit),
            "; hyperopt.resources_per_trial.gpu=0.5 puts two on one, where memory allows it"
            if config.hyperopt.resources_per_trial.gpu is None
            else "",
        )
    if not _takes_all(config):
        config.hyperopt.max_concurrent = fit
    if config.training.threads is None:
        config.training.threads = max(1, int(cpus_per_trial(config)))
    gpu = config.hyperopt.resources_per_trial.gpu
    if gpu is not None and gpu > 1 and config.model.device_map is None:
        config.training.processes = int(gpu)
    if config.hyperopt.asha_grace_period is None and uses_asha(config):
        config.hyperopt.asha_grace_period = first_rung(config)
    return config


def cpus_per_trial(config: Config) -> float:
    """Return the CPUs of one trial, or of those that share a pass.

    They are the config's, else one on a cluster or a share of this machine.
    """
    wanted = config.hyperopt.resources_per_trial.cpu
    if wanted is None and config.hyperopt.ray_address is not None:
        return 1.0
    workers = capacity.count_passes(config, _at_once(config))
    return wanted if wanted is not None else max(0.01, round(capacity.cores() / workers, 2))


def _takes_all(config: Config) -> bool:
    """Return whether a search runs as many trials as its cluster has room for."""
    return config.hyperopt.max_concurrent is None and config.hyperopt.ray_address is not None


def _at_once(config: Config) -> int:
    """Return how many trials run at once: what the config says, as far as this machine's GPUs hold them."""
    wanted = config.hyperopt.max_concurrent
    if wanted is None:
        return capacity.trials_at_once(config)
    held = capacity.on_cards(config)
    return wanted if held is None else min(wanted, held)


_LAST = list(TrackingConfig.__dataclass_fields__)[-1]  # in the order of to_container


def read_saved_config(path: Path) -> Config:
    """Read a config that a study has written; its ``output_dir`` is where the file lies, wherever that was before.

    Raises:
        UserError: the file is damaged.
    """
    try:
        container = files.read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError):
        container = None
    # the last key is missing if the file was cut off
    if not isinstance(container, dict) or _LAST not in (container.get("tracking") or {}):
        raise UserError(f"{path} is damaged; fix: restore it from a copy, or search anew under another name")
    return check({**container, "output_dir": str(path.parent)})
