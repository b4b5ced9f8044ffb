"""A folder's changes travel in pieces and arrive whole; a machine's scratch folder keeps nothing of the dead."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from mistral_ner.hyperopt.cluster import scratch
from mistral_ner.hyperopt.cluster.parcels import Sent, apply, cut, list_files, write_parts


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A training's folder after its first report, with what does not travel."""
    folder = tmp_path / "here"
    (folder / "checkpoint/checkpoint-1").mkdir(parents=True)
    (folder / "checkpoint/checkpoint-1/model.bin").write_bytes(os.urandom(10_000))
    (folder / "checkpoint/checkpoint-1/empty").touch()
    (folder / "checkpoint.json").write_text("one")
    (folder / "config.yaml").write_text("theirs")
    (folder / ".lock").touch()
    (folder / "logs.txt").write_text("first\n")
    return folder


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "config.yaml").write_text("mine")
    (folder / "logs.txt").write_text("before\n")
    return folder


def send(sent: Sent, there: Path, most: int) -> int:
    """Send what has changed in pieces of at most so many bytes; return how many pieces that were."""
    changes, log, pieces = sent.changes(), sent.new_log(), 0
    parts, start = cut(sent.folder, changes.new, most=most)
    (there / ".incoming").mkdir()
    write_parts(there / ".incoming", parts)
    while start is not None:
        parts, start = cut(sent.folder, changes.new, start, most)
        write_parts(there / ".incoming", parts)
        pieces += 1
    apply(there / ".incoming", there, changes.gone, log)
    sent.stamps = dict(changes.now)
    sent.logged += len(log)
    return pieces


@pytest.mark.parametrize("most", [1, 4_000, 1 << 20])
def test_all_that_changes_arrives_and_nothing_else(here: Path, there: Path, most: int) -> None:
    sent = Sent(here)
    send(sent, there, most)
    model = Path("checkpoint/checkpoint-1/model.bin")
    assert (there / model).read_bytes() == (here / model).read_bytes()
    assert list_files(there) == list_files(here)
    assert (there / "config.yaml").read_text() == "mine"
    assert (there / "logs.txt").read_text() == "before\nfirst\n"

    assert sent.changes().new == []
    for path in (here / "checkpoint/checkpoint-1").iterdir():
        path.unlink()
    (here / "checkpoint/checkpoint-1").rmdir()
    (here / "checkpoint").rmdir()
    (here / "checkpoint.json").write_text("two")
    with (here / "logs.txt").open("a") as log:
        log.write("second\n")
    assert sent.changes().new == ["checkpoint.json"]
    send(sent, there, most)
    assert not (there / "checkpoint").exists(), "a folder without files would look like a training that was cut off"
    assert (there / "checkpoint.json").read_text() == "two"
    assert (there / "logs.txt").read_text() == "before\nfirst\nsecond\n"
    assert not (there / ".incoming").exists()


def test_a_crash_in_between_leaves_what_was_named_before(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``checkpoint.json`` is changed last but for what is deleted."""
    send(Sent(here), there, 1 << 20)
    (here / "checkpoint/checkpoint-2").mkdir()
    (here / "checkpoint/checkpoint-2/model.bin").write_bytes(b"new")
    (here / "checkpoint.json").write_text("two")
    moved, replace = [], Path.replace

    def breaks(self: Path, target: Path) -> Path:
        moved.append(target.name)
        if target.name == "checkpoint.json":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", breaks)
    with pytest.raises(KeyboardInterrupt):
        send(Sent(here), there, 1 << 20)
    assert (moved[-1], (there / "checkpoint.json").read_text()) == ("checkpoint.json", "one")
    assert (there / "checkpoint/checkpoint-2/model.bin").read_bytes() == b"new", "what it will name is there"
    assert (there / "checkpoint/checkpoint-1/model.bin").exists(), "and what it names"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_no_part_leaves_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leaves its folder"):
        write_parts(tmp_path / "in", [(name, 0, memoryview(b""))])  # type: ignore[list-item]


def _stay_in(parent: Path, ready: object) -> None:
    with scratch.lend(parent) as folder:
        (folder / "checkpoint").touch()
        ready.set()  # type: ignore[attr-defined]
        signal.pause()


def test_what_a_killed_process_leaves_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = [context.Event() for _ in range(2)]
    dead, alive = (context.Process(target=_stay_in, args=(tmp_path, one)) for one in ready)
    for process, event in zip((dead, alive), ready, strict=True):
        process.start()
        assert event.wait(30)
    theirs = set(tmp_path.iterdir())
    assert len(theirs) == 2
    dead.kill()
    dead.join()
    with scratch.lend(tmp_path) as mine:
        left = set(tmp_path.iterdir()) - {mine}
        assert len(left) == 1, "of the living"
        assert left < theirs
    alive.kill()
    alive.join()
    scratch.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_removal_was_cut_off_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "left/adapter").mkdir(parents=True)
    (tmp_path / "left" / scratch._IN_USE).touch()
    with monkeypatch.context() as broken:
        broken.setattr(scratch.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            scratch.sweep(tmp_path)
    scratch.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_filled_once_and_whole(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").touch()
        if not filled:
            filled.append("in vain")
            raise ConnectionError
        filled.append("well")

    filled: list[str] = []
    with pytest.raises(ConnectionError):
        scratch.once(tmp_path / "models/x", fill)
    assert not (tmp_path / "models/x").exists()
    for _ in range(2):
        assert list_files(scratch.once(tmp_path / "models/x", fill)) == ["a"]
    assert filled == ["in vain", "well"]
