"""Search spaces from the command line, and the reference document's blocks as a person pastes them: dry runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import files_in, launch, shown, words

DEFAULT_SPACE = {
    "learning_rate": "training.learning_rate loguniform(0.0002, 0.004) around 0.001, width 2",
    "lora_r": "model.lora_r choice(4, 8, 16, 32)",
    "per_device_train_batch_size": "training.per_device_train_batch_size choice(4, 8)",
    "warmup_ratio": "training.warmup_ratio uniform(0, 0.2)",
    "weight_decay": "training.weight_decay loguniform(0.0001, 0.1)",
}

SPACES: list[tuple[list[str], dict[str, str | None]]] = [
    ([], {}),
    (
        ["search_space=lora_wide"],
        {
            "lora_dropout": "model.lora_dropout uniform(0, 0.3)",
            "lora_alpha_ratio": "model.lora_alpha_ratio choice(0.5, 1, 2, 4)",
            "lora_target_modules": "model.lora_target_modules choice(all-linear, auto)",
            "bidirectional": "model.bidirectional choice(True, False)",
            "min_steps": "training.min_steps int(200, 1200)",
            "head_lr_ratio": "training.head_lr_ratio choice(1, 2, 5, 10)",
            "focal_gamma": "training.focal_gamma choice(0, 1, 2)",
        },
    ),
    (
        ["search_space.learning_rate.high=3e-4"],
        {"learning_rate": "training.learning_rate loguniform(0.0002, 0.0003) around 0.001, width 2"},
    ),
    (["search_space.lora_r.choices=[8,16]"], {"lora_r": "model.lora_r choice(8, 16)"}),
    (["~search_space.warmup_ratio"], {"warmup_ratio": None}),
    (
        ["+search_space.lora_dropout={type: uniform, low: 0, high: 0.3}"],
        {"lora_dropout": "model.lora_dropout uniform(0, 0.3)"},
    ),
    (
        ["training.learning_rate=tag(log, interval(1e-5,1e-3))"],
        {"learning_rate": "training.learning_rate loguniform(1e-05, 0.001)"},
    ),
    (["model.lora_r=choice(8,16)"], {"lora_r": "model.lora_r choice(8, 16)"}),
    (["training.weight_decay=0.01"], {"weight_decay": None}),
    (
        ["model.lora_dropout=interval(0,0.3)", "training.num_epochs=2,4", "seed=choice(1,2)"],
        {
            "lora_dropout": "model.lora_dropout uniform(0, 0.3)",
            "num_epochs": "training.num_epochs choice(2, 4)",
            "seed": "seed choice(1, 2)",
        },
    ),
]


@pytest.mark.parametrize(("overrides", "changes"), SPACES, ids=[" ".join(item[0]) or "default" for item in SPACES])
@pytest.mark.parametrize("strategy", ["combined", "optuna"])  # one for each engine
def test_search_space_from_the_command_line(
    tmp_path: Path, strategy: str, overrides: list[str], changes: dict[str, str | None]
) -> None:
    done = launch(tmp_path, "-m", f"hyperopt={strategy}", *overrides, "hyperopt.dry_run=true")
    assert done.returncode == 0, shown(done)
    expected = {name: text for name, text in {**DEFAULT_SPACE, **changes}.items() if text is not None}
    listed = {}
    for line in done.stdout.splitlines():
        cells = line.strip("│┃║ ").split(maxsplit=2)
        if len(cells) == 3 and re.match(r"(\w+\.)?\w+$", cells[1]) and re.match(r"[a-z]+\(", cells[2]):
            listed[cells[0]] = words(" ".join(cells[1:])).rstrip("│ ")
    assert listed == expected, shown(done)
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("strategy", ["combined", "optuna"])
def test_settings_to_try_first(tmp_path: Path, strategy: str) -> None:
    """After the default and what is enqueued; what no trial can have is named."""
    first = "+search_space.first=[{learning_rate: 5e-4, lora_r: 8}, {learning_rate: 1.0}, {lora_r: 32}, {lora_r: 4}]"
    overrides = [first, "hyperopt.enqueue=[{lora_r: 16}]", "hyperopt.constraints=['lora_r <= 16']"]
    done = launch(tmp_path, "-m", f"hyperopt={strategy}", *overrides, "hyperopt.dry_run=true")
    assert done.returncode == 0, shown(done)
    given = [line.partition("given: ")[2] for line in done.stdout.splitlines() if " is given: " in line]
    assert given[0].startswith("learning_rate=0.001  lora_r=16"), shown(done)
    assert given[1:] == ["lora_r=16", "learning_rate=0.0005  lora_r=8", "lora_r=4"], shown(done)
    said = words(done.stdout + done.stderr)
    assert "search_space.first[1] is left out: learning_rate=1.0 is not in loguniform(0.0002, 0.004)" in said
    assert "search_space.first[2] is left out: every trial must meet lora_r <= 16" in said
    assert files_in(tmp_path) == set()


def test_an_unknown_parameter_names_the_nearest_real_key(tmp_path: Path) -> None:
    done = launch(tmp_path, "-m", "hyperopt=combined", "+search_space.learning_rat={type: uniform, low: 0, high: 1}")
    assert done.returncode == 1, shown(done)
    assert "no config key is named 'learning_rat' (did you mean 'learning_rate'?)" in done.stderr


PASTED = """\
search_space:
  # Continuous parameters
  learning_rate:
    type: "loguniform"
    low: 1e-5
    high: 1e-3
  warmup_ratio:
    type: "uniform"
    low: 0.0
    high: 0.1
  # Discrete parameters
  lora_r:
    type: "choice"
    choices: [8, 16, 32, 64]
  # Integer parameters
  num_epochs:
    type: "int"
    low: 1
    high: 10
