"""The names of the reference document: an optimizer object for any objective, and its arguments."""

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
from mistral_ner.config.check import check
from mistral_ner.config.schema import Config, to_container
from mistral_ner.errors import ConfigError, UserError
from mistral_ner.hyperopt.dispatch import search, without_hydra
from mistral_ner.hyperopt.engines.trial import Objective
from mistral_ner.hyperopt.results.found import Result, SearchResult
from mistral_ner.hyperopt.spec.parse import parse

Report = Callable[[int, dict[str, float]], bool | None]


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
        base = objective.base if isinstance(objective, _Fit) else check(without_hydra(cfg))
        hyperopt = check({**to_container(base), "hyperopt": _container(self.hyperopt)}).hyperopt
        config = replace(base, hyperopt=hyperopt, search_space=_block(search_space))
        config.training.metric, config.training.mode = hyperopt.metric, hyperopt.mode
        return Results(search(config, None if isinstance(objective, _Fit) else objective))


@dataclass(frozen=True)
class Results:
    """What a search found; ``summary`` has the figures."""

    summary: SearchResult

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.summary.folder

    def get_best_result(self) -> Result:
        """Return the best trial."""
        return self.summary.best


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
    config = check(without_hydra(base_config))
    if train_dataset is not None:
        # of the data in the config, which these rows take the place of
        config.data.test_file = config.data.hub_name = config.data.hub_config = config.data.hub_revision = None
    for key, rows in (("train_file", train_dataset), ("dev_file", eval_dataset), ("test_file", test_dataset)):
        if rows is not None:
            config.data.source, config.data.format = "files", "jsonl"
            setattr(config.data, key, str(_save(rows, Path(config.data.cache_dir), config)))
    return _Fit(config)


def _save(rows: Iterable[Mapping[str, Any]], cache: Path, config: Config) -> Path:
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
    from mistral_ner.hyperopt.spec.ray_space import RayTuneSearchSpace

    block = _container(cfg)
    space, faults = parse(block.get("search_space", block))
    if faults:
        raise ConfigError(faults)
    return RayTuneSearchSpace(space)


def _block(space: Mapping[str, Any]) -> dict[str, Any]:
    from mistral_ner.hyperopt.spec.ray_space import to_block

    return to_block(_container(space) if isinstance(space, DictConfig) else space)


def _container(cfg: Any) -> dict[str, Any]:
    """Return a config, or a group of one, as plain dicts."""
    if isinstance(cfg, DictConfig):
        whole: Any = OmegaConf.to_container(cfg, resolve=True)
        return dict(whole)
    return asdict(cfg) if is_dataclass(cfg) and not isinstance(cfg, type) else dict(cfg)
