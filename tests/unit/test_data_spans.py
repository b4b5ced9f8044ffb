"""Text with spans of characters, as annotation tools write it: the right words, tags and counts, or one message."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.formats import read_file
from mistral_ner.data.read import load_splits
from mistral_ner.data.schemes import spans
from mistral_ner.data.source import FileRead
from mistral_ner.errors import UserError

TEXT = "Ada lives in Bern."
TWO = {"start": 0, "end": 3, "label": "PER"}, {"start": 13, "end": 17, "label": "LOC"}
LISTS = [[0, 3, "PER"], [13, 17, "LOC"]]
TOKENS = [{"text": "Ada", "start": 0, "end": 3}, {"text": "lives in", "start": 4, "end": 12}]
TOKENS += [{"text": "Bern.", "start": 13, "end": 18}]
MARKS = [{"type": "labels", "value": {"start": 0, "end": 3, "text": "Ada", "labels": ["PER"]}}]
MARKS += [{"type": "labels", "value": {"start": 13, "end": 17, "text": "Bern", "labels": ["LOC"]}}]
TASK = {"id": 1, "data": {"text": TEXT}, "annotations": [{"result": [*MARKS, {"type": "relation"}]}]}
NAMED = [{"start": 0, "end": 3, "entity_group": "PER"}, {"start": 13, "end": 17, "entity_group": "LOC"}]
OFFSETS = [{"id": 1, "start_offset": 0, "end_offset": 3, "label": "PER"}]
OFFSETS += [{"id": 2, "start_offset": 13, "end_offset": 17, "label": "LOC"}]

# a tool's name and a record of it
FORMS: dict[str, tuple[str, Any]] = {
    "doccano, labels": ("doccano", {"id": 1, "text": TEXT, "labels": LISTS}),
    "doccano, label": ("doccano", {"text": TEXT, "label": LISTS}),
    "doccano, data": ("doccano", {"data": TEXT, "label": LISTS}),
    "doccano with relations": ("doccano", {"text": TEXT, "entities": OFFSETS, "relations": []}),
    "spaCy, entities": ("spaCy", {"text": TEXT, "entities": LISTS}),
    "spaCy, to_json": ("spaCy", {"text": TEXT, "ents": list(TWO)}),
    "Prodigy": ("Prodigy", {"text": TEXT, "spans": list(TWO), "answer": "accept"}),
    "Label Studio": ("Label Studio", TASK),
    "Label Studio, completions": ("Label Studio", {"data": TASK["data"], "completions": TASK["annotations"]}),
    "Label Studio, short": ("Label Studio", {"text": TEXT, "label": [mark["value"] for mark in MARKS]}),
    "Hugging Face": ("Hugging Face", {"text": TEXT, "entities": NAMED}),
}  # fmt: skip


def read(tmp_path: Path, content: Any, name: str = "a.jsonl", **settings: Any) -> FileRead:
    """Read a file of one record, of several, or of text."""
    path = tmp_path / name
    if not isinstance(content, str):
        content = "\n".join(map(json.dumps, content if isinstance(content, list) else [content]))
    path.write_text(content, encoding="utf-8", newline="")
    return read_file(path, DataConfig(source="files", **settings))


def entities(found: FileRead) -> list[str]:
    """The entities as their words, joined by spaces, and their types."""
    return [
        f"{' '.join(sentence.tokens[start:end])} {kind}"
        for sentence in found.sentences
        for start, end, kind in spans(sentence.tags)
    ]


def texts(found: FileRead) -> list[str]:
    return [" ".join(sentence.tokens) for sentence in found.sentences]


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_tools(form: str, tmp_path: Path) -> None:
    tool, record = FORMS[form]
    for content, name in ((record, "a.jsonl"), (json.dumps([record], indent=2), "a.json")):
        found = read(tmp_path, content, name)
        assert found.format == tool
        assert texts(found) == ["Ada lives in Bern ."]
        assert entities(found) == ["Ada PER", "Bern LOC"]


def test_pairs_of_spacy(tmp_path: Path) -> None:
    assert entities(read(tmp_path, json.dumps([[TEXT, {"entities": LISTS}]]), "a.json")) == ["Ada PER", "Bern LOC"]


def test_words_and_tags_win_over_spans(tmp_path: Path) -> None:
    """As prediction writes them, with places that count characters of the joined words."""
    record = {"text": "x", "tokens": ["Ada"], "ner_tags": ["B-PER"], "entities": [{"start": 0, "end": 3}]}
    assert entities(read(tmp_path, record)) == ["Ada PER"]


def test_the_words_that_a_tool_gives_are_taken(tmp_path: Path) -> None:
    found = read(tmp_path, {"text": TEXT, "tokens": TOKENS, "spans": list(TWO)})
    assert found.sentences[0].tokens == ["Ada", "lives in", "Bern."]
    assert entities(found) == ["Ada PER", "Bern. LOC"]


def test_places_count_the_characters_of_the_sentence(tmp_path: Path) -> None:
    text = "Zoë 😀 met\n  王小明 in São Paulo."
    [first, second] = read(tmp_path, {"text": text, "label": [[12, 15, "PER"], [19, 28, "LOC"]]}).sentences
    assert second.tokens == ["王", "小", "明", "in", "São", "Paulo", "."]
    assert second.tags == ["B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]
    for sentence in (first, second):
        assert sentence.text in text.split("\n")[0] + text.split("\n")[1]
        assert [sentence.text[start:end] for start, end in sentence.places or ()] == sentence.tokens


def test_only_what_was_accepted_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = [{"text": "Bo", "spans": [], "answer": answer} for answer in ("reject", "ignore", "accept")]
    assert texts(read(tmp_path, answers)) == ["Bo"]
    assert "2 records that were not accepted left out" in caplog.text
    caplog.clear()
    tasks = [TASK, {**TASK, "annotations": []}, {**TASK, "annotations": [{"was_cancelled": True}]}]
    tasks.append({**TASK, "annotations": [{"result": MARKS[:1]}, {"result": MARKS}]})
    assert entities(read(tmp_path, json.dumps(tasks), "a.json")) == ["Ada PER", "Bern LOC", "Ada PER"]
    assert "2 tasks without an annotation left out" in caplog.text
    assert "1 annotations beside the first of a task left out" in caplog.text


def test_records_that_hold_little(tmp_path: Path) -> None:
    """No span in the first record; a key that Prodigy leaves out; numbers as tables write them; nothing accepted."""
    good = {"text": TEXT, "spans": [{"start": 0.0, "end": 3.0, "label": "PER"}], "answer": "accept"}
    found = read(tmp_path, [{"text": "none", "tokens": [], "answer": "accept"}, {"text": "", "spans": []}, good])
    assert (found.format, entities(found)) == ("Prodigy", ["Ada PER"])
    with pytest.raises(UserError, match=r"found none in it as Prodigy\n  fix: give a file with texts that were"):
        read(tmp_path, {**good, "answer": "reject"})
    with pytest.raises(UserError, match=r"there must be a column 'tokens'"):
        read(tmp_path, {"data": {"text": TEXT}, "annotations": ["x"]})


def test_spans_that_cut_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = {"text": "the Bernese of Adatown", "label": [[4, 8, "LOC"], [15, 18, "PER"], [0, 3, "X"]]}
    found = read(tmp_path, record)
    assert entities(found) == ["the X", "Bernese LOC", "Adatown PER"]
    assert "2 spans widened to whole words (data.on_partial_word=refuse" in caplog.text
    with pytest.raises(UserError, match="2 lines cannot be read") as info:
        read(tmp_path, record, on_partial_word="refuse")
    assert "a.jsonl:1: a span must not cut a word, but 'Bern' is a part of 'Bernese'" in str(info.value)
    assert str(info.value).count("fix: data.on_partial_word=widen") == 1


def test_white_space_around_spans(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    record = {"text": "in  Bern now", "label": [[2, 9, "LOC"], [2, 4, "X"]]}
    found = read(tmp_path, record, on_partial_word="refuse")
    assert entities(found) == ["Bern LOC"]
    assert "1 spans trimmed of white space" in caplog.text
    assert "1 spans without a word left out" in caplog.text
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_the_outermost_span_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = {"text": "University of New Bern", "label": [[18, 22, "LOC"], [0, 22, "ORG"], [14, 22, "LOC"]]}
    assert entities(read(tmp_path, record)) == ["University of New Bern ORG"]
    assert "2 spans inside or across others left out (the outermost is kept)" in caplog.text


def test_lines_are_sentences_but_entities_stay_whole(tmp_path: Path) -> None:
    record = {"text": "Hello. Bo\nof New\nBern\n\nhas it", "label": [[13, 21, "LOC"]]}
    assert texts(read(tmp_path, record)) == ["Hello . Bo", "of New Bern", "has it"]
    assert texts(read(tmp_path, record, sentence_end="blank")) == ["Hello . Bo of New Bern", "has it"]
    found = read(tmp_path, record, sentence_end="punctuation")
    assert texts(found) == ["Hello .", "Bo", "of New Bern", "has it"]
    assert [sentence.text for sentence in found.sentences] == ["Hello.", "Bo", "of New\nBern", "has it"]


BAD: dict[str, tuple[Any, str]] = {
    "outside": ([[0, 30, "PER"]], r"must lie within its text, which has 18 characters, found \"\[0, 30, 'PER'\]\""),
    "backwards": ([[3, 0, "PER"]], "must lie within its text"),
    "without a type": ([[0, 3]], "a span must have a start and an end in characters and a type"),
    "words for numbers": ([["0", "3", "PER"]], "a span must have a start and an end"),
    "another text": ([{"start": 0, "end": 3, "label": "PER", "text": "Bern"}], "must stand there: 'Bern', not 'Ada'"),
}


@pytest.mark.parametrize("name", BAD)
def test_spans_that_cannot_be(name: str, tmp_path: Path) -> None:
    marks, message = BAD[name]
    good = {"text": TEXT, "label": LISTS}
    with pytest.raises(UserError, match=message) as info:
        read(tmp_path, [good, {"text": TEXT, "label": marks}])
    assert "a.jsonl:2: " in str(info.value)
    assert "\n  fix: " in str(info.value)


def test_records_without_their_part(tmp_path: Path) -> None:
    good = {"text": TEXT, "label": LISTS}
    with pytest.raises(UserError, match="2 lines cannot be read") as info:
        read(tmp_path, [good, {"label": LISTS}, {"text": TEXT}])
    assert "a.jsonl:2: every record needs a text" in str(info.value)
    assert "a.jsonl:3: every record needs its spans" in str(info.value)
    with pytest.raises(UserError, match=r"spans: text with label, labels, spans or entities"):
        read(tmp_path, {"text": TEXT})


ANN = "T1\tPER 0 3\tAda\nR1\tx Arg1:T1 Arg2:T2\nT2\tLOC 13 17\tBern\n#1\tAnnotatorNotes T1\tx\n"


def pair(folder: Path, name: str = "a", text: str = TEXT, ann: str = ANN) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.ann").write_text(ann)
    (folder / f"{name}.txt").write_text(text)
    return folder / f"{name}.txt"


def test_brat(tmp_path: Path) -> None:
    path = pair(tmp_path)
    for named in (path, path.with_suffix(".ann"), tmp_path):
        found = read_file(named, DataConfig(source="files"))
        assert found.format == "brat"
        assert entities(found) == ["Ada PER", "Bern LOC"]
    pair(tmp_path, "b", "She met Bo.", "T1\tPER 8 10\tBo\n")
    assert entities(read_file(tmp_path, DataConfig())) == ["Ada PER", "Bern LOC", "Bo PER"]
    splits = load_splits(DataConfig(source="files", train_file=str(tmp_path), dev_file=str(path), test_file=str(path)))
    assert len(splits.train) == 2


def test_entities_in_pieces_and_texts_without_annotations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair(tmp_path, "a", "North and South America", "T1\tLOC 0 5;16 23\tNorth America\nT2\tLOC 10 23\tSouth America\n")
    (tmp_path / "c.txt").write_text("nobody has read this")
    assert entities(read_file(tmp_path, DataConfig())) == ["North and South America LOC"]
    assert "1 discontinuous entities read as one, from their first to their last character" in caplog.text
    assert "1 spans inside or across others left out" in caplog.text
    assert "1 texts without an .ann file left out" in caplog.text


def test_brat_that_cannot_be_read(tmp_path: Path) -> None:
    pair(tmp_path, "a", ann="T1\tPER 0\tAda\nT2 LOC 13 17 Bern\n")
    pair(tmp_path, "b", ann="T1\tPER 0 3\tBern\n")
    with pytest.raises(UserError, match="2 data files cannot be read") as info:
        read_file(tmp_path, DataConfig())
    assert "a.ann:2: an entity must be a number, a type" in str(info.value)
    assert "b.ann:1: a span's text must stand there: 'Bern', not 'Ada'" in str(info.value)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(UserError, match=r"b\.ann: brat has a pair of files, but there is no b\.txt"):
        read_file(tmp_path, DataConfig())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json.dumps({"text": TEXT, "label": LISTS})),
        ("a.conll", "Ada B-PER\nlives O\nin O\nBern B-LOC\n. O\n"),
        ("a.csv", "word,tag\nAda,B-PER\nlives,O\nin,O\nBern,B-LOC\n.,O\n"),
    ],
)
def test_packed_files_and_other_encodings(name: str, content: str, tmp_path: Path) -> None:
    for packed, encoding in ((True, "utf-8"), (False, "utf-16"), (True, "latin-1")):
        path = tmp_path / (f"{name}.gz" if packed else name)
        raw = content.replace("Ada", "Zoë").encode(encoding) if "jsonl" not in name else content.encode(encoding)
        path.write_bytes(gzip.compress(raw) if packed else raw)
        found = read_file(path, DataConfig(source="files", encoding=encoding))
        assert texts(found) == [f"{'Ada' if 'jsonl' in name else 'Zoë'} lives in Bern ."]
        assert len(entities(found)) == 2


def test_packed_brat(tmp_path: Path) -> None:
    for name, content in (("a.txt.gz", TEXT), ("a.ann.gz", ANN)):
        (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    assert entities(read_file(tmp_path / "a.txt.gz", DataConfig())) == ["Ada PER", "Bern LOC"]


def test_a_packed_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"Ada B-PER\n" * 100)[:-9])
    with pytest.raises(UserError, match=r"a\.txt\.gz: a \.gz file must be whole"):
        read_file(path, DataConfig())


def test_the_encoding_that_is_proposed_reads_the_file(tmp_path: Path) -> None:
    for text, encoding in (("Zoë B-PER\n", "latin-1"), ("“Zoë” B-PER\n", "cp1252"), ("Zoë B-PER\n", "utf-16")):
        path = tmp_path / "a.txt"
        path.write_bytes(text.encode(encoding))
        with pytest.raises(UserError, match=r"text must be UTF-8 \(data\.encoding\)") as info:
            read_file(path, DataConfig())
        assert str(info.value).endswith(f"fix: data.encoding={encoding}")
        assert read_file(path, DataConfig(encoding=encoding)).sentences[0].tokens == [text.split()[0]]