"""


@pytest.mark.parametrize("strategy", ["combined", "asha", "optuna", "random"])
def test_a_pasted_block_from_any_folder(tmp_path: Path, small: list[str], strategy: str) -> None:
    """The reference document's block, with its head, its comments and its ``1e-5``, in a folder of the user's."""
    space = tmp_path / "mine" / "search_space" / "pasted.yaml"
    space.parent.mkdir(parents=True)
    space.write_text(PASTED, encoding="utf-8")
    free = [override for override in small if "num_epochs" not in override]  # a plain value would pin it
    arguments = ["--config-dir", str(tmp_path / "mine"), f"hyperopt={strategy}", "search_space=pasted", *free]
    before = files_in(tmp_path)
    done = launch(tmp_path, *arguments, "hyperopt.dry_run=true", "-m")
    assert done.returncode == 0, shown(done)
    for row in (
        "learning_rate training.learning_rate loguniform(",
        "warmup_ratio training.warmup_ratio uniform(",
        "lora_r model.lora_r choice(",
        "num_epochs training.num_epochs int(",
    ):
        assert row in words(done.stdout), shown(done)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("strategy", ["combined", "asha", "optuna", "random"])
def test_every_form_on_every_strategy(tmp_path: Path, strategy: str) -> None:
    """All in one command line; a condition, too."""
    overrides = [
        *("search_space=lora_wide", "search_space.learning_rate.high=3e-4", "search_space.lora_r.choices=[8,16]"),
        *("~search_space.warmup_ratio", "+search_space.max_grad_norm={type: uniform, low: 0.5, high: 2, step: 0.5}"),
        "+search_space.lora_alpha={type: loguniform, low: 1, high: 64, when: {lora_r: 8}}",
        *("model.lora_dropout=tag(log, interval(1e-3,1e-1))", "training.per_device_train_batch_size=choice(4,8)"),
        *("training.weight_decay=0.01", "seed=1,2", "training.gradient_accumulation_steps=tag(log, interval(1,4))"),
    ]
    done = launch(tmp_path, "-m", f"hyperopt={strategy}", *overrides, "hyperopt.dry_run=true")
    assert done.returncode == 0, shown(done)
    for row in (
        "learning_rate training.learning_rate loguniform(0.0002, 0.0003) around 0.001, width 2",
        "lora_r model.lora_r choice(8, 16)",
        "max_grad_norm training.max_grad_norm uniform(0.5, 2, step 0.5)",
        "lora_alpha model.lora_alpha loguniform(1, 64) when lora_r=8",
        "lora_dropout model.lora_dropout loguniform(0.001, 0.1)",
        "per_device_train_batch_size training.per_device_train_batch_size choice(4, 8)",
        "seed seed choice(1, 2)",
        "gradient_accumulation_steps training.gradient_accumulation_steps logint(1, 4)",
    ):
        assert row in words(done.stdout), shown(done)
    assert "weight_decay training" not in words(done.stdout)
    assert "warmup_ratio training" not in words(done.stdout)
    assert list(tmp_path.iterdir()) == []


# the reference document's keys, as they stand there in several blocks
DOCUMENT = """\
hyperopt:
  enabled: true
  strategy: "combined"  # Recommended: Bayesian + Hyperband
  optuna_enabled: true
  asha_enabled: true
  num_trials: 50           # Total trials to run
  max_concurrent: 4        # Parallel trials
  timeout: 3600           # Max time in seconds
  metric: "eval_f1"
  mode: "max"             # "max" or "min"
  optuna_sampler: "TPE"           # TPE, CMA, Random, GPSampler
  optuna_pruner: "median"         # median, hyperband, none
  optuna_n_startup_trials: 10
  asha_max_t: 100                 # Max training iterations
  asha_grace_period: 10           # Min iterations before pruning
  asha_reduction_factor: 3        # Aggressiveness of pruning
  results_dir: "./hyperopt_results"
  study_name: "mistral_ner_optimization"
  log_to_file: true
  search_space:
    learning_rate:
      type: "loguniform"
      low: 1e-5
      high: 1e-3
    lora_r:
      type: "choice"
      choices: [8, 16, 32, 64]
"""


def test_the_whole_pasted_block(tmp_path: Path) -> None:
    """In a config of one's own, without a word about the engine, and without -m."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.yaml").write_text("defaults: [config, _self_]\n" + DOCUMENT, encoding="utf-8")
    arguments = ["--config-dir", str(folder), "--config-name", "mine", "training.reports=100", "hyperopt.dry_run=true"]
    before = files_in(tmp_path)
    done = launch(tmp_path, *arguments)
    assert done.returncode == 0, shown(done)
    text = words(done.stdout)
    for fact in (
        "study mistral_ner_optimization in ",
        "hyperopt_results/mistral_ner_optimization",
        "strategy combined",
        "early stopping ASHA (stopping) at reports 10, 30, 90 of 100, one in 3 goes on, judged by eval_loss at first",
        "budget 50 trials, 4 at once, 3600 s, final trainings included",
        "learning_rate training.learning_rate loguniform(1e-05, 0.001) lora_r model.lora_r choice(8, 16, 32, 64)",
        "hyperopt.optuna_pruner does nothing with hyperopt=combined (acts with optuna)",  # set in a file, not typed
    ):
        assert fact in words(done.stdout + done.stderr), shown(done)
    assert "weight_decay" not in text, "the block's own space, not the one of conf/"
    assert files_in(tmp_path) == before
