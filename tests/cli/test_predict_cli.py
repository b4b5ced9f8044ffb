"""``python -m mistral_ner.predict`` as a process, and ``make train BEST=…``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.predict.__main__ import main
from tests import warm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any], toy_files: dict[str, str]) -> Path:
    """The folder of a tiny training that has learned its sentences."""
    from mistral_ner.model import forget_base
    from mistral_ner.train import fit

    folder = tmp_path_factory.mktemp("trained")
    config = {
        "output_dir": str(folder / "run"),
        "model": {**tiny_model, "lora_r": 8},
        "data": {"source": "files", **toy_files, "cache_dir": str(folder / "cache")},
        "training": {"num_epochs": 8, "reports": 3, "learning_rate": 1e-2, "threads": 1},
    }
    assert fit(config) > 0.9
    forget_base()
    return folder / "run"


COMMAND = ["-m", "mistral_ner.predict"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def predict(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return warm.run([*COMMAND, *map(str, arguments)], ROOT, ENVIRONMENT, stdin=stdin)


def test_standard_input_comes_back_whole(model: Path) -> None:
    """Through a pipe, in a new process."""
    texts = ["Ada Li saw Oslo .", "", "東京 \u202eعربي\u202c 👩\u200d👩\u200d👧 a\0b", "  Bo Li left Rome . "]
    done = subprocess.run(
        [sys.executable, *COMMAND, str(model)],
        cwd=ROOT,
        env=ENVIRONMENT,
        input="\n".join(texts).encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    rows = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert [row["text"] for row in rows] == texts
    assert [(e["type"], e["text"]) for e in rows[0]["entities"]] == [("PER", "Ada Li"), ("LOC", "Oslo")]
    for row in rows:
        assert all(row["text"][e["start"] : e["end"]] == e["text"] for e in row["entities"])


def test_json_lines_keep_what_else_they_hold(model: Path, tmp_path: Path) -> None:
    rows = [{"id": 7, "tokens": ["Ada", "Li", "saw", "Oslo", "."]}, {"text": "Bo Li left Rome .", "x": None}]
    (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    done = predict(model, "--file", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    first, empty, second = (tmp_path / "out.jsonl").read_text().splitlines()
    assert empty == ""
    assert json.loads(first)["id"] == 7
    assert json.loads(first)["ner_tags"] == ["B-PER", "I-PER", "O", "B-LOC", "O"]
    assert [(e["start"], e["end"]) for e in json.loads(first)["entities"]] == [(0, 6), (11, 15)]
    assert json.loads(second)["x"] is None
    assert [e["text"] for e in json.loads(second)["entities"]] == ["Bo Li", "Rome"]


@pytest.mark.parametrize("column", ["", "\tB-LOC"])
def test_conll_lines_get_tags(model: Path, tmp_path: Path, column: str) -> None:
    words = ["Ada", "Li", "saw", "Oslo", "."]
    block = "".join(f"{word}{column}\n" for word in words)
    (tmp_path / "in.conll").write_text(f"# sent_id = 1\n{block}\n\n-DOCSTART-\n\n{block}")
    done = predict(model, "--file", tmp_path / "in.conll")
    assert done.returncode == 0, done.stderr
    tags = ["B-PER", "I-PER", "O", "B-LOC", "O"]
    tagged = "".join(f"{word}{column}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
    assert done.stdout.decode() == f"# sent_id = 1\n{tagged}\n\n-DOCSTART-\n\n{tagged}"


def test_a_killed_run_goes_on_where_it_was(model: Path, tmp_path: Path) -> None:
    """Its output is that of an unbroken run, long sentences among others, and what was done is not done again."""
    block = "Ada Li saw Oslo .\nBo Li left Rome .\n" * 40 + "we left Lima , " * 80 + "\n\n"
    (tmp_path / "in.txt").write_text(block * 8)
    options = ["--file", tmp_path / "in.txt", "--batch-tokens", 16]
    command = [*COMMAND, str(model), *map(str, options), "--output"]
    record = tmp_path / "out.jsonl.part.json"
    process = warm.Process([*command, str(tmp_path / "out.jsonl")], ROOT, ENVIRONMENT)
    while not record.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "out.jsonl").exists()
    assert 0 < json.loads(record.read_text())["done"]["sentences"] < 656
    done = predict(model, *options, "--output", tmp_path / "out.jsonl", "--resume")
    assert (done.returncode, done.stderr) == (0, b"")
    main([*command[2:], str(tmp_path / "whole.jsonl")])
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl", "whole.jsonl"]


def test_a_killed_run_over_a_folder_goes_on(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Documents of brat's, some in folders below: the pairs are those of an unbroken run."""
    for number in range(120):
        folder = tmp_path / "in" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03}.txt").write_text("Ada Li saw Oslo .\nBo Li left Rome .\n" * (1 + number % 7) * 5)
    (tmp_path / "in" / "a" / "001.ann").touch()
    options = ["--file", tmp_path / "in", "--format", "brat", "--batch-tokens", 16]
    command = [*COMMAND, str(model), *map(str, options), "--output"]
    record, output = tmp_path / "out.part.json", tmp_path / "out"
    process = warm.Process([*command, str(output)], ROOT, ENVIRONMENT)
    while not record.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not output.exists()
    assert 0 < json.loads(record.read_text())["done"]["sentences"] < 4800
    (tmp_path / "out.part" / "cut.ann").write_text("of a write that a kill cut")
    with pytest.raises(SystemExit):
        main([*command[2:], str(output)])
    said = capsys.readouterr().err
    assert "out.part has" in said
    assert "fix: type --resume to go on with it, or rm -r" in said
    before = (tmp_path / "in" / "a" / "001.txt").stat()
    os.utime(tmp_path / "in" / "a" / "001.txt", ns=(1, 1))
    with pytest.raises(SystemExit):
        main([*command[2:], str(output), "--resume"])
    said = capsys.readouterr().err
    assert "--resume cannot go on with" in said
    assert "in with 120 texts (names, sizes and times: " in said
    os.utime(tmp_path / "in" / "a" / "001.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "out.part" / "cut.ann").unlink()
    done = predict(model, *options, "--output", output, "--resume")
    assert (done.returncode, done.stderr) == (0, b"")
    main([*command[2:], str(tmp_path / "whole")])
    found, whole = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (output, tmp_path / "whole")
    )
    assert len(whole) == 240
    assert found == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "whole"]


