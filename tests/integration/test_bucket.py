"""A search that is mirrored to a bucket of a real S3 server on loopback, and resumed from it on another machine.

The other machine is another working directory and another cache; the first one's are deleted before.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.mirror.bucket import Bucket
from mistral_ner.hyperopt.mirror.fetch import fetch
from mistral_ner.hyperopt.mirror.keep import Mirror
from mistral_ner.hyperopt.mirror.outbox import Outbox
from mistral_ner.hyperopt.mirror.owner import MARKER, Owner
from mistral_ner.hyperopt.study.storage import JOURNAL
from mistral_ner.training.checkpoint import STATE
from tests import warm

pytest.importorskip("moto.server")

ROOT = Path(__file__).parents[2]
TRIALS = 4
LAG = 4.0  # seconds that the bucket may be behind, on a busy machine


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(port), process)
        yield url
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def until(
    happens: Callable[[], object], process: subprocess.Popen[bytes] | warm.Process | None = None, seconds: float = 180
) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert process is None or process.poll() is None, "it has ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Link:
    """The network to a server: a port that leads to it, and can be closed."""

    def __init__(self, url: str) -> None:
        self._to, self.port = int(url.rpartition(":")[2]), free_port()
        self._open: list[socket.socket] = []
        self.join()

    def join(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while piece := one.recv(1 << 16):
                other.sendall(piece)
            other.shutdown(socket.SHUT_WR)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """What a person sets to use the server, which has an empty bucket, my-bucket."""
    for method, path in (("POST", "moto-api/reset"), ("PUT", "my-bucket")):
        urllib.request.urlopen(urllib.request.Request(f"{server}/{path}", method=method), timeout=30)
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)


def environment(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def ask_for_keys(url: str, after: str) -> None:
    """Let the server check who asks, after so many requests."""
    text = {"Content-Type": "text/plain"}
    asked = urllib.request.Request(f"{url}/moto-api/reset-auth", after.encode(), text, method="POST")
    urllib.request.urlopen(asked, timeout=30)


def run(machine: Path, url: str, *command: str) -> warm.Process:
    machine.mkdir(exist_ok=True)
    env = {**os.environ, **environment(url), "PYTHONPATH": str(ROOT), "MISTRAL_NER_CACHE": str(machine / "cache")}
    return warm.Process(list(command), machine, env, start_new_session=True)


def rows_of(state: bytes | None) -> int:
    return len(json.loads(state)["rows"]) if state else 0


def logged_reports(log: Path, before: datetime) -> Counter[int]:
    """How many reports each trial had made at some time."""
    found: Counter[int] = Counter()
    for line in log.read_text().splitlines():
        made = re.match(r"\[([^]]*)\].*trial (\d+) +report (\d+)/", line)
        if made and datetime.strptime(made[1], "%Y-%m-%d %H:%M:%S,%f") < before:
            found[int(made[2])] = max(found[int(made[2])], int(made[3]))
    return found


def journal_reports(journal: bytes) -> Counter[tuple[int, int]]:
    """How often each report of each trial stands in a journal."""
    entries = [json.loads(line) for line in journal.splitlines()]
    return Counter((one["trial_id"], one["step"]) for one in entries if "intermediate_value" in one)


def test_a_search_goes_on_from_the_bucket_on_another_machine(
    tmp_path: Path, toy_files: dict[str, str], server: str, keys: None
) -> None:
    link = Link(server)
    near = f"http://127.0.0.1:{link.port}"
    search = [
        *(str(ROOT / "launch.py"), "-m", "hyperopt=random", "model=tiny", "data=files", "training.num_epochs=40"),
        *(f"data.{name}={path}" for name, path in toy_files.items()),
        *(f"budget.num_trials={TRIALS}", "budget.max_concurrent=1", "training.reports=3"),
        *("training.per_device_train_batch_size=4", "training.threads=1"),
        *("hyperopt.final.enabled=false", "hyperopt.results_dir=s3://my-bucket/searches", "hyperopt.study_name=mine"),
    ]
    study = Bucket.open("s3://my-bucket/searches/mine")
    first, second = tmp_path / "first", tmp_path / "second"

    process = run(first, near, *search)
    until(lambda: study.read(f"trial_0000/{STATE}"), process)

    with pytest.raises(UserError, match=r"mine is led by process \d+ on .*; fix: wait for its end"):
        fetch("s3://my-bucket/searches/mine", second)

    link.cut()
    log = first / "multirun/mine/hyperopt.log"
    until(lambda: "cannot be written to" in log.read_text(), process)
    link.join()
    until(lambda: "is back after" in log.read_text(), process)
    until(lambda: study.read(f"trial_0001/{STATE}"), process)
    until(lambda: logged_reports(log, datetime.now() - timedelta(seconds=LAG)), process)
    os.killpg(process.pid, signal.SIGKILL)  # the driver and every process of its Ray
    killed = datetime.now()
    output, _ = process.communicate()
    assert len(re.findall("cannot be written to", output)) == 1, output
    assert re.search(r"s3://my-bucket/searches/mine is back after \d+ s", output), output

    in_bucket = {number: rows_of(study.read(f"trial_{number:04d}/{STATE}")) for number in range(TRIALS)}
    made = logged_reports(log, killed - timedelta(seconds=LAG))
    assert sum(made.values()) > 0
    assert all(in_bucket[number] >= reports for number, reports in made.items()), f"{in_bucket} and {made}"
    before = journal_reports(study.read(JOURNAL) or b"")
    (first / "multirun/mine").rename(tmp_path / "gone")
    first.rename(tmp_path / "first machine")

    resumed = run(second, server, "-m", "mistral_ner.hyperopt.resume", "s3://my-bucket/searches/mine")
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, output
    assert "random search completed" in output
    assert not re.search("mirrored no more|lacks the end|cannot be written to", output), output
    assert not first.exists(), "nothing was written to where the first machine had its files"

    folder = second / "multirun/mine"
    trials = list(csv.DictReader((folder / "trials.csv").open()))
    assert len(trials) == TRIALS
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "PRUNED"}
    after = journal_reports((folder / JOURNAL).read_bytes())
    assert set(after.values()) == {1}, "a report was made twice"
    assert before.keys() <= after.keys()
    for name in ("best_config.yaml", "summary.json", "report.html", "final/adapter_model.safetensors"):
        assert (folder / name).is_file()

    here = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    there = study.sizes()
    assert there.pop(MARKER) > 0
    assert there.items() <= here.items()
    hidden = {name for name in here if any(part.startswith(".") for part in name.split("/"))}
    left_out = {name for name in here.keys() - there.keys() - hidden if not name.startswith("experiment_state")}
    assert left_out == {"study.lock", f"{JOURNAL}.flock"}

    # there is nothing to fetch, and nothing to run
    again = run(second, server, "-m", "mistral_ner.hyperopt.resume", "s3://my-bucket/searches/mine")
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    assert "has all that s3://my-bucket/searches/mine has" in output
    assert journal_reports((folder / JOURNAL).read_bytes()) == after


def test_a_bucket_that_cannot_be_used_is_one_message(keys: None, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"there is no bucket no-bucket; fix: aws s3 mb s3://no-bucket$"):
        Bucket.open("s3://no-bucket/x").check()
    with pytest.raises(UserError, match=r"no study 'x' to resume in s3://my-bucket/searches.*fix: its name"):
        fetch("s3://my-bucket/searches/x", Path("multirun"))
    rule = r"a study's mirror must be s3://my-bucket/folder/study or .*, found 's3://study'; fix: "
    with pytest.raises(UserError, match=rule):
        fetch("s3://study", Path("multirun"))
    ask_for_keys(server, after="0")
    try:
        with pytest.raises(UserError, match="it does not let you write there; fix: AWS_ACCESS_KEY_ID"):
            Bucket.open("s3://my-bucket/x").check()
    finally:
        ask_for_keys(server, after="inf")
    place = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{place}")
    with pytest.raises(UserError, match=f"cannot be reached at http://{place}; fix: mend .*, or AWS_ENDPOINT_URL="):
        Bucket.open("s3://my-bucket/x").check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", place)
    with pytest.raises(UserError, match=f"AWS_ENDPOINT_URL must be http://HOST:PORT or https://HOST, found {place}"):
        Bucket.open("s3://my-bucket/x").check()


def test_copies_that_have_both_gone_on(tmp_path: Path, keys: None) -> None:
    """The one that has gone further wins; where both have, a person decides."""
    study = Bucket.open("s3://my-bucket/copies/mine")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text("data: {}\nhyperopt: {}\n")
    (folder / JOURNAL).write_bytes(b"{}\n{}\n")
    study.write(JOURNAL, b'{}\n{"other": 1}\n')
    study.write("config.yaml", b"data: {}\nhyperopt: {}\n")
    with pytest.raises(UserError, match=f"{folder} and s3://my-bucket/copies/mine have each gone on .*; fix: mv "):
        fetch("s3://my-bucket/copies/mine", tmp_path)
    (folder / JOURNAL).write_bytes(b"{}\n")
    assert fetch("s3://my-bucket/copies/mine", tmp_path) == folder
    assert (folder / JOURNAL).read_bytes() == b'{}\n{"other": 1}\n'
    assert (tmp_path / "mine_older" / JOURNAL).read_bytes() == b"{}\n"
    Owner(study).release()
    assert not (tmp_path / "mine_older_2").exists()


def begin(study: Bucket, folder: Path) -> tuple[Owner, Mirror]:
    """Lead a study whose journal has one line, which the bucket has."""
    folder.mkdir()
    owner = Owner(study)
    owner.claim()
    mirror = Mirror(study, folder, owner, Outbox(folder, None, owner.id))
    (folder / JOURNAL).write_bytes(b"{}\n")
    until(lambda: study.read(JOURNAL) == b"{}\n")
    return owner, mirror


def test_a_damaged_marker_is_written_again(tmp_path: Path, keys: None, caplog: pytest.LogCaptureFixture) -> None:
    study, folder = Bucket.open("s3://my-bucket/damaged/mine"), tmp_path / "mine"
    owner, mirror = begin(study, folder)
    study.write(MARKER, b"{")
    (folder / JOURNAL).write_bytes(b"{}\n{}\n")
    until(lambda: study.read(JOURNAL) == b"{}\n{}\n")
    mirror.close()
    assert (owner.find() or {})["over"] == "yes"
    assert "mirrored no more" not in caplog.text


@pytest.mark.parametrize("marker", [True, False], ids=["its marker", "a journal that has gone on"])
def test_a_leader_whose_place_was_taken_sends_no_more(
    tmp_path: Path, keys: None, caplog: pytest.LogCaptureFixture, marker: bool
) -> None:
    """It was cut off for so long that another process has gone on from the bucket; the search itself goes on."""
    study, folder = Bucket.open(f"s3://my-bucket/taken/{marker}"), tmp_path / "mine"
    _, mirror = begin(study, folder)
    if marker:
        study.write(MARKER, json.dumps({"id": "other", "process": "7", "host": "spot-2", "over": ""}).encode())
        said = "process 7 on spot-2 leads the study now"
    else:
        study.write(JOURNAL, theirs := b'{}\n{"theirs": 1}\n')
        study.delete([MARKER])
        said = "another process has gone on with the study"
    (folder / JOURNAL).write_bytes(b'{}\n{"mine": 1}\n')
    until(lambda: said in caplog.text)
    mirror.close()
    assert f"{said}; this search goes on in {folder} and is mirrored no more" in caplog.text
    assert caplog.text.count("mirrored no more") == 1
    assert study.read(JOURNAL) == (b"{}\n" if marker else theirs)
    if marker:
        assert json.loads(study.read(MARKER) or b"")["id"] == "other", "it is not released"


def test_a_marker_can_be_read_while_it_is_written(keys: None) -> None:
    """Its size is asked for first: one that grows, as from beat 9 to 10, was read without its end."""
    owner, sizes = Owner(study := Bucket.open("s3://my-bucket/beats/mine")), set()
    for beat in range(1, 13):
        owner.write(over=beat == 12)
        sizes.add(len(study.read(MARKER) or b""))
        found = owner.find()
        assert found is not None
        assert (found["id"], found["over"]) == (owner.id, "yes" if beat == 12 else "")
    assert len(sizes) == 1
    whole = study.read(MARKER) or b""
    study.write(MARKER, whole[:20])
    threading.Timer(0.3, study.write, (MARKER, whole)).start()
    assert (owner.find() or {})["id"] == owner.id
    study.write(MARKER, b"{")
    assert (owner.find() or {})["id"] == "", "it is damaged, and nobody's"
