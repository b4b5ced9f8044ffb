"""What a stopped prediction leaves, and what goes on with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mistral_ner import locks
from mistral_ner.errors import UserError
from mistral_ner.predict.formats import Tagged
from mistral_ner.predict.output import GrowingFile
from mistral_ner.predict.part import grow
from mistral_ner.predict.source import Source
from tests.conftest import ROOT


def growing(path: Path, encoding: str = "utf-8") -> GrowingFile:
    return GrowingFile(path, Source("in.txt", "text", iter(()), None, encoding))


def write(path: Path, numbers: Iterable[int], resume: bool = False, stop: type[BaseException] | None = None) -> None:
    """Write the numbers from the first that is not there yet, one sentence of two lines each."""
    with grow(growing(path), {"--format": "text"}, resume) as part:
        for number in list(numbers)[part.done.sentences :]:
            part.write(Tagged([f"é{number}", ""], 1))
        if stop is not None:
            raise stop("stop")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_it_goes_on(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / f"whole{name}", range(9), resume=True)
    assert "no run was stopped that writes" in capsys.readouterr().err
    path = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        write(path, range(4), stop=KeyboardInterrupt)
    assert f"4 sentences are kept in {path}.part; the same command with --resume goes on" in capsys.readouterr().err
    assert not path.exists()
    part, record = tmp_path / f"{name}.part", tmp_path / f"{name}.part.json"
    with part.open("ab") as file:
        file.write(b"of a write that a kill cut")
    with pytest.raises(
        UserError, match=rf"{name}.part has 4 sentences of a run that was stopped\n  fix: type --resume"
    ):
        write(path, range(9))
    assert json.loads(record.read_text())["done"] == {"sentences": 4, "lines": 8, "size": 20}
    write(path, range(9), resume=True)
    assert path.read_bytes() == (tmp_path / f"whole{name}").read_bytes()
    assert names(tmp_path) == sorted([name, f"whole{name}"])


def test_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(OSError, match="stop"):
        write(path, range(4), stop=OSError)
    record = json.loads((tmp_path / "out.part.json").read_text())
    other: dict[str, Any] = {"--format": "conll"}
    with (
        pytest.raises(UserError, match=r"cannot go on with .*out.part: --format was text, is conll\n  fix: .* rm "),
        grow(growing(path), other, resume=True),
    ):
        pass
    (tmp_path / "out.part").write_bytes(b"short")
    with pytest.raises(UserError, match=r"it has 5 bytes, fewer than the 20 written"):
        write(path, range(9), resume=True)
    assert json.loads((tmp_path / "out.part.json").read_text()) == record


def test_nothing_stays_of_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stop"):
        write(tmp_path / "out", range(4), stop=UserError)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", [], stop=KeyboardInterrupt)
    assert names(tmp_path) == []


HOLD = """if True:
    import sys
    from pathlib import Path
    from mistral_ner import locks
    with locks.hold(Path(sys.argv[1]), 0, keep=False):
        print("held", flush=True)
        sys.stdin.read()
"""


def test_two_processes_never_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    command, environment = [sys.executable, "-c", HOLD, f"{path}.part.lock"], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=r"another process writes .*out.part; wait for its end, or type another"):
            write(path, range(3))
        holder.kill()
    write(path, range(3))
    assert names(tmp_path) == ["out"], "no lock stays, not even that of a process that was killed"


def test_a_lock_file_that_is_deleted_locks_nothing(tmp_path: Path) -> None:
    """Who waits for a lock whose file goes away gets that of the new file, not one of the old."""
    lock = tmp_path / "lock"
    held = threading.Event()
    order: list[str] = []

    def wait() -> None:
        with locks.hold(lock, 30, keep=False):
            order.append("second")
            held.set()
            assert lock.exists()

    with locks.hold(lock, 0, keep=False):
        second = threading.Thread(target=wait)
        second.start()
        time.sleep(0.2)
        order.append("first")
    assert held.wait(30)
    second.join()
    assert order == ["first", "second"]
    assert not lock.exists()


def test_a_record_whose_output_has_its_name_already_stops_nobody(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="stop"):
        write(tmp_path / "out", range(4), stop=OSError)
    (tmp_path / "out.part").rename(tmp_path / "out")  # as a kill between two steps leaves it
    write(tmp_path / "out", range(9))
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes().startswith("é0\n\né1".encode())
