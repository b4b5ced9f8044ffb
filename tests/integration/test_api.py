"""A search from a script: the reference document's own lines, and the one plain function, with real trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import DataCollatorForTokenClassification

from mistral_ner.errors import UserError
from mistral_ner.hyperopt import (
    HyperparameterOptimizer,
    create_objective_function,
    create_ray_tune_search_space,
    search,
)

TAGS = ["O", "B-PER", "I-PER", "B-LOC"]


def rows(path: str) -> Dataset:
    """A data set as users hold it: words and class numbers."""
    sentences = [block.splitlines() for block in Path(path).read_text().split("\n\n") if block.strip()]
    pairs = [[line.split("\t") for line in lines] for lines in sentences]
    columns = {
        "tokens": [[word for word, _ in sentence] for sentence in pairs],
        "ner_tags": [[TAGS.index(tag) for _, tag in sentence] for sentence in pairs],
    }
    names = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=TAGS))})
    return Dataset.from_dict(columns, features=names)


@pytest.fixture
def cfg(compose: Any, toy_files: dict[str, str], tmp_path: Path) -> Any:
    paths = [f"data.{name}={path}" for name, path in toy_files.items()]
    return compose(
        *("hyperopt=combined", "model=tiny", "data=files", *paths, f"data.cache_dir={tmp_path}/cache"),
        *("training.reports=3", "training.num_epochs=2", "training.threads=1", "output_dir=."),
        *("hyperopt.num_trials=3", "hyperopt.max_concurrent=2", "hyperopt.final.enabled=false"),
        *(f"hyperopt.results_dir={tmp_path}", "hyperopt.study_name=s"),
    )


def test_the_lines_of_the_reference_document(cfg: Any, toy_files: dict[str, str], tmp_path: Path) -> None:
    with HyperparameterOptimizer(cfg.hyperopt) as optimizer:
        objective = create_objective_function(
            base_config=cfg,
            hyperopt_config=cfg.hyperopt,
            train_dataset=rows(toy_files["train_file"]),
            eval_dataset=rows(toy_files["dev_file"]),
            data_collator=None,
            test_dataset=rows(toy_files["test_file"]),
        )
        space = create_ray_tune_search_space(cfg)
        results = optimizer.optimize(objective, space, cfg)
        best = results.get_best_result()
    assert 0 <= best.metrics["eval_f1"] <= 1
    assert best.metrics["eval_f1"] == pytest.approx(results.summary.best_value)
    assert set(best.config) == set(cfg.search_space)
    trained = yaml.safe_load((best.folder / "config.yaml").read_text())
    assert trained["training"]["learning_rate"] == pytest.approx(best.config["learning_rate"])
    assert trained["data"]["train_file"].startswith(str(tmp_path / "cache" / "given")), "the rows that were given"
    assert results.summary.n_trials == 3


def test_one_plain_function(cfg: Any, tmp_path: Path) -> None:
    cfg.hyperopt.strategy, cfg.hyperopt.optuna_sampler = "random", "Random"
    cfg.hyperopt.max_concurrent = 1
    cfg.hyperopt.num_trials = 2
    summary = search(cfg)
    assert (summary.n_trials, summary.n_complete, summary.reports_run) == (2, 2, 6)
    assert (tmp_path / "s" / "best_config.yaml").is_file()


def test_another_collator_is_refused(cfg: Any) -> None:
    create_objective_function(base_config=cfg, data_collator=DataCollatorForTokenClassification(tokenizer=None))
    with pytest.raises(UserError, match=r"data_collator must be a DataCollatorForTokenClassification or None, found "):
        create_objective_function(base_config=cfg, data_collator=print)
