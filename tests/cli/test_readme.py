"""The commands of README and docs/ are real commands, their links lead somewhere, and the tree is the one on disk."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mistral_ner.hyperopt.spec.capacity import gpus
from tests import warm

ROOT = Path(__file__).parents[2]
PATHS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
README, ARCHITECTURE = PAGES["README.md"], PAGES["docs/architecture.md"]
FIVE = re.findall(r"in five commands.*?\n```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[0].splitlines()


def commands(start: str) -> list[tuple[str, str]]:
    """Page and command, for every command of a bash block that begins so; one that another page repeats comes once."""
    found: dict[str, str] = {}
    for page, text in PAGES.items():
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for command in re.split(r"\n| && | \| ", block):
                if re.match(rf"(?:[A-Z_]+=\S+ )*{start}", command):
                    found.setdefault(command, page)
    return [(page, command) for command, page in found.items()]


LAUNCHES = commands(r"python launch\.py")
MODULES = commands("python -m ")
MAKES = commands("make ")
REAL_STUDY = [line for _, line in LAUNCHES if "--config-dir" in line]


def run(line: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a page in a folder, without its comment."""
    words = shlex.split(line, comments=True)
    place = words.index("python")
    set_before = dict(word.split("=", 1) for word in words[:place])
    env = {**os.environ, "PYTHONPATH": str(ROOT), **set_before}
    return warm.run_text([*words[place + 1 :], *more], folder, env)


def test_the_smallest_whole_run_is_within_the_first_thirty_lines() -> None:
    head = README.splitlines()[:30]
    assert any(line.startswith("make dev ") for line in head)
    assert any(line.startswith("make test ") for line in head)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1300


def test_the_count_of_commands() -> None:
    assert len(PAGES) >= 14
    assert len(LAUNCHES) >= 30
    assert len(MODULES) >= 8
    assert len(MAKES) >= 14
    assert len(REAL_STUDY) == 1
    assert REAL_STUDY[0] in FIVE, "which are run"


@pytest.mark.parametrize(("page", "line"), [found for found in LAUNCHES if found[1] not in REAL_STUDY])
def test_command_is_understood(tmp_path: Path, toy_files: dict[str, str], page: str, line: str) -> None:
    """A search is planned, a training composed: everything but the run itself."""
    for name, path in toy_files.items():
        (tmp_path / f"{name.removesuffix('_file')}.txt").write_text(Path(path).read_text())
    arguments = shlex.split(line, comments=True)
    more = []
    if "--cfg" not in arguments:
        more += ["hyperopt.dry_run=true"] if "-m" in arguments else ["--cfg", "job", "--resolve"]
    if "--resolve" in more:
        more += ["output_dir=out"]  # Hydra knows its own only when it runs
    done = run(line.replace("launch.py", str(ROOT / "launch.py"), 1), tmp_path, *more)
    if "resources_per_trial.gpu=2" in line and gpus() < 2:
        assert done.returncode == 1
        assert done.stderr.startswith("error: 1 fault in the config:"), f"{page}: {done.stderr}"
        why = "hyperopt.resources_per_trial.gpu: a trial of 2 GPUs does not fit this machine"
        if "device_map=auto" in line and not gpus():
            why = "model.device_map: auto spreads a model over GPUs, and this machine has none"
        assert why in done.stderr
    else:
        assert done.returncode == 0, f"{page}: {done.stderr}"
    assert not (tmp_path / "multirun").exists()


@pytest.mark.parametrize(("page", "line"), MODULES)
def test_module_takes_its_arguments(tmp_path: Path, page: str, line: str) -> None:
    """In an empty folder it ends because there is no study, no model and no text, not because of what was typed."""
    done = run(line, tmp_path)
    assert "usage:" not in done.stderr, f"{page}: {done.stderr}"
    if "--help" in line:
        assert done.returncode == 0
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("error: "), f"{page}: {done.stderr}"


@pytest.mark.parametrize(("page", "line"), MAKES)
def test_make_knows_what_to_do(page: str, line: str) -> None:
    arguments = shlex.split(line, comments=True)
    done = subprocess.run([*arguments, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_is_python(page: str) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL):
        ast.parse(block, page)


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
    assert [(one["type"], one["text"]) for one in tagged["entities"]] == [("PER", "Ada Lovelace"), ("LOC", "London")]
    lines = [json.loads(line)["text"] for line in (tmp_path / "entities.jsonl").read_text().splitlines()]
    assert lines == README.splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if not re.match(r"https?://", target):
            path, _, heading = target.partition("#")
            assert not heading, f"{target}: links go to pages, whose headings may change"
            assert (ROOT / page).parent.joinpath(path).is_file(), target


def test_the_readme_leads_to_every_page() -> None:
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in README] == []


def test_the_tree_names_what_there_is() -> None:
    (tree,) = re.findall(r"^## The tree\n\n```\n(.*?)^```", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    named: set[Path] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        left, _, phrase = line.strip().partition("  ")
        folders = folders[:depth]
        assert phrase or left.endswith("/"), f"{line}: each file has its phrase"
        for name in left.split():
            path = ROOT.joinpath(*folders, name)
            assert path.exists(), line
            named.add(path)
        if left.endswith("/") and " " not in left:
            folders.append(left.rstrip("/"))
    there = {path for kind in ("py", "css", "js") for path in (ROOT / "mistral_ner").rglob(f"*.{kind}")}
    modules = {path for path in there if path.name != "__init__.py"}
    assert sorted(str(path.relative_to(ROOT)) for path in modules - named) == []


def test_the_walk_names_functions_that_there_are() -> None:
    (walk,) = re.findall(r"^## A value's walk\n(.*?)^## ", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    steps = re.findall(r"^\| (\d+) \| `(\S+)` \| `(\S+)` \|", walk, re.MULTILINE)
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1))
    assert len(steps) >= 15
    for number, file, function in steps:
        tree: ast.AST = ast.parse((ROOT / ("" if file == "launch.py" else "mistral_ner") / file).read_text())
        for name in function.split("."):
            found = [one for one in ast.iter_child_nodes(tree) if getattr(one, "name", None) == name]
            assert found, f"step {number}: no {function} in {file}"
            tree = found[0]


def test_files_that_a_page_names_are_there() -> None:
    for page, text in PAGES.items():
        for name in re.findall(r"`((?:mistral_ner|tests|conf|bench|hyperopt)/[\w/]+\.\w+)`", text):
            if "NAME" not in name:
                assert (ROOT / name).is_file() or (ROOT / "mistral_ner" / name).is_file(), f"{page}: {name}"


def test_make_targets_are_real() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, text in PAGES.items():
        assert set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", text, re.MULTILINE)) <= targets, page
