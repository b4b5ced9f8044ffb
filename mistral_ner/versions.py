"""The versions of what a worker imports; this imports nothing of it, because a machine may lack it."""

from __future__ import annotations

import importlib.metadata
import platform

# What numbers, pickles and files depend on; the rest of what a worker imports follows from them.
_PACKAGES = ("ray", "torch", "transformers", "tokenizers", "peft", "datasets", "optuna", "omegaconf", "filelock")


def find_versions() -> dict[str, str]:
    """Return the versions here of Python and of the packages that matter, "none" for one that is missing."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]  # +cpu is a build of the same
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found
