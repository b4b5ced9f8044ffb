"""A forked command is what a new process is: its arguments, its files, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

ENDS = {
    "whole": "import sys; print(sys.argv, sys.stdin.read()); print('x', file=sys.stderr)",
    "a number": "import sys; print('x'); sys.exit(3)",
    "a message": "import sys; sys.exit('no room')",
    "an exception": "print('x'); 1 / 0",
    "functions of atexit": "import atexit; atexit.register(print, 'last'); print('first')",
    "a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('later'))).start()",
    "a signal": "import os; print('x', flush=True); os.kill(os.getpid(), 15)",
    "Ctrl-C": "raise KeyboardInterrupt",
    "its names": "import __main__; x = 1; print(__name__, __main__.x, __main__.__spec__)",
    "its paths": "import os, sys; print(os.getcwd(), sys.path[0], sys.orig_argv[1:], os.environ['X'], len(os.environ))",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS.keys())
def test_it_ends_as_a_new_process_does(tmp_path: Path, code: str) -> None:
    env = warm.environment({"PATH": os.environ["PATH"], "X": "1"})
    arguments, given = ["-c", code, "a", "b c"], b"some text"
    command = [sys.executable, *arguments]
    new = subprocess.run(command, cwd=tmp_path, env=env, input=given, capture_output=True, check=False)
    forked = warm.run(arguments, tmp_path, env, stdin=given)
    assert forked.returncode == new.returncode
    assert _without_added(forked.stdout) == _without_added(new.stdout)
    assert forked.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:], "of a traceback, what was raised"


def _without_added(output: bytes) -> bytes:
    """Without the last number, of variables: libraries that are imported set some."""
    return output.rstrip().rstrip(b"0123456789")


def test_a_file_and_a_module_are_run_as_python_runs_them(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 7")
    (tmp_path / "file.py").write_text("import sys, beside; print(__name__, __file__, sys.argv, beside.VALUE)")
    for arguments in ([str(tmp_path / "file.py"), "x"], ["-m", "file", "x"]):
        command = [sys.executable, *arguments]
        new = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert warm.run_text(arguments, tmp_path, os.environ).stdout == new.stdout


def test_it_is_killed_by_its_number_and_may_lead_a_session(tmp_path: Path) -> None:
    code = "import os, time; print(os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"
    for session in (False, True):
        process = warm.Process(["-c", code], tmp_path, os.environ, start_new_session=session)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        assert process.communicate()[0] == f"{session}\n"


def test_a_setting_that_libraries_read_while_they_are_imported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="OMP_NUM_THREADS=7 is read while libraries are imported; start a new process"):
        warm.run(["-c", ""], tmp_path, {**os.environ, "OMP_NUM_THREADS": "7"})
