"""``python launch.py`` as a process of its own, offline, and what it left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import warm

ROOT = Path(__file__).parents[2]
LAUNCH = str(ROOT / "launch.py")

Done = subprocess.CompletedProcess[str]


def launch(folder: Path, *arguments: str, python: tuple[str, ...] = (), new: bool = False, **environment: str) -> Done:
    """Run ``python launch.py ARGUMENTS`` in ``folder``, offline, without this process's settings for Hydra and us.

    Args:
        folder: the working directory.
        arguments: what a person types.
        python: flags of Python, for which a new process is started.
        new: whether to start a new process; otherwise it is forked, which saves the imports (see :mod:`tests.warm`).
        environment: more variables.
    """
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("HYDRA_", "MISTRAL_NER_", "PYTEST_"))
    }
    env |= {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "MISTRAL_NER_CACHE": str(folder / "cache"),
        "COLUMNS": "200",
        **environment,
    }
    if not new and not python:
        return warm.run_text([LAUNCH, *arguments], folder, env)
    env["HF_HOME"] = str(folder / "hf")
    command = [sys.executable, *python, LAUNCH, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def shown(done: Done) -> str:
    return f"exit {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def words(text: str) -> str:
    """The text with every run of white space as one space, so that line breaks play no part."""
    return " ".join(text.split())
