"""Faults of the config, typed into the real command: all of them at once, each with its fix, and nothing created."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import Done, files_in, launch, shown, words

TRAINING_FAULTS = {
    "seed=-1": "seed: must be at least 0, found -1",
    "model.model_name=null": "model.model_name: must be text, found None",
    "model.dtype=fp16": "(did you mean 'float16'?), found 'fp16'",
    "model.quantization=4": "model.quantization: must be one of none, 8bit, 4bit, found 4",
    "model.bidirectional=maybe": "model.bidirectional: must be true or false, found 'maybe'",
    "model.lora_r=0": "model.lora_r: must be at least 1, found 0",
    "model.lora_dropout=1": "model.lora_dropout: must be less than 1, found 1",
    "model.lora_target_modules=all": "must be auto, all-linear or a list of module names, found 'all'",
    "data.source=files": "data.train_file: data=files needs a training file",
    "data.format=xml": "data.format: must be one of auto, conll, csv, jsonl, parquet, brat, found 'xml'",
    "data.token_column=[1]": "data.token_column: must be text, found [1]",
    "data.dev_fraction=0.95": "dev_fraction and test_fraction leave nothing to train on",
    "data.max_length=1": "data.max_length: must be at least 8, found 1",
    "+training.lr=3": "training.lr: unknown key",
    "training.learning_rate=-1": "training.learning_rate: must be greater than 0, found -1",
    "training.lr_scheduler_type=cosin": "(did you mean 'cosine'?), found 'cosin'",
    "training.num_epochs=many": "training.num_epochs: must be a number, found 'many'",
    "training.per_device_train_batch_size=2.5": "must be a whole number, found 2.5",
    "training.precision=bf32": "training.precision: must be one of auto, fp32, bf16, fp16",
    "training.reports=0": "training.reports: must be at least 1, found 0",
    "tracking.report_to=tensorbord": "(did you mean 'tensorboard'?), found 'tensorbord'",
    "budget.max_concurrent=0": "budget.max_concurrent: must be at least 1, found 0",
}

SEARCH_FAULTS = {
    "hyperopt.asha_max_t=99": "hyperopt.asha_max_t: counts reports, and no trial reaches more than training.reports=9",
    "hyperopt.study_name=a/b": "is a folder's name: letters, digits, dots, - and _ only, found 'a/b'",
    "hyperopt.optuna_sampler=BOHB": "hyperopt.optuna_sampler: must be one of TPE, CMA, Random, GPSampler, QMC",
    "hyperopt.timeout=-5": "hyperopt.timeout: must be greater than 0, found -5",
    "hyperopt.resources_per_trial.gpu=-1": "hyperopt.resources_per_trial.gpu: must be at least 0, found -1",
    "search_space.lora_r.type=foo": "search_space.lora_r.type: must be one of uniform, loguniform, choice, int, logint",
    "search_space.learning_rate.low=1": "search_space.learning_rate.low: must be less than high=0.004, found 1",
    "search_space.weight_decay.low=0": "search_space.weight_decay.low: must be greater than 0 for loguniform, found 0",
    "search_space.per_device_train_batch_size.choices=[]": "must be a list with at least one value, found []",
    "+search_space.warmup_ratio.hi=1": "search_space.warmup_ratio.hi: unknown key (did you mean 'high'?)",
    "+search_space.lora_dropot={type: uniform, low: 0, high: 1}": "(did you mean 'lora_dropout'?)",
    "hyperopt.num_trials=1,2": "hyperopt.num_trials: cannot be searched: no key under model, data or training",
    "model=choice(tiny,minilm)": "model: a whole group cannot be searched, only single keys under it",
    "hyperopt.enabled=false": "hyperopt.enabled: hyperopt=combined says true, found false",
    "hyperopt.max_reports=1": "hyperopt.max_reports: must pay for one trial up to its first rung, 9 reports, found 1",
    "hyperopt.asha_enabled=false": "hyperopt.asha_enabled: hyperopt=combined says true, found false",
    "hyperopt.second_metric=eval_f1": "hyperopt.second_metric: is hyperopt.metric itself, eval_f1",
    "hyperopt.resources_per_trial.cpu=1000": "a trial of 1000 CPUs does not fit this machine",
}

SINGLE_FAULTS: list[tuple[list[str], str]] = [
    (["hyperopt=bayes"], "hyperopt: must be one of asha, combined, none, optuna, random, found 'bayes'"),
    (["trainig=default"], "trainig: unknown key (did you mean 'training'?) fix: training=default"),
    (["training.lerning_rate=3"], "unknown key (did you mean 'training.learning_rate'?) fix: training.learning_rate=3"),
    (["hyperopt.seed=3"], "hyperopt.seed: unknown key (did you mean 'seed'?) fix: seed=3"),
    (["training.learning_rate=[1,"], "no viable alternative at input '[1,'"),
    (["data.train_file=${nope}"], "data.train_file: Interpolation key 'nope' not found"),
    (["data=files"], "data.train_file: data=files needs a training file fix: data.train_file=PATH"),
    (["data=wnut17", "data.hub_name=null"], "data.hub_name: data.source=hub needs a data set's name"),
    (
        ["-m", "hyperopt=combined", "~search_space.nope"],
        "~search_space.nope: there is no such key",
    ),
    (["-m", "hyperopt=combined", "search_space.warmup_ratio.high=1.5"], "cannot take: must be less than 1, found 1.5"),
    (["-m", "hyperopt=combined", "search_space.lora_r.choices=[0,8]"], "cannot take: must be at least 1, found 0"),
    (["-m", "hyperopt=combined", "hyperopt.asha_grace_period=10"], "must be at most asha_max_t=9, found 10"),
    (["-m", "hyperopt=combined", "training.metric=eval_loss"], "must be the search's metric and mode (eval_f1, max)"),
    (["-m", "hyperopt=combined", "~search_space"], "holds no parameter to search"),
    (["-m", "hyperopt=asha", "hyperopt.optuna_sampler=TPE"], "asha samples at random, found TPE"),
    (
        ["-m", "hyperopt.strategy=combined"],
        "needs its engine, which the group hyperopt=combined sets fix: hyper",
    ),
    (["-m", "hyperopt=asha", "hyperopt.enqueue=[{lora_r: 7}]"], "lora_r=7 is not in choice(4, 8, 16, 32)"),
    (
        ["-m", "hyperopt=optuna", "hyperopt.ray_address=auto"],
        "ray_address=auto: hyperopt=optuna runs its trials there with hydra/launcher=ray only; fix: add hydra/launch",
    ),
    (["hyperopt.enabled=true"], "hyperopt.enabled: true needs a strategy, found none fix: hyperopt=combined"),
]


def assert_refused(done: Done, folder: Path) -> None:
    assert done.returncode == 1, shown(done)
    assert "Traceback" not in done.stdout + done.stderr
    assert list(folder.iterdir()) == []


def test_the_table_of_faults_is_long_enough() -> None:
    assert len(TRAINING_FAULTS) + len(SEARCH_FAULTS) + len(SINGLE_FAULTS) + len(FOUND_WHEN_LOADING) >= 50


def test_all_faults_of_a_training_at_once(tmp_path: Path) -> None:
    done = launch(tmp_path, *TRAINING_FAULTS)
    assert_refused(done, tmp_path)
    missing = {override for override, text in TRAINING_FAULTS.items() if text not in done.stderr}
    assert missing == set(), shown(done)
    count = len(re.findall(r"^  \d+\. ", done.stderr, re.MULTILINE))
    assert done.stderr.startswith(f"error: {count} faults in the config:")
    # budget.max_concurrent and training.reports are faults of the hyperopt keys that repeat them, too
    assert len(TRAINING_FAULTS) <= count <= len(TRAINING_FAULTS) + 2
    assert len(re.findall(r"^      fix: \S", done.stderr, re.MULTILINE)) == count, "each fault comes with its fix"


def test_all_faults_of_a_search_at_once(tmp_path: Path) -> None:
    done = launch(tmp_path, "-m", "hyperopt=combined", *SEARCH_FAULTS)
    assert_refused(done, tmp_path)
    missing = {override for override, text in SEARCH_FAULTS.items() if text not in done.stderr}
    assert missing == set(), shown(done)
    assert f"error: {len(SEARCH_FAULTS)} faults in the config:" in done.stderr
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(("arguments", "text"), SINGLE_FAULTS, ids=[" ".join(item[0]) for item in SINGLE_FAULTS])
def test_single_fault(tmp_path: Path, arguments: list[str], text: str) -> None:
    done = launch(tmp_path, *arguments)
    assert_refused(done, tmp_path)
    assert text in words(done.stderr), shown(done)
    if "-m" in arguments:
        assert files_in(tmp_path) == set()


FOUND_WHEN_LOADING: dict[str, tuple[list[str], str]] = {
    "missing data file": (
        ["data=files", "data.train_file=trian.txt"],
        "trian.txt: there is no such file (did you mean 'train.txt'?) fix: data.train_file=PATH",
    ),
    "directory as data file": (
        ["data=files", "data.train_file=."],
        "must be a file, or a folder with .ann files, found a folder (with ",
    ),
    "malformed line": (
        ["data=files", "data.train_file=train.txt"],
        "train.txt:2: a token line needs at least two columns, found 'Oslo' fix: give every token line",
    ),
    "missing model folder": (
        ["model=minilm", "model.model_name=./no/such/folder"],
        "model.model_name must name a folder that exists, found ./no/such/folder",
    ),
    "hub model offline": (
        ["model=minilm", "model.model_name=someone/some-model"],
        "someone/some-model is neither a local folder nor in the Hugging Face cache, and the hub gave no answer",
    ),
    "hub data offline": (["data=wnut17"], "fix: connect to the internet once, or set HF_HOME to a folder"),
}


@pytest.mark.parametrize("case", FOUND_WHEN_LOADING)
def test_fault_found_when_loading(tmp_path: Path, case: str) -> None:
    overrides, text = FOUND_WHEN_LOADING[case]
    (tmp_path / "train.txt").write_text("we O\nOslo\n")
    done = launch(tmp_path, "model=tiny", "debug=quick", *overrides)
    assert done.returncode == 1, shown(done)
    assert text in words(done.stderr), shown(done)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("adapter"))


@pytest.mark.parametrize("case", FOUND_WHEN_LOADING)
def test_search_finds_it_before_its_first_trial(tmp_path: Path, case: str) -> None:
    overrides, text = FOUND_WHEN_LOADING[case]
    (tmp_path / "train.txt").write_text("we O\nOslo\n")
    done = launch(tmp_path, "-m", "hyperopt=combined", "budget.num_trials=1", "model=tiny", "debug=quick", *overrides)
    assert done.returncode == 1, shown(done)
    assert text in words(done.stderr), shown(done)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "multirun").exists(), "a study that cannot have a trial is not created"
