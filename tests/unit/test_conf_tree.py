"""Every file under ``conf/``: it composes, says how it is run, and its values are valid and agree with the schema."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistral_ner.config.check import read
from mistral_ner.config.schema import (
    BudgetConfig,
    DataConfig,
    HyperoptConfig,
    ModelConfig,
    TrackingConfig,
    TrainingConfig,
)
from mistral_ner.hyperopt.spec.plan import Plan

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"

# How many YAML files each group holds. Whoever adds one says so here; a test that finds fewer tests nothing.
COUNTS = {
    "": 1,
    "budget": 3,
    "data": 4,
    "debug": 2,
    "hyperopt": 5,
    "model": 12,
    "search_space": 5,
    "tracking": 4,
    "training": 2,
}
SEARCHES = ("asha", "combined", "optuna", "random")
FILES = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml"))
OPTIONS = [name.removesuffix(".yaml").split("/") for name in FILES if "/" in name]

# What a selected option needs beside it: no file of ours can know where a person's sentences lie.
NEEDS = {("data", "files"): ["data.train_file=train.txt"]}


def test_the_count_of_files() -> None:
    found: dict[str, int] = dict.fromkeys(COUNTS, 0)
    for name in FILES:
        group = name.rpartition("/")[0]
        found[group] = found.get(group, 0) + 1
    assert found == COUNTS
    assert len(FILES) == sum(COUNTS.values())
    assert [path for path in CONF.rglob("*") if path.is_file() and path.suffix != ".yaml"] == []


def test_the_table_of_contents() -> None:
    defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    assert defaults[0] == "_self_"
    order = [next(iter(entry)) for entry in defaults[1:]]
    assert order == ["data", "training", "search_space", "hyperopt", "budget", "model", "tracking", "debug"]
    lines = (CONF / "config.yaml").read_text(encoding="utf-8").splitlines()
    for group in order:
        line = next(line for line in lines if line.lstrip().startswith(f"- {group}:"))
        assert "#" in line, f"{group}: each line of the table of contents says what the group is"


@pytest.mark.parametrize("name", FILES)
def test_begins_with_the_command_that_runs_it(name: str) -> None:
    comments = []
    for line in (CONF / name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line)
    assert comments, "the first line must be a comment"
    if name.startswith(("hyperopt/", "debug/")) and _is_global(name):
        assert comments.pop(0) == "# @package _global_"
    head = "\n".join(comments)
    assert re.search(r"(python launch\.py|make [a-z]+)", head), "the head must hold the command that runs it"
    if "/" in name and not name.startswith(("budget/", "training/")) and name != "hyperopt/none.yaml":
        group, option = name.removesuffix(".yaml").split("/")
        assert f"{group}={option}" in head, "the command must choose this very file"


def _is_global(name: str) -> bool:
    return name != "hyperopt/none.yaml"  # the default, a plain training, changes nothing outside its group


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_is_a_valid_config(compose: Any, group: str, option: str) -> None:
    config, faults = read(_composed(compose, group, option))
    assert [str(fault) for fault in faults] == []
    assert config is not None


def test_every_file_can_be_chosen() -> None:
    """Hydra offers each file in --help and to the shell: none may be a part that only other files use."""
    assert [name for name in FILES if "base" in name] == []


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "search_space"])
@pytest.mark.parametrize("strategy", SEARCHES)
def test_every_search_space_suits_every_strategy(compose: Any, strategy: str, option: str) -> None:
    plan = Plan.of(_composed(compose, "search_space", option, f"hyperopt={strategy}"))
    block = yaml.safe_load((CONF / f"search_space/{option}.yaml").read_text(encoding="utf-8"))
    own = set(block) - {"defaults"}
    assert own <= {parameter.name for parameter in plan.space}
    assert len(plan.space) >= 4


@pytest.mark.parametrize(("group", "option"), [(group, option) for group, option in OPTIONS if group != "hyperopt"])
def test_every_option_can_be_searched(compose: Any, group: str, option: str) -> None:
    Plan.of(_composed(compose, group, option, "hyperopt=combined"))


@pytest.mark.parametrize("strategy", SEARCHES)
def test_a_strategy_chooses_its_engine_by_composition(strategy: str) -> None:
    text = (CONF / f"hyperopt/{strategy}.yaml").read_text(encoding="utf-8")
    engine = re.search(r"override /hydra/sweeper: (\w+)", text)
    assert engine is not None
    assert ("ray" in engine[1]) == (strategy in ("combined", "asha"))
    assert f"strategy: {strategy}" in text


@pytest.mark.parametrize(
    ("schema", "group", "option"),
    [
        (TrainingConfig, "training", "default"),
        (ModelConfig, "model", "minilm"),
        (DataConfig, "data", "sample"),
        (BudgetConfig, "budget", "default"),
        (TrackingConfig, "tracking", "none"),
        (HyperoptConfig, "hyperopt", "none"),
    ],
)
def test_yaml_defaults_are_those_of_the_schema(
    compose: Any, monkeypatch: pytest.MonkeyPatch, schema: type, group: str, option: str
) -> None:
    """``fit`` called with parts of a config and ``launch.py`` without overrides mean the same."""
    monkeypatch.delenv("MISTRAL_NER_CACHE", raising=False)
    config, _ = read(_composed(compose, group, option))
    plain, _ = read({"output_dir": "out"})
    assert config is not None
    assert plain is not None
    mine, theirs = vars(getattr(config, group)), vars(getattr(plain, group))
    ours = {"study_name"} if schema is HyperoptConfig else set()  # carries the time
    assert {key: value for key, value in mine.items() if key not in ours} == {
        key: value for key, value in theirs.items() if key not in ours
    }


def test_every_key_of_the_schema_stands_in_the_tree(compose: Any) -> None:
    """A key that only the dataclass knows could not be overridden without a plus."""
    cfg = compose()
    for schema, group in (
        (TrainingConfig, "training"),
        (ModelConfig, "model"),
        (DataConfig, "data"),
        (BudgetConfig, "budget"),
        (TrackingConfig, "tracking"),
        (HyperoptConfig, "hyperopt"),
    ):
        assert set(cfg[group]) == set(schema.__dataclass_fields__), group  # type: ignore[attr-defined]


def test_the_quick_option_is_quick(compose: Any) -> None:
    config, faults = read(_composed(compose, "debug", "quick"))
    assert not faults
    assert config is not None
    assert config.training.reports == 1
    assert (config.data.max_train_sentences or 1000) <= 64
    assert config.tracking.report_to == "none"


def _composed(compose: Any, group: str, option: str, *overrides: str) -> Any:
    needed = [f"output_dir=out{len(overrides)}", *NEEDS.get((group, option), [])]
    return compose(f"{group}={option}", *overrides, *needed)


def test_a_script_composes_a_search_without_another_import() -> None:
    """As the docstring of ``search`` says; in a process of its own, since the fixture above registers the engines."""
    code = (
        "from hydra import compose, initialize_config_dir\n"
        "from mistral_ner.hyperopt import search\n"
        f"with initialize_config_dir({str(ROOT / 'conf')!r}):\n"
        "    print(compose('config', ['hyperopt=combined', 'output_dir=.']).hyperopt.strategy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "combined\n", done.stderr
