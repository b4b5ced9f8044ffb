"""What a training's folder says after any kind of damage: nothing broken is used, and every repair is named."""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import empty, garble, truncate

from mistral_ner import files
from mistral_ner.config.check import check
from mistral_ner.config.schema import Config
from mistral_ner.errors import UserError
from mistral_ner.training.checkpoint import Progress, reports_on_disk


def report(folder: Path, progress: Progress, f1: float) -> None:
    """A report with a checkpoint of two files, as a training makes it."""
    number = len(progress.reports) + 1
    checkpoint = folder / f"checkpoint/checkpoint-{number}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text(f"weights of {number}")
    (checkpoint / "optimizer").write_text(f"optimizer of {number}")
    progress.add({"report": number, "step": number, "eval_f1": f1}, checkpoint.name)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return check({"output_dir": str(tmp_path / "run")})


@pytest.fixture
def folder(config: Config) -> Path:
    """A run after three reports, the second of them the best: two checkpoints are kept."""
    folder = Path(config.output_dir)
    progress = Progress.open(config)
    for f1 in (0.1, 0.3, 0.2):
        report(folder, progress, f1)
    assert sorted(path.name for path in (folder / "checkpoint").iterdir()) == ["checkpoint-2", "checkpoint-3"]
    return folder


def change(path: Path) -> None:
    """One digit, so that it can still be read."""
    text = path.read_text()
    path.write_text(re.sub(r"\d(?=\D*$)", lambda digit: str((int(digit[0]) + 1) % 10), text))
    assert path.read_text() != text


def remove(path: Path) -> None:
    path.unlink()


DAMAGE = [truncate, empty, garble, change]
Damage = Callable[[Path], None]


def state(progress: Progress) -> tuple[list[float], str | None, str | None]:
    return [row["eval_f1"] for row in progress.reports], progress.checkpoint, progress.best


def test_whole(config: Config, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert state(Progress.open(config)) == ([0.1, 0.3, 0.2], "checkpoint-3", "checkpoint-2")
    assert [row["eval_f1"] for row in reports_on_disk(folder)] == [0.1, 0.3, 0.2]
    assert caplog.text == ""


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_state_begins_anew(
    config: Config, folder: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder / "checkpoint.json")
    assert reports_on_disk(folder) == []
    progress = Progress.open(config)
    assert state(progress) == ([], None, None)
    assert f"{folder}: checkpoint.json is damaged (" in caplog.text
    assert "this training starts again" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml"], (
        "no old report is left to be taken for new"
    )
    report(folder, progress, 0.5)
    assert state(Progress.open(config)) == ([0.5], "checkpoint-1", "checkpoint-1")


