"""A search from a script or a notebook: one plain function, or an optimizer object around any objective.

from hydra import compose, initialize
from mistral_ner.hyperopt import search

with initialize("conf"):
    summary = search(compose("config", ["hyperopt=combined", "output_dir=."]))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mistral_ner import files
from mistral_ner.config import Config, ConfigError, UserError, check, to_container
from mistral_ner.hyperopt.leader import look
from mistral_ner.hyperopt.plan import Plan, trial_name
from mistral_ner.hyperopt.results import Summary
from mistral_ner.hyperopt.search_space import parse
from mistral_ner.hyperopt.worker import Objective
from mistral_ner.progress import best_report, reports_on_disk

Report = Callable[[int, dict[str, float]], bool | None]


def search(cfg: DictConfig | Mapping[str, Any] | Config, objective: Objective | None = None) -> Summary:
    """Run the whole search that ``cfg`` describes, as ``python launch.py -m`` would, and return its summary.

    Args:
        cfg: a composed config; ``output_dir`` is not used (the study lies in ``results_dir/study_name``).
        objective: called as ``objective(trial_config, report)`` for each trial, in a worker process; reports by
            ``report(number, metrics)`` with ``number`` counted from 1, and ends when that returns True. Left out,
            :func:`mistral_ner.train.fit`. It must be picklable by cloudpickle, as a function of a notebook is.

    Raises:
        ConfigError: names every fault of the config, before anything is created.
        UserError: the study exists and is not to be resumed, or no trial completed.
    """
    plan = Plan.of(_plain(cfg))
    if objective is None:
        from mistral_ner.prepare import prepare

        prepare(plan.config)
    if plan.asha:
        from mistral_ner.hyperopt import ray_tune

        return ray_tune.search(plan, objective)
    from mistral_ner.hyperopt import optuna_sweep

    return optuna_sweep.search(plan, objective)


def _plain(cfg: DictConfig | Mapping[str, Any] | Config) -> DictConfig | Mapping[str, Any] | Config:
    """Return a composed config without Hydra's own part and with an ``output_dir``, which only a job has."""
    if not isinstance(cfg, DictConfig):
        return cfg
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    OmegaConf.set_struct(task, False)
    task.output_dir = "."
    return task


class HyperparameterOptimizer:
    """Runs searches; a context manager, for what a search leaves in memory.

    Args:
        hyperopt: the ``hyperopt`` group of a composed config; it takes the place of the one in the config given to
            :meth:`optimize`.
    """

    def __init__(self, hyperopt: DictConfig | Mapping[str, Any] | Any) -> None:
        self.hyperopt = hyperopt

    def __enter__(self) -> HyperparameterOptimizer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        from mistral_ner.model import forget_base

        forget_base()

    def optimize(self, objective: Objective, search_space: Mapping[str, Any], cfg: Any) -> Results:
        """Search ``search_space`` for the best value of ``objective`` under ``cfg``.

        Args:
            objective: from :func:`create_objective_function`, or any ``objective(trial_config, report)``.
            search_space: from :func:`create_ray_tune_search_space`, or a ``search_space`` block of YAML.
            cfg: the composed config that every trial starts from.

        Raises:
            ConfigError: names every fault of the config.
            UserError: the study exists and is not to be resumed, or no trial completed.
        """
        base = objective.base if isinstance(objective, _Fit) else check(_plain(cfg))
        hyperopt = check({**to_container(base), "hyperopt": _container(self.hyperopt)}).hyperopt
        config = replace(base, hyperopt=hyperopt, search_space=_block(search_space))
        config.training.metric, config.training.mode = hyperopt.metric, hyperopt.mode
        summary = search(config, None if isinstance(objective, _Fit) else objective)
        return Results(summary, Path(hyperopt.results_dir) / hyperopt.study_name)


@dataclass(frozen=True)
class Result:
    """One trial: the metrics of its best report, its settings by parameter name, and its folder."""

    metrics: dict[str, Any]
    config: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Results:
    """What a search found; ``summary`` has the figures."""

    summary: Summary
    folder: Path

    def get_best_result(self) -> Result:
        """Return the best trial."""
        assert self.summary.best_trial is not None, "a search without a complete trial raises"
        folder = self.folder / trial_name(self.summary.best_trial)
        metrics: dict[str, Any] = {self.summary.metric: self.summary.best_value}
        row = best_report(reports_on_disk(folder), self.summary.metric, look(self.folder).plan.sign)
        return Result(row or metrics, dict(self.summary.best_params), folder)


