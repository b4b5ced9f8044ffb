"""The README's commands are real commands, and the files that it names are there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BASH = "\n".join(re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
LAUNCHES = re.findall(r"^python launch\.py.*$", BASH, re.MULTILINE)
REAL_STUDY = [line for line in LAUNCHES if "--config-dir" in line]  # test_launch.py runs that one


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
