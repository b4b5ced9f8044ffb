"""The versions of what a worker imports, compared; this imports nothing of it, because a machine may lack it."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections import defaultdict
from collections.abc import Mapping

# What numbers, pickles and files depend on; the rest of what a worker imports follows from them.
_PACKAGES = (
    *("ray", "torch", "transformers", "tokenizers", "accelerate", "peft", "safetensors", "datasets"),
    *("optuna", "omegaconf", "filelock"),
)


@functools.cache
def find_versions() -> dict[str, str]:
    """Return the versions here of Python and of the packages that matter, "none" for one that is missing."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]  # +cpu is a build of the same
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def describe_differences(
    machines: Mapping[str, Mapping[str, str]], mine: Mapping[str, str] | None = None
) -> str | None:
    """Return what other machines have in other versions than this one, with a fix; None if nothing matters.

    Args:
        machines: what :func:`find_versions` returned on each, by its address.
        mine: what it returned on the driver's; None: this is the driver's.
    """
    mine, wrong = mine or find_versions(), defaultdict[str, list[str]](list)
    for address, theirs in machines.items():
        for name, version in mine.items():
            if _matters(name, version) != _matters(name, theirs[name]):
                wrong[f"{name} is {version} here, {theirs[name]}"].append(address)
    if not wrong:
        return None
    there = "; ".join(f"{what} on {', '.join(addresses)}" for what, addresses in wrong.items())
    return (
        f"the machines of the Ray cluster must have what this one has, but {there}\n"
        "  fix: the same Python, and what constraints.txt names, here and there; docker/Dockerfile has them"
    )


def _matters(name: str, version: str) -> list[str]:
    """Return the part of a version that decides: of Python the first two numbers."""
    return version.split(".")[:2] if name == "python" else [version]