@pytest.mark.parametrize("damage", [*DAMAGE, remove])
def test_damaged_report_list_is_written_again(
    config: Config, folder: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    before = (folder / "result.json").read_bytes()
    damage(folder / "result.json")
    assert state(Progress.open(config)) == ([0.1, 0.3, 0.2], "checkpoint-3", "checkpoint-2")
    assert f"{folder}: result.json is damaged; written again from checkpoint.json" in caplog.text
    assert (folder / "result.json").read_bytes() == before
    caplog.clear()
    Progress.open(config)
    assert caplog.text == ""


@pytest.mark.parametrize("damage", [*DAMAGE, remove])
def test_damaged_last_checkpoint_goes_on_from_the_best(
    config: Config, folder: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder / "checkpoint/checkpoint-3/optimizer")
    assert state(Progress.open(config)) == ([0.1, 0.3], "checkpoint-2", "checkpoint-2")
    assert (
        f"{folder}: checkpoint checkpoint-3 is damaged (optimizer); this training continues from report 2"
        in caplog.text
    )
    assert len((folder / "result.json").read_text().splitlines()) == 2
    caplog.clear()
    progress = Progress.open(config)
    assert state(progress) == ([0.1, 0.3], "checkpoint-2", "checkpoint-2")
    assert caplog.text == ""
    shutil.rmtree(folder / "checkpoint/checkpoint-3")
    report(folder, progress, 0.2)
    assert state(Progress.open(config)) == ([0.1, 0.3, 0.2], "checkpoint-3", "checkpoint-2")


@pytest.mark.parametrize("damage", [*DAMAGE, remove])
def test_damaged_best_checkpoint_begins_anew(
    config: Config, folder: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder / "checkpoint/checkpoint-2/weights")
    assert state(Progress.open(config)) == ([], None, None)
    assert "checkpoint checkpoint-2 is damaged (weights); this training starts again" in caplog.text


def test_checkpoint_folder_that_is_gone_begins_anew(
    config: Config, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(folder / "checkpoint")
    assert state(Progress.open(config)) == ([], None, None)
    assert "checkpoint-2 is damaged (optimizer, weights); checkpoint-3 is damaged (optimizer, weights)" in caplog.text


@pytest.mark.parametrize("damage", [*DAMAGE, remove])
def test_damaged_adapter_of_a_finished_run_begins_anew(
    config: Config, folder: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress.open(config)
    (folder / "adapter").mkdir()
    (folder / "adapter/weights").write_text("the best are these: 3")
    progress.finish()
    assert Progress.open(config).finished
    damage(folder / "adapter/weights")
    again = Progress.open(config)
    assert not again.finished
    assert again.reports == []
    assert f"{folder}: adapter is damaged (weights); this training starts again" in caplog.text


@pytest.mark.parametrize("damage", [truncate, empty, garble])
def test_damaged_config(config: Config, folder: Path, damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    whole = (folder / "config.yaml").read_bytes()
    (folder / "config.yaml").write_bytes(b"output_dir: x\n")
    damage(folder / "config.yaml")
    with pytest.raises(UserError, match=r"config.yaml is damaged, so nothing says which config .*\n.*fix: put it back"):
        Progress.open(config)
    (folder / "checkpoint.json").unlink()
    assert Progress.open(config).reports == []
    assert "config.yaml is damaged; written again, since there is no report yet" in caplog.text
    assert (folder / "config.yaml").read_bytes() == whole


def test_output_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = check({"output_dir": str(tmp_path / "run")})
    config.output_dir = str(tmp_path / "file/run")
    with pytest.raises(
        UserError, match=r"output_dir: cannot write in .*/file/run \(Not a directory\)\n  fix: output_dir="
    ):
        Progress.open(config)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_a_full_disk_is_named(error: Exception, tmp_path: Path) -> None:
    expected = rf"cannot write in {tmp_path} \(.*\)\n  fix: make room"
    with pytest.raises(UserError, match=expected), files.name_full_disk(tmp_path):
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(2, "x"), KeyError(28)])
def test_other_errors_are_none_of_a_full_disk(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)), files.name_full_disk(tmp_path):
        raise error


def test_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json_lines(path, [{"a": 1}, {"a": object()}])
    assert json.loads(path.read_text()) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_nothing_is_logged_by_a_new_run(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert Progress.open(config).reports == []
    assert caplog.text == ""


def test_passwords_are_not_saved(tmp_path: Path) -> None:
    url = "postgresql://ada:pa:ss/word@localhost:5432/db"
    config = check({"output_dir": str(tmp_path), "hyperopt": {"storage_url": url}})
    Progress.open(config)
    text = (tmp_path / "config.yaml").read_text()
    assert "postgresql://ada:***@localhost:5432/db" in text
    assert "pa:ss" not in text
    assert config.hyperopt.storage_url == url
    Progress.open(config)  # the same run still


def test_the_folder_of_an_earlier_version_goes_on(config: Config, folder: Path, tmp_path: Path) -> None:
    """Its config lacks the keys that have come since, and has columns 0 and -1 where they are looked for now."""
    path = folder / "config.yaml"
    saved = files.read_yaml(path)
    for key in ("encoding", "on_partial_word", "sentence_end"):
        del saved["data"][key]
    files.write_yaml(path, {**saved, "data": {**saved["data"], "token_column": 0, "tag_column": -1}})
    assert len(Progress.open(config).reports) == 3
    number_first = tmp_path / "a.txt"
    number_first.write_text("".join(f"1 {name} B-PER\n2 is O\n\n" for name in ("Ada", "Bo", "Cy", "Di")))
    config.data.source, config.data.train_file = "files", str(number_first)
    files.write_yaml(path, {**saved, "data": {**vars(config.data), "token_column": 0, "tag_column": -1}})
    with pytest.raises(UserError, match=r"another config \(differs in data.tag_column, data.token_column\)"):
        Progress.open(config)