def test_the_encoding_is_that_of_the_training(model: Path, tmp_path: Path, capfdbinary: Any) -> None:
    shutil.copytree(model / "adapter", tmp_path / "adapter")
    config = tmp_path / "adapter" / "config.yaml"
    assert "encoding: utf-8" in config.read_text()
    config.write_text(config.read_text().replace("encoding: utf-8", "encoding: cp1252"))
    texts = "Ada Li saw Köln .\n“Bo Li” left Rome .\n"
    (tmp_path / "in.txt").write_bytes(texts.encode("cp1252"))
    main([str(tmp_path / "adapter"), "--file", str(tmp_path / "in.txt")])
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.decode("cp1252").splitlines()]
    assert [row["text"] for row in rows] == texts.splitlines()
    assert rows[0]["entities"][0]["text"] == "Ada Li"
    (tmp_path / "in.txt").write_bytes(texts.encode("utf-16"))
    main([str(tmp_path / "adapter"), "--file", str(tmp_path / "in.txt"), "--encoding", "utf-16"])
    again = [json.loads(line) for line in capfdbinary.readouterr().out.decode("utf-16").splitlines()]
    assert again == rows


def test_mistakes_are_one_message(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    latin = predict(model, "--output", tmp_path / "out" / "x", stdin=b"fine\nB\xf6\n")
    assert latin.returncode == 1
    assert latin.stderr.startswith(b"error: standard input:2: text must be UTF-8 (--encoding), found ")
    assert latin.stderr.endswith(b"fix: --encoding=latin-1\n")
    assert list((tmp_path / "out").iterdir()) == []  # nothing half-written
    for arguments, message in (
        ([tmp_path, "--text", "x"], b"must hold adapter_model.safetensors"),
        ([model, "--file", tmp_path / "none.txt"], b"No such file"),
        ([model, "--format", "xml"], b"invalid choice: 'xml'"),
        ([model, "--max-length", "7"], b"whole number of at least 8"),
        ([model, "--text", "x", "--resume"], b"--resume goes on with a file or folder that is read and one that is"),
        ([model, "--encoding", "hex"], b"must be an encoding that Python knows, found 'hex'; type --encoding=utf-8"),
        ([model, "--text", "x", "--device", "gpu"], b"--device must be cpu, cuda or cuda:N, found gpu"),
    ):
        done = predict(*arguments)
        assert done.returncode != 0
        assert message in done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout == b""


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ("multirun/x", "--config-dir multirun/x --config-name best_config"),
        ("a/winner.yaml", "--config-dir a/ --config-name winner"),
        ("", "launch.py seed=1"),
    ],
)
def test_make_train_takes_a_best_config(best: str, expected: str) -> None:
    command = ["make", "-n", "train", f"BEST={best}", "ARGS=seed=1"]
    # `make test` hands its own flags down, with which make would announce the directory it leaves.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert expected in " ".join(done.stdout.splitlines()[-1].split())
