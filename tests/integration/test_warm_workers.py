"""A forked worker of Ray is what a new one is, but for the imports that it need not make."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from tests import warm


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """The second Ray of this process: it inherits what the first has set in the environment."""
    for _ in range(2):
        ray.shutdown()
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Looking:
    """Tells of its process."""

    def look(self) -> dict[str, Any]:
        priority = psutil.Process().nice()
        return {
            "pid": os.getpid(),
            "server": psutil.Process().parent().cmdline()[1],
            "forked": "transformers.trainer" in sys.modules,
            "variables": {name: os.environ.get(name) for name in ("GIVEN", "RAY_JOB_ID", "PYTHONPATH", "HF_HOME")},
            "folder": str(Path.cwd()),
            "priority": priority,
            "own_group": os.getpgid(0) == os.getpid(),
            "arguments": sys.argv[0],
        }


def look(**environment: str) -> dict[str, Any]:
    actor = Looking.options(runtime_env={"env_vars": environment}).remote()  # type: ignore[attr-defined]
    found: dict[str, Any] = ray.get(actor.look.remote())
    found["actor"] = actor
    return found


def until(happens: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def first_process_of(worker: int) -> int:
    """The process that Ray has started, and that waits for the end of the one that was forked."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{process.pid}/comm").read_text().strip() == f"for {worker}":
                return process.pid
    raise AssertionError(f"nobody waits for {worker}")


def test_it_is_as_a_new_one() -> None:
    forked, new = look(GIVEN="a b"), look(GIVEN="a b", HF_HOME="/tmp/other")
    assert (forked["forked"], new["forked"]) == (True, False), "a variable that libraries read asks for a new process"
    assert forked["server"] == str(Path(warm.__file__).with_name("warm_workers.py"))
    assert forked["variables"] | {"HF_HOME": ""} == new["variables"] | {"HF_HOME": ""}
    for name in ("folder", "priority", "own_group", "arguments"):
        assert forked[name] == new[name], name


def test_its_first_process_ends_with_it_and_it_with_its_first_process() -> None:
    for kill_first in (False, True):
        found = look()
        first = first_process_of(found["pid"])
        os.kill(first if kill_first else found["pid"], signal.SIGKILL)
        until(lambda first=first, pid=found["pid"]: is_gone(first) and is_gone(pid))
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(found["actor"].look.remote())
