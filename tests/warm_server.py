"""Forks a process for every command it is told; started by :mod:`tests.warm`, and ended when its socket is closed.

It has imported the libraries, and nothing of this project. Started as ``python tests/warm_server.py FD``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

# The packages, and the names that they load late.
LIBRARIES = {
    "hydra": (),
    "torch": (),
    "torch.utils.data": (),
    "transformers": (
        *("AutoConfig", "AutoModelForTokenClassification", "AutoTokenizer", "BertForTokenClassification"),
        *("MistralForTokenClassification", "PreTrainedTokenizerFast", "Trainer", "TrainingArguments"),
    ),
    "peft": (),
    "datasets": (),
    "optuna": (),
    "ray": (),
    "ray.tune": (),
    "pandas": (),
    "plotly.graph_objects": (),
    "rich.table": (),
    "joblib": (),
}


_TAKES_CARE = "jemalloc_bg_thd"  # of pyarrow's allocator, which stops it before a fork and starts it after one


def main(control: socket.socket) -> dict[str, Any]:
    """Serve until the socket is closed; return in each child that is forked, with what it has to run."""
    atexit.register(_end_at_once)  # registered first, and so called last
    before = set(os.environ)
    for module, names in LIBRARIES.items():
        for name in ("__name__", *names):
            getattr(importlib.import_module(module), name)
    set_by_them = {name: value for name, value in os.environ.items() if name not in before}
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    left_behind = threads - {Path("/proc/self/comm").read_text().strip(), _TAKES_CARE}
    assert not left_behind, f"a fork would leave {left_behind} behind"
    gc.collect()
    gc.freeze()  # so that a collection in a child does not copy every page
    control.send(b"ready")
    running = selectors.DefaultSelector()
    running.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in running.select():
            if key.fileobj is not control:
                _tell(running, key)
                continue
            message, descriptors, _, _ = socket.recv_fds(control, 1 << 18, 4)
            if not message:
                os._exit(0)
            if not (pid := os.fork()):
                _leave(running, control)
                _take(descriptors)
                return {**json.loads(message), "set_by_libraries": set_by_them}
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            running.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[3]))
            control.send(b"%d" % pid)


def _tell(running: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """Write the exit code of a process that has ended into its pipe."""
    pid, status = key.data
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    running.unregister(key.fileobj)
    os.close(key.fd)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(status, b"%d" % code)
    os.close(status)


def _leave(running: selectors.BaseSelector, control: socket.socket) -> None:
    """Close, in a child, what belongs to the server."""
    for key in list(running.get_map().values()):
        if key.fileobj is not control:
            os.close(key.fd)
            os.close(key.data[1])
    running.close()
    control.close()


def _take(descriptors: list[int]) -> None:
    """Take the standard files of a child; the last descriptor is the server's."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)


def become(command: dict[str, Any]) -> None:
    """Make this process what ``python ARGUMENTS`` would be, and run it."""
    if command["session"]:
        os.setsid()
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["set_by_libraries"] | command["environment"])
    tempfile.tempdir = None  # it may have been asked for under another TMPDIR
    importlib.import_module("numpy").random.seed()  # Python's own numbers begin anew after a fork, numpy's do not
    arguments = command["arguments"]
    sys.orig_argv = [sys.executable, *arguments]
    try:
        _run(*arguments)
    except SystemExit as end:
        _exit_codes.append(end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None))
        raise
    except KeyboardInterrupt:
        _exit_codes.append(-signal.SIGINT)
        raise
    except Exception:
        _exit_codes.append(1)
        raise
    _exit_codes.append(0)


_exit_codes: list[int] = []  # of this process's command, once it has ended; below zero, the signal that it ends by


def _end_at_once() -> None:
    """End this process after all other functions of atexit: to take down what is imported takes most of a second.

    Only how the interpreter frees its memory is left out. It does so itself where the output cannot be written.
    """
    if _exit_codes:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            if _exit_codes[-1] < 0:
                signal.signal(-_exit_codes[-1], signal.SIG_DFL)
                os.kill(os.getpid(), -_exit_codes[-1])
            os._exit(_exit_codes[-1])


def _run(how: str, *rest: str) -> None:
    sys.argv = [how, *(rest[1:] if how in ("-c", "-m") else rest)]
    first = {"-c": "", "-m": str(Path.cwd())}.get(how, str(Path(how).resolve().parent))
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [first, *paths]
    if how == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    module = types.ModuleType("__main__")
    if how == "-c":
        code, name = rest[0], "<string>"
    else:
        code, name = Path(how).read_text(encoding="utf-8"), how
        module.__file__ = name
    sys.modules["__main__"] = module
    exec(compile(code, name, "exec"), vars(module))


if __name__ == "__main__":
    become(main(socket.socket(fileno=int(sys.argv[1]))))
