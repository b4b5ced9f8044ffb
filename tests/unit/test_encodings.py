"""One reader of text for training and prediction: encodings, line numbers of what is wrong, and the way back."""

from __future__ import annotations

import gzip
import io
import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.formats import read_file
from mistral_ner.data.source import Text, read_text
from mistral_ner.errors import UserError
from mistral_ner.predict.columns import Reading
from mistral_ner.predict.formats import read_items, tag_items
from mistral_ner.predict.output import open_output
from mistral_ner.predict.source import open_source
from tests.unit.test_predict_formats import Tagger

CONLL = "# größer\nAda\tB-PER\nfährt\tO\nnach\tO\nBern\tB-LOC\n\n“Zoë”\tO\r\n"
TAGGED = "# größer\nAda\tB-PER\tB-PER\nfährt\tO\tO\nnach\tO\tO\nBern\tB-LOC\tB-LOC\n\n“Zoë”\tO\tO\n"


def predict(file: Path, output: Path, encoding: str, resume_at: int = 0, tagger: Any = None) -> None:
    tagger = tagger or Tagger()
    source = open_source(None, str(file), None, lambda: encoding)
    with closing(source), open_output(str(output), source, {}, bool(resume_at)) as out:
        for place, tagged in enumerate(tag_items(tagger, read_items(source, Reading()), resume_at), 1):
            out.write(tagged)
            if place == 1 and not resume_at and output.name.startswith("killed"):
                raise KeyboardInterrupt


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-be", "utf-8-sig", "gb18030"])
def test_columns_come_back_in_their_encoding(encoding: str, packed: bool, tmp_path: Path) -> None:
    plain, tagged = (text.replace("“", "«").replace("”", "»") for text in (CONLL, TAGGED))
    suffix = ".conll.gz" if packed else ".conll"
    file, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    file.write_bytes(gzip.compress(plain.encode(encoding)) if packed else plain.encode(encoding))
    predict(file, output, encoding)
    content = gzip.decompress(output.read_bytes()) if packed else output.read_bytes()
    assert content == tagged.encode(encoding), "a byte order mark at the start only"
    found = read_file(output, DataConfig(encoding=encoding, tag_column=2))
    gold = read_file(file, DataConfig(encoding=encoding))
    assert [one.tokens for one in found.sentences] == [one.tokens for one in gold.sentences]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_run_that_goes_on_writes_no_second_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "in.conll").write_bytes(CONLL.encode(encoding))
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "in.conll", tmp_path / "killed", encoding)
    predict(tmp_path / "in.conll", tmp_path / "killed", encoding, resume_at=1)
    assert (tmp_path / "killed").read_bytes() == TAGGED.encode(encoding)


def test_json_escapes_what_the_encoding_does_not_have(tmp_path: Path) -> None:
    text = "Ada größer \u4e2d \U0001f600 \ud83d"
    (tmp_path / "in.jsonl").write_bytes(json.dumps({"text": text, "id": "ß"}).encode("latin-1"))
    for encoding in ("latin-1", "utf-8", "utf-16"):
        (tmp_path / "in.jsonl").write_bytes(json.dumps({"text": text, "id": "ß"}).encode(encoding))
        predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl", encoding)
        content = (tmp_path / "out.jsonl").read_bytes().decode(encoding)
        record = json.loads(content)
        assert (record["text"], record["id"], record["entities"][0]["text"]) == (text, "ß", "Ada")
        assert "größer" in content
        assert ("\\ud83d\\ude00" in content) == (encoding == "latin-1")


def test_brat_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes("größer als Bern".encode("cp1252"))
    (tmp_path / "in" / "a.ann").write_bytes(b"")
    predict(tmp_path / "in", tmp_path / "out", "cp1252")
    assert (tmp_path / "out" / "a.ann").read_bytes() == b"T1\tLOC 11 15\tBern\n"
    assert (tmp_path / "out" / "a.txt").read_bytes() == (tmp_path / "in" / "a.txt").read_bytes()


def test_a_type_that_the_encoding_cannot_write(tmp_path: Path) -> None:
    class Greek(Tagger):
        def stream(self, sentences: Any, done: int = 0) -> Any:
            from dataclasses import replace

            for found in super().stream(sentences, done):
                yield [replace(entity, type="ΠΡΟΣ") for entity in found]

    (tmp_path / "in.conll").write_bytes(b"Ada\tO\n")
    with pytest.raises(UserError, match=r"in.conll: the model's entity types must have letters of latin-1.*found 'Π'"):
        predict(tmp_path / "in.conll", tmp_path / "out", "latin-1", tagger=Greek())
    assert [path.name for path in tmp_path.iterdir()] == ["in.conll"]


@pytest.mark.parametrize(
    ("content", "tried", "line", "fix"),
    [
        ("größer\n".encode("latin-1"), "utf-8", 1, "data.encoding=latin-1"),
        (b"a\n" * 100_000 + b"\xe4\n" + b"a\n" * 100_000 + b"\x93x\x94\n", "utf-8", 100_001, "data.encoding=cp1252"),
        ("größer\n".encode(), "utf-16", 1, "data.encoding=utf-8"),
        ("größer\n".encode("utf-16-be"), "utf-16", 1, "data.encoding=utf-16-be"),
        ("größer\n".encode("utf-16-le"), "utf-16", 1, "data.encoding=utf-16-le"),
        ("größer\n".encode("utf-16"), "utf-8", 1, "data.encoding=utf-16"),
        (b"a\nb\n\x93 \x81\n", "cp1252", 3, "data.encoding=NAME of the encoding in which it was written"),
        ("größer\n".encode("utf-16")[:-1], "utf-16", 1, "data.encoding=NAME of the encoding in which it was written"),
        ("я".encode("cp1251") * 3 + b"\x81", "utf-8", 1, "data.encoding=NAME of the encoding in which it was written"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_fix_leads_on(content: bytes, tried: str, line: int, fix: str, packed: bool, tmp_path: Path) -> None:
    """What is proposed reads the file; nothing is proposed that was tried already."""
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(content) if packed else content)
    for read in (lambda: read_text(path, tried), lambda: list(Text(io.BytesIO(content), str(path), tried).lines())):
        with pytest.raises(UserError) as info:
            read()
        assert str(info.value).startswith(f"{path}:{line}: text must be {tried.upper()} (data.encoding), found ")
        assert f"\n  fix: {fix}" in str(info.value)
    if "NAME" not in fix:
        read_text(path, fix.partition("=")[2])


def test_standard_input_is_not_read_to_its_end_for_a_message() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    text = Text(Pipe(b"fine\nB\xf6\n" + b"x\n" * 100_000), "standard input", "utf-8", "--encoding")
    with pytest.raises(UserError, match=r"standard input:2: text must be UTF-8 \(--encoding\), found 'fine\\nB�\\nx"):
        list(text.lines())


def test_utf8_read_as_something_else_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content, encoding, said in (
        ("größer\n".encode(), "latin-1", True),
        ("größer\n".encode("latin-1"), "latin-1", False),
        (b"\xe9", "latin-1", False),
        (b"plain\n", "latin-1", False),
        ("größer\n".encode(), "utf-8-sig", False),
    ):
        caplog.clear()
        (tmp_path / "a.txt").write_bytes(content)
        with caplog.at_level(logging.WARNING):
            read_text(tmp_path / "a.txt", encoding)
        assert (
            "a.txt: read as ISO8859-1 (data.encoding), though what it holds beyond ASCII is UTF-8" in caplog.text
        ) == said
