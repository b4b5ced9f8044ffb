"""Every format of training in and out of predict: the same words, gold kept, and predictions that read again."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.context import InContext
from mistral_ner.data.formats import read_file
from mistral_ner.errors import UserError
from mistral_ner.predict.columns import Reading
from mistral_ner.predict.entity import Entity
from mistral_ner.predict.formats import read_items, tag_items
from mistral_ner.predict.output import open_output
from mistral_ner.predict.source import open_source
from tests.conftest import CASES, needs_cases
from tests.unit.test_data_spans import FORMS, LISTS, TEXT, TWO


class Tagger:
    """Finds Ada (PER) and Bern (LOC), and remembers the sentences."""

    context_sentences = 0

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def stream(self, sentences: Iterable[InContext], done: int = 0) -> Iterator[list[Entity]]:
        kinds = {"Ada": "PER", "Bern": "LOC", "Bern.": "LOC"}
        for words in (list(one.words) for one in sentences):
            self.seen += [words] if words else []
            found = [(place, word) for place, word in enumerate(words) if word in kinds]
            yield [Entity(kinds[word], place, place + 1, word, 0.5) for place, word in found]


def predict(file: Path, output: Path | None = None, kind: str | None = None, **data: Any) -> list[list[str]]:
    """Tag a file as the command does; returns the sentences that were tagged."""
    tagger: Any = Tagger()
    source = open_source(None, str(file), kind)
    reading = Reading(data=DataConfig(**data))
    with closing(source), open_output(None if output is None else str(output), source, {}, False) as out:
        for tagged in tag_items(tagger, read_items(source, reading)):
            out.write(tagged)
    return tagger.seen


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def read_back(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("form", FORMS)
def test_predictions_have_the_form_of_the_gold_and_read_as_training_data(form: str, tmp_path: Path) -> None:
    tool, record = FORMS[form]
    gold = read_file(write(tmp_path / "in.jsonl", record), DataConfig())
    assert predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl") == [one.tokens for one in gold.sentences]
    [found] = read_back(tmp_path / "out.jsonl")
    assert {key: found[key] for key in record} == record  # gold is kept
    assert read_file(tmp_path / "out.jsonl", DataConfig()).sentences == gold.sentences  # and stays what training reads
    if tool == "Label Studio" and "data" in record:
        [prediction] = found.pop("predictions")
        other = {"data": record["data"], "annotations": [prediction]}
    else:
        [key] = set(found) - set(record)
        other = {**record, key.removeprefix("predicted_"): found[key]}
    again = read_file(write(tmp_path / "again.jsonl", other), DataConfig())
    assert (again.format, again.sentences) == (tool, gold.sentences)


def test_the_form_of_spans(tmp_path: Path) -> None:
    cases: list[tuple[Any, str, Any]] = [
        ({"text": TEXT, "label": LISTS}, "predicted_label", LISTS),
        ({"text": TEXT, "label": []}, "predicted_label", LISTS),
        ({"text": TEXT, "spans": []}, "predicted_spans", [{**span, "score": 0.5} for span in TWO]),
        ({"text": TEXT, "entities": []}, "predicted_entities", None),
        ({"text": TEXT}, "entities", None),
        ({"text": TEXT, "data": {"n": 1}, "words": ["Bern"], "labels": ["good"]}, "entities", None),
    ]
    own = [
        {"type": "PER", "start": 0, "end": 3, "text": "Ada", "score": 0.5},
        {"type": "LOC", "start": 13, "end": 17, "text": "Bern", "score": 0.5},
    ]
    for record, key, expected in cases:
        predict(write(tmp_path / "in.jsonl", record), tmp_path / "out.jsonl")
        assert read_back(tmp_path / "out.jsonl") == [{**record, key: expected or own}]


def test_tasks_of_label_studio_without_annotations(tmp_path: Path) -> None:
    task = {"id": 3, "data": {"text": TEXT}, "predictions": [{"model_version": "a", "result": []}]}
    predict(write(tmp_path / "in.jsonl", task), tmp_path / "out.jsonl")
    [found] = read_back(tmp_path / "out.jsonl")
    assert found["predictions"][0] == task["predictions"][0]
    result = found["predictions"][1]["result"]
    assert [one["value"]["labels"] for one in result] == [["PER"], ["LOC"]]
    assert {(one["from_name"], one["to_name"], one["type"]) for one in result} == {("label", "text", "labels")}


@pytest.mark.parametrize("values", [[["Ada.", {"entities": []}], ["x", {"entities": [[0, 1, "PER"]]}]], []])
def test_arrays_come_back_as_arrays(values: list[Any], tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text("\n" + json.dumps(values, indent=1))
    predict(tmp_path / "in.json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == [
        [text, {**value, "predicted_entities": [[0, 3, "PER"]] if text == "Ada." else []}] for text, value in values
    ]


def test_words_under_the_keys_of_the_training(tmp_path: Path) -> None:
    records = [{"w": ["Ada", "x"], "t": ["O", "O"]}, {"words": ["Ada"], "tags": ["O"]}, {"tokens": ["Ada"]}]
    records.append({"text": "A  Ada", "tokens": ["A", "Ada"], "ner_tags": ["O", "O"], "offsets": [[0, 1], [3, 6]]})
    predict(write(tmp_path / "in.jsonl", *records), tmp_path / "out.jsonl", tokens_key="w", tags_key="t")
    found = read_back(tmp_path / "out.jsonl")
    assert [one[key] for one, key in zip(found, ("predicted_t", "predicted_tags", "ner_tags"), strict=False)] == [
        ["B-PER", "O"], ["B-PER"], ["B-PER"],
    ]  # fmt: skip
    assert found[3]["predicted_ner_tags"] == ["O", "B-PER"]
    assert [(one["start"], one["end"]) for one in found[3]["entities"]] == [(3, 6)]


def test_texts_are_cut_as_in_training(tmp_path: Path) -> None:
    text = "Ada left.\nBern is far. Ada\n\nknows"
    gold = {"text": text, "label": [[0, 3, "PER"]]}
    for end in ("auto", "blank", "punctuation"):
        trained = read_file(write(tmp_path / "in.jsonl", gold), DataConfig(sentence_end=end))
        seen = predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl", sentence_end=end)
        assert seen == [one.tokens for one in trained.sentences]
        assert read_back(tmp_path / "out.jsonl")[0]["predicted_label"] == [
            [0, 3, "PER"], [10, 14, "LOC"], [23, 26, "PER"],
        ]  # fmt: skip


def test_brat_folders_come_back_as_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("Ada met\r\nBern.\n", newline="")
    (folder / "a.ann").write_text("T1\tPER 0 3\tAda\n")
    (folder / "b" / "c.txt.gz").write_bytes(gzip.compress(b"x\nBern"))
    predict(folder, tmp_path / "out")
    assert (tmp_path / "out" / "a.ann").read_text() == "T1\tPER 0 3\tAda\nT2\tLOC 9 13\tBern\n"
    assert (tmp_path / "out" / "a.txt").read_bytes() == (folder / "a.txt").read_bytes()
    assert (tmp_path / "out" / "b" / "c.ann").read_text() == "T1\tLOC 2 6\tBern\n"
    assert len(read_file(tmp_path / "out", DataConfig()).sentences) == 4
    assert (folder / "a.ann").read_text() == "T1\tPER 0 3\tAda\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    for output in (None, tmp_path / "out", folder):
        with pytest.raises(UserError, match=r"--output must name a new folder for brat's annotations, found"):
            predict(folder, output)
    predict(folder / "a.ann", tmp_path / "one.ann")
    assert (tmp_path / "one.ann").read_text().splitlines()[1] == "T2\tLOC 9 13\tBern"
    with pytest.raises(UserError, match=r"must name a new file for brat's annotations, found .*a.ann"):
        predict(folder / "a.txt", folder / "a.ann")


@pytest.mark.parametrize("name", ["a.conll", "a.tsv", "a.csv", "a.jsonl", "a.txt"])
def test_packed_files(name: str, tmp_path: Path) -> None:
    content = {"a.csv": "word,tag\nAda,O\n", "a.jsonl": '{"tokens": ["Ada"]}\n'}.get(name, "Ada O\n")
    (tmp_path / name).write_text(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    predict(tmp_path / name, tmp_path / "plain")
    for output in ("again.gz", "packed.gz"):
        predict(tmp_path / f"{name}.gz", tmp_path / output)
        assert gzip.decompress((tmp_path / output).read_bytes()) == (tmp_path / "plain").read_bytes()
    assert (tmp_path / "again.gz").read_bytes() == (tmp_path / "packed.gz").read_bytes()
    (tmp_path / f"cut.{name}.gz").write_bytes((tmp_path / f"{name}.gz").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cut.*gz: a .gz file must be whole, found .*\n  fix: pack it again"):
        predict(tmp_path / f"cut.{name}.gz", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_what_no_suffix_says(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    columns = "word tag\n\n" + "# note\nAda B-PER\nlives O\nin O\n\nBern B-LOC\n. O\n"
    (tmp_path / "a.txt").write_text(columns)
    assert predict(tmp_path / "a.txt", tmp_path / "out") == [["Ada", "lives", "in"], ["Bern", "."]]
    assert "a.txt: read as conll, as every line has a tag; --format=text reads it as text" in capsys.readouterr().err
    assert predict(tmp_path / "a.txt", tmp_path / "out", "text")[0] == ["word", "tag"]
    (tmp_path / "b.txt").write_text("Vitamin B-12\n" * 4 + "Ada lives in Bern\n")
    assert len(predict(tmp_path / "b.txt", tmp_path / "out")) == 5
    assert json.loads((tmp_path / "out").read_text().splitlines()[-1])["entities"][0]["text"] == "Ada"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(columns.encode())))))
    assert open_source(None, "-", None).kind == "conll"


def test_what_cannot_be_written_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is Parquet, and predict writes text, conll, csv, jsonl, brat only\n  fix"):
        predict(tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"--file must name a file, or a folder of brat's, found a folder without .ann"):
        predict(tmp_path / "folder")
    with pytest.raises(UserError, match=r"folder: brat has its texts in .txt files, but a folder needs .txt files"):
        predict(tmp_path / "folder", kind="brat")
    with pytest.raises(UserError, match=r"a.ann: brat has its texts in .txt files, but there is no a.txt"):
        predict(tmp_path / "a.ann")
    for record in ({"x": 1}, {"data": {"n": 1}}, {"tokens": [1]}, [1]):
        with pytest.raises(UserError, match=r"in.jsonl:1: a record must (have|be)"):
            predict(write(tmp_path / "in.jsonl", record), tmp_path / "out")


@needs_cases
@pytest.mark.parametrize("name", ["doccano_labels.jsonl", "label_studio.json", "brat.txt"])
def test_files_of_tools(name: str, tmp_path: Path) -> None:
    seen = predict(CASES / name, tmp_path / "out.jsonl")
    assert seen == [sentence.tokens for sentence in read_file(CASES / name, DataConfig()).sentences]
