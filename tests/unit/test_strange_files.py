"""Files of another kind than their name says, and what must not give a believable wrong result without a word."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.formats import read_file
from mistral_ner.errors import UserError
from tests.unit.test_predict_formats import predict

# ruff: noqa: RUF001 (letters of other scripts)
COLUMNS = "Ada\tB-PER\nleft\tO\nBern\tB-LOC\n\n" * 3
RECORD = json.dumps({"text": "Ada left Bern .", "label": [[0, 3, "PER"], [9, 13, "LOC"]]})


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.csv", "a.jsonl"])
def test_lines_that_end_with_carriage_returns_alone(name: str, tmp_path: Path) -> None:
    """They were one line of many columns, whose first tag was PERleft."""
    path = tmp_path / name
    path.write_bytes(COLUMNS.replace("\n", "\r").encode())
    for read in (lambda: read_file(path, DataConfig()), lambda: predict(path, tmp_path / "out")):
        with pytest.raises(
            UserError, match=r"a.*:1: lines must end with a newline, not with a carriage return"
        ) as info:
            read()
        assert str(info.value).endswith("fix: tr '\\r' '\\n' < OLD > NEW")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        ("Анна\tB-PER\nвидела\tO\nОсло\tB-LOC\n".encode("cp1251"), "NAME"),
        ("Η Άννα\tO\nέφυγε\tO\n".encode("iso8859-7"), "NAME"),
        (COLUMNS.encode() + "Zoë\tO\n".encode() + "Zoë\tO\n".encode("latin-1"), "NAME"),
        (b"PK\x03\x04\x14\x00\x06\x00" + bytes(range(256)) * 3, "NAME"),
        ("Zoë\tB-PER\nfährt\tO\n".encode("latin-1"), "latin-1"),
        ("«Zoë»\tB-PER\n–\tO\n".encode("cp1252"), "cp1252"),
    ],
    ids=["Cyrillic", "Greek", "mixed", "an archive", "German", "dashes"],
)
def test_no_encoding_is_proposed_that_gives_other_letters(content: bytes, fix: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(content)
    with pytest.raises(UserError) as info:
        read_file(tmp_path / "a.conll", DataConfig())
    assert f"fix: data.encoding={fix}" in str(info.value)
    assert ("where only this line is wrong, mend it; a file that is not text has" in str(info.value)) == (fix == "NAME")
    with pytest.raises(UserError, match=rf"fix: --encoding={fix}"):
        predict(tmp_path / "a.conll", tmp_path / "out")


def test_records_under_another_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "a", "a.data"):
        (tmp_path / name).write_text(f"\n{RECORD}\n{RECORD}\n")
        assert [one.tokens for one in read_file(tmp_path / name, DataConfig()).sentences] == [
            ["Ada", "left", "Bern", "."]
        ] * 2
        predict(tmp_path / name, tmp_path / "out")
        assert f"{name}: read as jsonl, as every line is a JSON object; --format=text" in capsys.readouterr().err
        record = json.loads((tmp_path / "out").read_text().splitlines()[1])
        assert record["predicted_label"] == record["label"]
    (tmp_path / "a.txt").write_text("{ O\n} O\n")
    assert read_file(tmp_path / "a.txt", DataConfig(tag_column=1)).format == "conll"


def test_separated_values_under_another_suffix(tmp_path: Path) -> None:
    """Their rows were taken for words, and each got a tag."""
    (tmp_path / "a.tsv").write_text("word,tag\nAda,B-PER\nleft,O\n")
    with pytest.raises(
        UserError, match=r"a.tsv:1: a token line needs at least two columns.*\n.*data.format=csv, jsonl"
    ):
        read_file(tmp_path / "a.tsv", DataConfig())
    with pytest.raises(
        UserError, match=r"a.tsv:1: tabs or spaces must separate columns, and every line has 1 ','"
    ) as info:
        predict(tmp_path / "a.tsv", tmp_path / "out")
    assert str(info.value).endswith("fix: --format=csv")
    assert predict(tmp_path / "a.tsv", tmp_path / "out", "csv") == [["Ada", "left"]]
    (tmp_path / "b.tsv").write_text("Ada\n,\nBern\n")
    assert predict(tmp_path / "b.tsv", tmp_path / "out") == [["Ada", ",", "Bern"]]


def test_cells_with_line_breaks_stay_cells(tmp_path: Path) -> None:
    """The added column came behind a row that had lost its quotes."""
    rows = [
        ["id", "word", "tag"],
        ["1", "Ada", "O"],
        ["1", "two\nlines", "O"],
        ["1", 'a "b", c', "O"],
        ["1", "x\ry", "O"],
    ]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    (tmp_path / "a.csv").write_bytes(text.getvalue().encode())
    predict(tmp_path / "a.csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    assert [row[:3] for row in found] == rows
    assert [row[3] for row in found] == ["predicted", "B-PER", "O", "O", "O"]


def test_long_texts_are_texts(tmp_path: Path) -> None:
    """A book in one record was refused, with the advice to name the format that it had."""
    record: dict[str, Any] = {"text": "Ada left Bern . " * 70_000, "label": [[0, 3, "PER"]]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    assert len(read_file(tmp_path / "a.jsonl", DataConfig()).sentences[0].tokens) == 280_000
    (tmp_path / "a.conll").write_text("Ada\tB-PER\n" + "x" * 1_000_001 + "\tO\n")
    with pytest.raises(UserError, match=r"a.conll:2: a line may have 1,000,000 characters at most.*\n.*jsonl or"):
        read_file(tmp_path / "a.conll", DataConfig())
    with pytest.raises(UserError, match=r"characters at most.*\n.*right file; --format=text is for running text"):
        predict(tmp_path / "a.conll", tmp_path / "out")
