"""The road between a driver and a machine that does not see its study: what arrives, once, and from whom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from mistral_ner import files
from mistral_ner.config.check import check
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.parcels import PIECE
from mistral_ner.hyperopt.cluster.road import MovedError, Road, work_in
from mistral_ner.hyperopt.cluster.transport import Office

pytestmark = pytest.mark.usefixtures("ray_for_all")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "results/s"
    (folder / "trial_0000").mkdir(parents=True)
    (folder / "trial_0000/config.yaml").write_text("as the study wrote it")
    return folder


@pytest.fixture
def office(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """An office, in a process that keeps its copies in a folder of this test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    with ExitStack() as stack:
        office = Office(study, lambda number: lambda report, metrics: (report >= 2, number == 0))
        stack.callback(office.close)
        yield office
    assert not (study / ".seen").exists()


def blind(office: Office, trial: Path) -> Road:
    """A road for a process that does not see the study; its copy has a name of its own."""
    return replace(office.issue(trial), token=trial.parents[2].name)


def test_a_machine_that_sees_the_study_works_in_it(study: Path, office: Office) -> None:
    trial = study / "trial_0000"
    with work_in(trial, office.issue(trial)) as place:
        assert (place.folder, place.ask) == (trial, None)
        place.save()


def test_what_is_made_arrives_before_a_report_counts(study: Path, office: Office, tmp_path: Path) -> None:
    trial, large = study / "trial_0000", os.urandom(PIECE + 1000)  # in two pieces
    with work_in(trial, blind(office, trial)) as place:
        assert place.folder != trial
        assert (place.folder / "config.yaml").read_text() == "as the study wrote it"
        (place.folder / "checkpoint/checkpoint-1").mkdir(parents=True)
        (place.folder / "checkpoint/checkpoint-1/model.bin").write_bytes(large)
        (place.folder / "logs.txt").write_text("first\n")
        (place.folder / "config.yaml").write_text("nobody else writes it")
        place.save()
        sent = trial / "checkpoint/checkpoint-1/model.bin"
        assert sent.read_bytes() == large
        before = sent.stat().st_ino
        (place.folder / "result.json").write_text("{}")
        assert place.ask is not None
        assert place.ask("report", 1, {}) == (False, True)
        place.save()
        assert (trial / "result.json").read_text() == "{}"
        assert sent.stat().st_ino == before, "what has not changed does not travel"
        (place.folder / "logs.txt").open("a").write("last\n")
    assert (trial / "logs.txt").read_text() == "first\nlast\n"
    assert (trial / "config.yaml").read_text() == "as the study wrote it"
    assert list(tmp_path.glob("node/*/*/visits/*")) == []
    with work_in(trial, blind(office, trial)) as again:
        assert (again.folder / "checkpoint/checkpoint-1/model.bin").read_bytes() == large


def test_who_was_given_up_changes_nothing_any_more(study: Path, office: Office) -> None:
    """A machine that was cut off comes back while its trial goes on elsewhere."""
    trial = study / "trial_0000"
    with work_in(trial, blind(office, trial)) as old:
        (old.folder / "result.json").write_text("one")
        old.save()
        with work_in(trial, blind(office, trial)) as new:
            assert (new.folder / "result.json").read_text() == "one"
            (old.folder / "result.json").write_text("of the old one")
            with pytest.raises(MovedError, match="trial_0000 goes on elsewhere"):
                old.save()
            assert old.ask is not None
            with pytest.raises(MovedError):
                old.ask("report", 2, {})
            (new.folder / "result.json").write_text("two")
    assert (trial / "result.json").read_text() == "two"


def test_a_question_that_is_asked_again_changes_nothing(study: Path, office: Office) -> None:
    trial = study / "trial_0000"
    with work_in(trial, blind(office, trial)) as place:
        assert place.ask is not None
        for _ in range(2):
            place.ask("commit", 0, [], [], b"once\n", False)
        place.ask("store", 0, [])
        assert (trial / "logs.txt").read_text() == "once\n"
        assert not (trial / ".incoming").exists()


def test_the_drivers_faults_are_the_workers(study: Path, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    trial = study / "trial_0000"
    monkeypatch.setattr("mistral_ner.hyperopt.cluster.transport.apply", full)
    with pytest.raises(files.DiskFullError, match=r"cannot write in .*results/s"):  # noqa: SIM117
        with work_in(trial, blind(office, trial)) as place:
            place.save()
    with pytest.raises(UserError, match="must name a folder that exists, found /no/such/model"):
        office.issue(trial).ask("model", check({"output_dir": ".", "model": {"model_name": "/no/such/model"}}).model)


def test_an_office_that_is_closed_says_so(study: Path, tmp_path: Path) -> None:
    office = Office(study)
    road = office.issue(study / "trial_0000")
    office.close()
    with pytest.raises(ConnectionError, match="the search's driver is gone"):
        road.ask("open", road.ticket, "trial_0000")
