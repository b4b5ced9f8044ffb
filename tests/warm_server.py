"""Forks a process for every command it is told; started by :mod:`tests.warm`, and ended when its socket is closed.

It has imported the libraries, and nothing of this project. Started as ``python tests/warm_server.py FD``. What it does
before and after a fork, ``warm_workers.py`` does, too.
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
from collections.abc import Mapping
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


WORKERS = "TESTS_WARM_WORKERS"  # the variable that says where warm_workers.py listens
SITE = str(Path(__file__).with_name("warm_site"))  # what Python runs at its start in Ray's processes

# What libraries read while they are imported begins so, but for what a forked process reads, too. Ray sets
# PYTHONBREAKPOINT in its driver's process, whose next Ray inherits it.
_READ_AT_IMPORT = (
    *("OMP_", "MKL_", "OPENBLAS_", "KMP_", "HF_", "TRANSFORMERS_", "TORCH", "PYTORCH_", "ATEN_"),
    *("PYTHON", "MALLOC_", "LD_"),
)
_READ_LATER = ("PYTHONPATH", "PYTHONBREAKPOINT")

_TAKES_CARE = "jemalloc_bg_thd"  # of pyarrow's allocator, which stops it before a fork and starts it after one


def main(control: socket.socket) -> dict[str, Any]:
    """Serve until the socket is closed; return in each child that is forked, with what it has to run."""
    set_by_them = import_libraries(LIBRARIES)
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
                take(descriptors)
                return {**json.loads(message), "set_by_libraries": set_by_them}
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            running.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[3]))
            control.send(b"%d" % pid)


def import_libraries(libraries: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Import them, ready for a fork; return the variables that they have set."""
    atexit.register(_end_at_once)  # registered first, and so called last
    before = set(os.environ)
    for module, names in libraries.items():
        for name in ("__name__", *names):
            getattr(importlib.import_module(module), name)
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    left_behind = threads - {Path("/proc/self/comm").read_text().strip(), _TAKES_CARE}
    assert not left_behind, f"a fork would leave {left_behind} behind"
    gc.collect()
    gc.freeze()  # so that a collection in a child does not copy every page
    return {name: value for name, value in os.environ.items() if name not in before}


def read_at_import(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process forked from one with other values would not heed."""
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_IMPORT) and name not in _READ_LATER}


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


def take(descriptors: list[int]) -> None:
    """Take the standard files of a child; further descriptors are the server's."""
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
    if command["environment"].get(WORKERS):  # the Ray that it starts has its workers forked, too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (SITE, os.environ.get("PYTHONPATH"))))
    tempfile.tempdir = None  # it may have been asked for under another TMPDIR
    importlib.import_module("numpy").random.seed()  # Python's own numbers begin anew after a fork, numpy's do not
    arguments = command["arguments"]
    sys.orig_argv = [sys.executable, *arguments]
    try:
        run(*arguments)
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


def run(how: str, *rest: str) -> None:
    """Run ``python HOW REST`` in this process."""
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
