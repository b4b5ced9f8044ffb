"""A bucket holds a study that resumes exactly, at every moment while changes are sent and trials go on."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistral_ner import files
from mistral_ner.errors import ConfigError
from mistral_ner.hyperopt.mirror.outbox import Cargo, ChangingError, Outbox, fold
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.storage import JOURNAL, Journal
from mistral_ner.training.checkpoint import STATE, Progress, named_files

SPACE = {"lora_dropout": {"type": "uniform", "low": 0.0, "high": 0.9}}


class Trial:
    """A trial as a study and a folder see it: a checkpoint, then the report that names it, then the journal's line."""

    def __init__(self, study: Path, number: int) -> None:
        self.number, self.journal = number, Journal(study / JOURNAL)
        self.progress = Progress(study / f"trial_{number:04d}", "max", "eval_f1")
        self.journal.append_logs([{"trial": number}])
        files.write_text(self.progress.folder / "config.yaml", "seed: 1\n")

    def report(self) -> None:
        made = len(self.progress.reports) + 1
        checkpoint = self.progress.checkpoints / f"checkpoint-{made}"
        checkpoint.mkdir(parents=True)
        for part in ("adapter.bin", "optimizer.bin"):
            (checkpoint / part).write_bytes(f"{self.number} {made} {part}".encode() * 50)
        # the best one is kept, too
        self.progress.add({"report": made, "eval_f1": float(made % 2)}, checkpoint.name)
        self.journal.append_logs([{"trial": self.number, "report": made}])

    def stop(self) -> None:
        self.journal.append_logs([{"trial": self.number, "end": "stopped"}])
        shutil.rmtree(self.progress.checkpoints)

    def finish(self) -> None:
        files.write_text(self.progress.folder / "adapter/adapter.bin", "best")
        self.progress.finish()
        self.journal.append_logs([{"trial": self.number, "end": "completed"}])


def steps(cargo: Cargo, bucket: dict[str, bytes]) -> Iterator[None]:
    """Send a cargo object by object."""
    for stage in cargo.stages:
        for path, key in stage:
            bucket[key] = path.read_bytes()
            yield
    bucket[JOURNAL] = cargo.journal
    yield
    for path, key in cargo.late:
        bucket[key] = path.read_bytes()
        yield
    folders, alone = fold(cargo.gone, cargo.stamps)
    for gone in [key for key in bucket if key in alone or any(key.startswith(f"{folder}/") for folder in folders)]:
        del bucket[gone]
        yield


def check(bucket: dict[str, bytes], place: Path) -> None:
    """Hold the promise against what is in the bucket now."""
    counted, ended = defaultdict(int), set()
    for line in bucket.get(JOURNAL, b"").splitlines():
        entry = json.loads(line)
        counted[entry["trial"]] = max(counted[entry["trial"]], entry.get("report", 0))
        ended |= {entry["trial"]} if "end" in entry else set()
    for number, reports in counted.items():
        if number in ended:
            continue
        folder = f"trial_{number:04d}"
        state = bucket.get(f"{folder}/{STATE}")
        assert not reports or state is not None, f"trial {number}: its folder lacks the reports that the study counts"
        if state is None:
            continue
        assert len(json.loads(state)["rows"]) >= reports
        files.write_text(place / STATE, state.decode())
        missing = [one for one in named_files(place) if f"{folder}/{one}" not in bucket]
        assert not missing, f"trial {number}: it cannot go on from report {reports}"


def mirror_while(work: threading.Thread, study: Path, place: Path) -> dict[str, bytes]:
    """Send rounds of changes while a thread works in the study, and check the bucket after each object."""
    outbox, bucket = Outbox(study, None, "me"), dict[str, bytes]()
    (study / JOURNAL).touch()
    work.start()
    rounds = 0
    while work.is_alive() or rounds == 0:
        try:
            cargo = outbox.collect()
        except ChangingError:
            continue
        for _ in steps(cargo, bucket):
            check(bucket, place)
            time.sleep(0)
        outbox.note(cargo)
        rounds += 1
    work.join()
    for _ in range(2):  # what was there before the journal was read waits for the next round
        cargo = outbox.collect()
        for _ in steps(cargo, bucket):
            check(bucket, place)
        outbox.note(cargo)
    assert rounds >= 3, "a busy machine makes few"
    return bucket