@dataclass(frozen=True)
class _Fit:
    """The objective of every search, on data given as objects."""

    base: Config

    def __call__(self, config: Config, report: Report | None = None) -> float:
        from mistral_ner.train import fit

        return fit(config, report)


def create_objective_function(
    base_config: DictConfig | Mapping[str, Any] | Config,
    hyperopt_config: Any = None,
    train_dataset: Iterable[Mapping[str, Any]] | None = None,
    eval_dataset: Iterable[Mapping[str, Any]] | None = None,
    data_collator: Any = None,
    test_dataset: Iterable[Mapping[str, Any]] | None = None,
) -> Objective:
    """Return the objective that trains a tagger, for :meth:`HyperparameterOptimizer.optimize`.

    Args:
        base_config: the composed config; it says the data too, unless data sets are given.
        hyperopt_config: not needed, :class:`HyperparameterOptimizer` has it; taken so that calls can name it.
        train_dataset, eval_dataset, test_dataset: rows with ``tokens`` (words) and ``ner_tags`` (tags as text, or
            numbers of a ClassLabel), such as a ``datasets.Dataset`` has; written once to ``data.cache_dir`` for the
            workers. What is not given beside a training set is split off from it, as for files (``data.dev_fraction``).
        data_collator: a DataCollatorForTokenClassification or None: batches are padded that way in any case.

    Raises:
        ConfigError: names every fault of the config.
        UserError: a data collator that does something else, or rows without those columns.
    """
    if data_collator is not None and type(data_collator).__name__ != "DataCollatorForTokenClassification":
        raise UserError(
            f"data_collator must be a DataCollatorForTokenClassification or None, found "
            f"{type(data_collator).__name__}; fix: leave it out, batches are padded to their longest sentence"
        )
    config = check(_plain(base_config))
    if train_dataset is not None:
        config.data.test_file = None  # of the data in the config, which these rows take the place of
    for key, rows in (("train_file", train_dataset), ("dev_file", eval_dataset), ("test_file", test_dataset)):
        if rows is not None:
            config.data.source, config.data.format = "files", "jsonl"
            setattr(config.data, key, str(_saved(rows, Path(config.data.cache_dir), config)))
    return _Fit(config)


def _saved(rows: Iterable[Mapping[str, Any]], cache: Path, config: Config) -> Path:
    """Write rows as JSON lines under their content's name."""
    data, names = config.data, _class_names(rows, config.data.tags_key)
    lines = []
    for row in rows:
        if data.tokens_key not in row or data.tags_key not in row:
            raise UserError(
                f"every row of a data set must have {data.tokens_key!r} and {data.tags_key!r}, found {sorted(row)}; "
                f"fix: data.tokens_key=… data.tags_key=…"
            )
        tags = [names[tag] if names and isinstance(tag, int) else tag for tag in row[data.tags_key]]
        lines.append(json.dumps({data.tokens_key: list(row[data.tokens_key]), data.tags_key: tags}, ensure_ascii=False))
    text = "\n".join(lines) + "\n"
    path = cache / "given" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    if not path.exists():
        files.write_text(path, text)
    return path


def _class_names(rows: Any, key: str) -> list[str] | None:
    feature = getattr(rows, "features", {}).get(key)
    return getattr(getattr(feature, "feature", None), "names", None)


def create_ray_tune_search_space(cfg: Any) -> dict[str, Any]:
    """Return the search space of a composed config (or of a group that has one) as Ray Tune's own domains by name.

    Raises:
        ConfigError: names every fault of the space.
    """
    from mistral_ner.hyperopt.ray_space import RayTuneSearchSpace

    block = _container(cfg)
    space, faults = parse(block.get("search_space", block))
    if faults:
        raise ConfigError(faults)
    return RayTuneSearchSpace(space)


def _block(space: Mapping[str, Any]) -> dict[str, Any]:
    from mistral_ner.hyperopt.ray_space import to_block

    return to_block(_container(space) if isinstance(space, DictConfig) else space)


def _container(cfg: Any) -> dict[str, Any]:
    """Return a config, or a group of one, as plain dicts."""
    if isinstance(cfg, DictConfig):
        whole: Any = OmegaConf.to_container(cfg, resolve=True)
        return dict(whole)
    return asdict(cfg) if is_dataclass(cfg) and not isinstance(cfg, type) else dict(cfg)
