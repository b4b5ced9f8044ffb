"""Forks Ray's workers from a process that has imported the libraries they need, but for Ray itself.

Ray reads what it is told in variables while it is imported, so it is imported after the fork. How a worker gets here is
in ``tests/warm_site/sitecustomize.py``. A worker of a host of its own (:mod:`tests.namespaces`) enters the host after
the fork. A worker is a new process all the same if its command is one (``launch(…, new=True)``), if a variable has
another value that libraries read while they are imported, or if a test asks for it with the fixture ``new_workers``.

Started by :func:`tests.warm.serve_workers` as ``python tests/warm_workers.py CONTROL LISTENING``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import selectors
import shlex
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import warm_server

_OF_RAY = ("google.protobuf.message", "pydantic", "requests", "jsonschema", "msgpack")
_LIBRARIES = {name: late for name, late in warm_server.LIBRARIES.items() if not name.startswith(("ray", "plotly"))}
_LIBRARIES |= dict.fromkeys(_OF_RAY, ())
_NAMESPACES = {"mnt": 0x0002_0000, "net": 0x4000_0000, "pid": 0x2000_0000}  # those that a host has, and CLONE_NEW…
_PR_SET_PDEATHSIG = 1


def main(control: socket.socket, listening: socket.socket) -> dict[str, Any]:
    """Serve until ``control`` is closed; return in each child that is forked, with what it has to run."""
    set_by_them = warm_server.import_libraries(_LIBRARIES)
    assert "ray" not in sys.modules, "Ray would not read the variables of a worker"
    sources = selectors.DefaultSelector()
    sources.register(control, selectors.EVENT_READ)
    sources.register(listening, selectors.EVENT_READ)
    running: dict[int, tuple[socket.socket, int]] = {}  # PIDs of workers, who asked for them, and their descriptors
    while True:
        for key, _ in sources.select():
            if key.fileobj is control:
                os._exit(0)
            if key.fileobj is not listening:
                _end(key.data, key.fileobj, running, sources)
                continue
            asking, _ = listening.accept()
            message, descriptors, _, _ = socket.recv_fds(asking, 1 << 20, 3)
            told = json.loads(message) if message else {}
            caller = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            if not told or _differs(told):
                asking.close()
            elif pid := os.fork():
                with contextlib.suppress(OSError):  # it has ended; its worker is killed below, when that is seen
                    asking.send(b"%d" % pid)
                running[pid] = asking, os.pidfd_open(pid)
                for one in running[pid]:
                    sources.register(one, selectors.EVENT_READ, pid)
            else:
                sources.close()
                for other, watched in running.values():
                    other.close()
                    os.close(watched)
                for one in (control, listening, asking):
                    one.close()
                warm_server.take(descriptors)
                return {**told, "set_by_libraries": set_by_them, "asking": caller}
            for descriptor in descriptors:
                os.close(descriptor)


def _end(pid: int, sign: Any, running: dict[int, Any], sources: selectors.BaseSelector) -> None:
    """Pass on the exit code of a worker that has ended, or kill one whose first process is gone."""
    if pid not in running:
        return  # both ended at once
    asking, watched = running.pop(pid)
    if sign is asking:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for one in (asking, watched):
        sources.unregister(one)
    os.close(watched)
    with asking, contextlib.suppress(OSError):
        asking.send(b"%d" % code)


def _differs(told: dict[str, Any]) -> bool:
    """Tell whether only a new process can be what is asked for."""
    others = warm_server.read_at_import(told["environment"]).items()
    return told["python"] != sys.prefix or any(os.environ.get(name) != value for name, value in others)


def _enter_host(told: dict[str, Any]) -> None:
    """Go where the process is that asked: its file system, its network and its processes."""
    here = {name: str(Path("/proc/self/ns", name).readlink()) for name in _NAMESPACES}
    if told["namespaces"] == here:
        return
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(os.pidfd_open(told["asking"]), sum(_NAMESPACES.values())):
        raise OSError(ctypes.get_errno(), "this process cannot enter the host")
    if worker := os.fork():  # only a child is among the processes of the host
        os._exit(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) & 0xFF)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _reads_others(told: dict[str, Any]) -> bool:
    """Tell whether Ray has set a variable for this worker that libraries would have read."""
    before = told["set_by_libraries"] | told["environment"]
    return any(before.get(name) != value for name, value in warm_server.read_at_import(os.environ).items())


def become(told: dict[str, Any]) -> None:
    """Take the place of the process that asked, and let Ray's own file say what a worker executes."""
    _enter_host(told)
    if told["group"] and not told["session"]:
        os.setpgid(0, 0)
    os.nice(told["nice"] - os.nice(0))
    for name, limit in told["limits"].items():
        resource.setrlimit(getattr(resource, name), tuple(limit))
    execute = os.execvp

    def run_here(file: str, args: list[str]) -> None:
        """What Ray passes to a shell runs in this process, if it is this Python and needs no new process."""
        command = shlex.split(args[2]) if args[:2] == ["bash", "-c"] else []
        if command[:2] != ["exec", sys.executable] or command[2].startswith("-") or _reads_others(told):
            execute(file, args)
        os.execvp = execute
        sys.orig_argv = command[1:]
        warm_server.run(*command[2:])

    if told["arguments"][0].endswith("setup_worker.py"):
        os.execvp = run_here  # type: ignore[assignment]
    warm_server.become(told)


if __name__ == "__main__":
    become(main(*(socket.socket(fileno=int(number)) for number in sys.argv[1:])))
