"""The README's commands are real commands, and the files that it names are there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BASH = "\n".join(re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
LAUNCHES = re.findall(r"^python launch\.py.*$", BASH, re.MULTILINE)
REAL_STUDY = [line for line in LAUNCHES if "--config-dir" in line]
FIVE = re.findall(r"in five commands.*?\n```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[0].splitlines()


def test_the_smallest_whole_run_is_within_the_first_thirty_lines() -> None:
    head = README.splitlines()[:30]
    assert any(line.startswith("make dev ") for line in head)
    assert any(line.startswith("make test ") for line in head)


def test_the_count_of_commands() -> None:
    assert len(LAUNCHES) >= 12
    assert len(REAL_STUDY) == 1


@pytest.mark.parametrize("line", [line for line in LAUNCHES if line not in REAL_STUDY])
def test_command_is_understood(tmp_path: Path, toy_files: dict[str, str], line: str) -> None:
    """A search is planned, a training composed: everything but the run itself."""
    for name, path in toy_files.items():
        (tmp_path / f"{name.removesuffix('_file')}.txt").write_text(Path(path).read_text())
    arguments = shlex.split(line, comments=True)[2:]
    if "--cfg" not in arguments:
        arguments += ["hyperopt.dry_run=true"] if "-m" in arguments else ["--cfg", "job", "--resolve"]
    if "--resolve" in arguments:
        arguments += ["output_dir=out"]  # Hydra knows its own only when it runs
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "multirun").exists()


@pytest.mark.timeout(600)
def test_the_five_commands_of_a_new_user_run_as_printed(tmp_path: Path) -> None:
    assert len(FIVE) == 5
    for name in ("conf", "mistral_ner"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("launch.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "MISTRAL_NER_CACHE": str(tmp_path / "cache")}
    said = []
    for line in FIVE:
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Warning" not in done.stderr, f"{line}\n{done.stderr}"
        said.append(done.stdout)
    study = tmp_path / "multirun/first"
    final = json.loads((study / "summary.json").read_text())["final"]
    assert "combined search completed" in said[0]
    assert said[1].strip() == str(study / "report.html")
    again = json.loads((tmp_path / "outputs/first/checkpoint.json").read_text())["best_value"]
    assert again == final["settings"][0]["dev"][str(final["seed"])], "the third trains the final model again"
    tagged = json.loads(said[3])
    assert tagged["text"] == "Ada Lovelace was born in London."
    assert all(tagged["text"][one["start"] : one["end"]] == one["text"] for one in tagged["entities"])
    lines = [json.loads(line)["text"] for line in (tmp_path / "entities.jsonl").read_text().splitlines()]
    assert lines == README.splitlines()


def test_the_tree_names_what_there_is() -> None:
    (tree,) = re.findall(r"^## The tree\n\n```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    named: set[Path] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        left, _, phrase = line.strip().partition("  ")
        folders = folders[:depth]
        for name in [*left.split(), *re.findall(r"\b\w+\.py\b", phrase)]:
            path = ROOT.joinpath(*folders, name)
            assert path.exists(), line
            named.add(path)
        if left.endswith("/") and " " not in left:
            folders.append(left.rstrip("/"))
    modules = {path for path in (ROOT / "mistral_ner").rglob("*.py") if path.name != "__init__.py"}
    assert sorted(str(path.relative_to(ROOT)) for path in modules - named) == []


def test_make_targets_are_real() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z0-9]+)", README, re.MULTILINE)) <= targets
