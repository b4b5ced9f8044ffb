"""Starts every search: the Hydra sweepers, scripts and ``resume`` call it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mistral_ner.config.schema import Config
from mistral_ner.environment import forget_other_launchers
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.spec.plan import Plan

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mistral_ner.hyperopt.engines.trial import Objective
    from mistral_ner.hyperopt.results.found import SearchResult
    from mistral_ner.hyperopt.results.summary import Summary


def search(cfg: DictConfig | Mapping[str, Any] | Config, objective: Objective | None = None) -> SearchResult:
    """Run the whole search that ``cfg`` describes, as ``python launch.py -m`` would, and return what it found::

        from hydra import compose, initialize
        from mistral_ner.hyperopt import search

        with initialize("conf"):
            found = search(compose("config", ["hyperopt=combined", "output_dir=."]))
        found.best, found.trials, found.report()

    Args:
        cfg: a composed config; ``output_dir`` is not used (the study lies in ``results_dir/study_name``).
        objective: called as ``objective(trial_config, report)`` for each trial, in a worker process; reports by
            ``report(number, metrics)`` with ``number`` counted from 1, and ends when that returns True. Left out,
            :func:`mistral_ner.train.fit`. It must be picklable by cloudpickle, as a function of a notebook is.

    Raises:
        ConfigError: names every fault of the config, before anything is created.
        UserError: the data, the model or a tracker cannot be used, the study exists and is not to be resumed, or no
            trial completed.
    """
    forget_other_launchers()
    warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's in a notebook, of a widget that is not needed
    plan = Plan.of(without_hydra(cfg))
    summary = run_search(plan, objective)
    from mistral_ner.hyperopt.results.found import SearchResult  # late, as the engines

    return SearchResult(**vars(summary), folder=plan.folder)


def run_search(plan: Plan, objective: Objective | None = None, launcher: Any = None) -> Summary:
    """Check everything that the trials will need, then run the search on its engine.

    Args:
        plan: the checked search.
        objective: as for :func:`search`.
        launcher: a Hydra launcher that is set up, for the Hydra Optuna sweeper engine; None for trials without one.

    Raises:
        UserError: as for :func:`search`.
    """
    if objective is not None and (together := plan.config.hyperopt.trials_per_pass) > 1:
        raise UserError(
            f"hyperopt.trials_per_pass={together}: only the default objective, which trains a tagger, shares "
            "passes of the base model; fix: hyperopt.trials_per_pass=1"
        )
    from mistral_ner.hyperopt.mirror.keep import keep  # late: it imports Optuna

    with keep(plan):
        return _run(plan, objective, launcher)


def _run(plan: Plan, objective: Objective | None, launcher: Any) -> Summary:
    if objective is None:  # data or a model that cannot be read is found before a study exists
        from mistral_ner.training.inputs.check import check_inputs

        splits = check_inputs(plan.config)
        from mistral_ner.training.inputs.prepare import describe_data  # late: transformers comes after bad data

        log.info("what was read:\n%s", describe_data(plan.config, splits))
        _check_memory(plan, launcher)
        _check_lengths(plan)
        _check_kind(plan)
    if plan.asha:
        from mistral_ner.hyperopt.engines import ray_tune

        return ray_tune.run(plan, objective)
    from mistral_ner.hyperopt.engines import optuna_sweeper

    return optuna_sweeper.run(plan, launcher, objective)


def _check_memory(plan: Plan, launcher: Any) -> None:
    """Check that this machine can hold the model; where others train, each trial checks its own.

    Raises:
        OutOfMemoryError: it cannot.
    """
    from mistral_ner.training.inputs.prepare import prepare
    from mistral_ner.training.memory import refuse_what_cannot_fit

    here = launcher is None or type(launcher).__name__ in ("BasicLauncher", "JoblibLauncher")
    if here and plan.config.hyperopt.ray_address is None:
        tokenizer, data = prepare(plan.config)
        refuse_what_cannot_fit(plan.config, len(data.labels), len(tokenizer))


def _check_lengths(plan: Plan) -> None:
    """Check the windows' lengths that the search may try against the model's positions.

    Raises:
        ConfigError: the model has fewer.
    """
    from mistral_ner.model.limits import choose_max_length

    for parameter in plan.space:
        if parameter.path == "data.max_length":
            for length in parameter.extremes():
                choose_max_length(plan.config.model, length)


def _check_kind(plan: Plan) -> None:
    """Check that trials can go through the model together, if they are to.

    Raises:
        ConfigError: they cannot.
    """
    if plan.config.hyperopt.trials_per_pass > 1:
        from mistral_ner.model.together.network import check_kind

        lengths = [one.extremes() for one in plan.space if one.path == "data.max_length"]
        longest = max(lengths[0]) if lengths else plan.config.data.max_length
        check_kind(plan.config.model, longest)


def without_hydra(cfg: DictConfig | Mapping[str, Any] | Config) -> DictConfig | Mapping[str, Any] | Config:
    """Return a composed config without Hydra's own part and with an ``output_dir``, which only a job has."""
    if not isinstance(cfg, DictConfig):
        return cfg
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    OmegaConf.set_struct(task, False)
    task.output_dir = "."
    return task
