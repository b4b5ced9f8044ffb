"""Who imports whom, and what the project declares that it needs: read from the source, but for one import."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "mistral_ner"

# From the bottom up; a module may import from its own layer and from those before it. A name stands for the module
# and, where it is a folder, for all in it.
LAYERS = (
    ("errors",),
    ("files", "environment", "garbage", "config", "metrics", "decoding", "versions"),
    ("locks",),
    ("data", "model"),
    ("training",),
    ("train", "predict"),
    ("hyperopt.spec",),
    ("hyperopt.sampling",),
    ("hyperopt.study",),
    ("hyperopt.cluster",),
    ("hyperopt.mirror",),
    ("hyperopt.results",),
    ("hyperopt.engines",),
    ("hyperopt.dispatch",),
    ("hyperopt", "hyperopt.sweepers"),  # what people and Hydra call
    ("run", "data.__main__"),  # the commands
    ("launch",),
)

# (importer, imported) that go upwards all the same, with the reason
EXCEPTIONS: dict[tuple[str, str], str] = {}

# Layers whose parts must not know each other at all.
STRANGERS = (("data", "model"),)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package and launch.py, by dotted name without the package's."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    found["launch"] = ast.parse((ROOT / "launch.py").read_text(encoding="utf-8"))
    return found


def imported_names(tree: ast.Module) -> Iterator[str]:
    """Every dotted name that is imported anywhere in the module, functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def edges() -> dict[str, set[str]]:
    """Which modules of the project each one imports."""
    found: dict[str, set[str]] = {}
    for name, tree in modules().items():
        found[name] = set()
        for imported in imported_names(tree):
            if imported.split(".")[0] != PACKAGE:
                continue
            inner = imported.partition(".")[2]
            while inner and inner not in modules():  # cut off the name that is imported from a module
                inner = inner.rpartition(".")[0]
            if inner and inner != name:
                found[name].add(inner)
    return found


def layer(module: str) -> int | None:
    """The number of a module's layer: the one with the longest name that fits."""
    fits = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(fits)[1] if fits else None


def test_every_module_has_a_layer() -> None:
    found = {name for name in modules() if name}
    assert len(found) >= 30, "the walk over the source found hardly anything"
    assert [name for name in sorted(found) if layer(name) is None] == []


def test_nothing_imports_upwards() -> None:
    upwards = {
        (name, imported)
        for name, imports in edges().items()
        for imported in imports
        if name and (layer(imported) or 0) > (layer(name) or 0) and not _is_own_part(name, imported)
    }
    assert upwards == set(EXCEPTIONS), "an import goes up a layer, or an exception is no longer needed"
    assert sum(len(imports) for imports in edges().values()) >= 60, "the walk over the source found hardly any import"


def _is_own_part(package: str, module: str) -> bool:
    """Whether a package's ``__init__`` gathers one of its own modules."""
    return module.startswith(f"{package}.")


def test_no_circles() -> None:
    try:
        graphlib.TopologicalSorter(edges()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"circular imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(("one", "other"), STRANGERS)
def test_strangers_do_not_know_each_other(one: str, other: str) -> None:
    for mine, theirs in ((one, other), (other, one)):
        acquainted = {
            (name, imported)
            for name, imports in edges().items()
            for imported in imports
            if name.split(".")[0] == mine and imported.split(".")[0] == theirs
        }
        assert acquainted == set()


def test_only_the_edge_knows_hydra_and_only_the_search_knows_ray_and_optuna() -> None:
    """The objective gets a config and a callable: it could be run by anything."""
    allowed = {"hydra": ("run", "config", "launch", "hyperopt"), "ray": ("hyperopt",), "optuna": ("hyperopt",)}
    for library, places in allowed.items():
        users = {name for name, tree in modules().items() if library in _top_names(tree)}
        assert users, f"nothing imports {library}"
        assert {name for name in users if name.split(".")[0] not in places} == set()


def _top_names(tree: ast.Module) -> set[str]:
    return {name.split(".")[0] for name in imported_names(tree)}


# --- what pyproject.toml says -----------------------------------------------------------------------------------


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@cache
def declared() -> dict[str, str]:
    """The comment of every requirement in pyproject.toml, by normalised name."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.")[0]
    found = {}
    for name, comment in re.findall(r'^    "([A-Za-z][\w.-]*)[^"]*",(?: *# *(.*))?$', text, re.MULTILINE):
        found[normal(name)] = comment
    return found


def test_all_requirements_are_read() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in written}
    assert names == set(declared())
    assert len(names) >= 25


@cache
def installed() -> Mapping[str, list[str]]:
    """The distributions of every top-level module; to read them all takes a fifth of a second."""
    return importlib.metadata.packages_distributions()


def distribution_of(module: str) -> set[str]:
    """The distributions that bring a top-level module; its own name where it is not installed."""
    return {normal(name) for name in installed().get(module, [module])}


def third_party() -> dict[str, set[str]]:
    """The modules of the project that import each top-level third-party module."""
    found: dict[str, set[str]] = {}
    for name, tree in modules().items():
        for imported in _top_names(tree) - set(sys.stdlib_module_names) - {PACKAGE}:
            found.setdefault(imported, set()).add(name)
    return found


def test_every_import_is_declared() -> None:
    missing = {
        module: sorted(users)
        for module, users in third_party().items()
        if not distribution_of(module) & set(declared())
    }
    assert missing == {}


def test_every_dependency_says_which_file_needs_it() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unnamed = []
    for name, comment in declared().items():
        if name == normal(PACKAGE):
            continue  # an extra that gathers others
        paths = [word for word in _words(comment) if (ROOT / word).exists()]
        dead = [
            word for word in _words(comment) if "/" in word and word.endswith((".py", ".yaml")) and word not in paths
        ]
        by_make = re.search(r"make ([a-z0-9]+)", comment)
        if dead or not (paths or (by_make and by_make[1] in targets)):
            unnamed.append(f"{name}: {comment or 'no comment'}")
    assert unnamed == []


def test_the_file_named_does_import_it() -> None:
    wrong = []
    for module, users in third_party().items():
        for name in distribution_of(module) & set(declared()):
            named = [(ROOT / word).resolve() for word in _words(declared()[name]) if (ROOT / word).exists()]
            paths = [_path(user).resolve() for user in users]
            if not any(path == place or place in path.parents for path in paths for place in named):
                wrong.append(f"{name}: {declared()[name]!r}, but it is {sorted(users)} that import it")
    assert wrong == []


def _path(module: str) -> Path:
    if module == "launch":
        return ROOT / "launch.py"
    folder = ROOT / PACKAGE / Path(*module.split(".")) if module else ROOT / PACKAGE
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def _words(comment: str) -> list[str]:
    return [word.rstrip(",:;") for word in comment.split()]


def test_importing_the_search_imports_none_of_the_heavy_libraries():
    """In a notebook Optuna's progress bar warns as it is imported, unless the search has switched that off before."""
    code = (
        "import sys; from mistral_ner.hyperopt import search; "
        "found = {'optuna', 'ray', 'torch', 'transformers', 'pyarrow'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT)})