def work(study: Path) -> None:
    """Let trials report, stop and end, one after the other and in turns."""
    for generation in range(12):
        trials = [Trial(study, 3 * generation + place) for place in range(3)]
        for _ in range(4):
            for trial in trials:
                trial.report()
                time.sleep(0.002)
        trials[0].stop()
        trials[1].finish()  # and the third is cut off


def test_the_bucket_can_be_resumed_from_at_any_moment(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    bucket = mirror_while(threading.Thread(target=work, args=(study,)), study, tmp_path / "place")
    here = {path.relative_to(study).as_posix(): path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert bucket == {key: content for key, content in here.items() if not key.endswith(".flock")}
    assert not any("trial_0000/checkpoint/" in key for key in bucket), "deleted in the bucket as it was here"
    assert any("trial_0035/checkpoint/" in key for key in bucket), "of the trial that was cut off"


def test_a_second_process_sends_only_what_is_new(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    trial = Trial(study, 0)
    trial.report()
    first = Outbox(study, None, "first")
    cargo = first.collect()
    names = sorted(key for stage in cargo.stages for _, key in stage)
    assert [key for _, key in cargo.stages[-1]] == [f"trial_0000/{STATE}"], "after the files that it names"
    first.note(cargo)
    first.save()
    assert Outbox(study, "first", "second").collect().empty
    others = Outbox(study, "somebody else", "second").collect()
    assert sorted(key for stage in others.stages for _, key in stage) == names, "nobody knows what they have written"
    trial.report()
    trial.report()
    new = Outbox(study, "first", "second").collect()
    assert {key.split("/")[2] for stage in new.stages for _, key in stage if "/checkpoint/" in key} == {"checkpoint-3"}


def test_logs_and_locks(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    Trial(study, 0)
    for one in ("hyperopt.log", "trial_0000/logs.txt", "study.lock", "trial_0000/.lock", "experiment_state-1.json"):
        (study / one).write_text("x")
    outbox = Outbox(study, None, "me")
    cargo = outbox.collect(logs=False)
    assert [key for stage in cargo.stages for _, key in stage] == ["trial_0000/config.yaml"]
    outbox.note(cargo)
    cargo = outbox.collect()
    assert [key for stage in cargo.stages for _, key in stage] == ["hyperopt.log", "trial_0000/logs.txt"]
    outbox.note(cargo)
    assert outbox.collect(logs=False).empty, "logs that were sent are not gone"


def test_fold() -> None:
    kept = {"trial_0000/config.yaml": 0, "trial_0000/checkpoint/two/a": 0}
    gone = ["trial_0000/checkpoint/one/a", "trial_0000/checkpoint/one/b", "trial_0000/x", "trial_0001/y/z"]
    assert fold(gone, kept) == (["trial_0000/checkpoint/one", "trial_0001"], ["trial_0000/x"])


def faults(**hyperopt: object) -> list[str]:
    settings = {"strategy": "optuna", **hyperopt}
    with pytest.raises(ConfigError) as raised:
        Plan.of({"output_dir": ".", "search_space": SPACE, "hyperopt": settings})
    return [f"{fault.key}: {fault.rule}" for fault in raised.value.faults]


def test_results_dir_may_name_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"strategy": "optuna", "results_dir": "s3://my-bucket/searches/", "study_name": "s"}
    plan = Plan.of({"output_dir": ".", "search_space": SPACE, "hyperopt": settings})
    assert plan.config.hyperopt.mirror == "s3://my-bucket/searches"
    assert plan.folder == tmp_path / "multirun/s"


def test_what_cannot_be_mirrored() -> None:
    for url in ("hdfs://x/y", "s3://", "s3://KEY:SECRET@my-bucket/x", "s3://my-bucket/x?region=y", "s3://Bucket/x"):
        (found,) = faults(results_dir=url)
        assert found.startswith("hyperopt.results_dir: must be s3://my-bucket/folder or gs://my-bucket/folder")
        assert "SECRET" not in found
    assert faults(mirror="s3://my-bucket/x", storage_url="postgresql://x/y") == [
        "hyperopt.mirror: mirrors a study in its folder, and hyperopt.storage_url puts it into a database"
    ]
    assert faults(mirror="s3://my-bucket/x", results_dir="s3://my-bucket/y") == [
        "hyperopt.results_dir: names a bucket, and hyperopt.mirror another one"
    ]
