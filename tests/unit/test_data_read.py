"""Reading files and hub data: every variant gives the same sentences, every fault one clear message."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.context import InContext
from mistral_ner.data.formats import read_file
from mistral_ner.data.read import Sentence, Splits, load_splits
from mistral_ner.data.schemes import spans
from mistral_ner.errors import UserError
from tests.tagging import tag_lines

# adjacent entities of one type, of two types, a hashtag and a lone # as tokens, an entity that begins with #
TRAIN = [
    Sentence(
        ["Anna", "Li", "Peter", "saw", "Acme", "#", "Ruhr"], ["B-PER", "I-PER", "B-PER", "O", "B-ORG", "O", "B-LOC"]
    ),
    Sentence(["#news", "#acme", "Inc", "\u00fcber", "\u200b", "x\u2028y"], ["O", "B-ORG", "I-ORG", "O", "O", "O"]),
    Sentence(["no", "names", "."], ["O", "O", "O"]),
]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings but the one that files here are train, dev and test in one, or share a sentence."""
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [text for text in found if "the file of train" not in text and "are in train, too" not in text]


def columns(sentences: list[Sentence], separator: str = " ", middle: str = "") -> str:
    rows = ["".join(f"{a}{separator}{middle}{b}\n" for a, b in zip(s.tokens, s.tags, strict=True)) for s in sentences]
    return "\n".join(rows)


def in_scheme(sentences: list[Sentence], scheme: str) -> list[Sentence]:
    """Write IOB2 sentences in another scheme, by code that shares nothing with the package's."""
    letters = {"bioes": "BIES", "bilou": "BILU"}.get(scheme)
    converted = []
    for sentence in sentences:
        tags = list(sentence.tags)
        for start, end, kind in spans(sentence.tags):
            if letters and end - start == 1:
                tags[start] = f"{letters[3]}-{kind}"
            elif letters:
                tags[end - 1] = f"{letters[2]}-{kind}"
            elif start == 0 or sentence.tags[start - 1][2:] != kind:
                tags[start] = f"I-{kind}"
        converted.append(Sentence(sentence.tokens, tags))
    return converted


def files(tmp_path: Path, content: str | bytes, name: str = "train.txt", **settings: Any) -> DataConfig:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    defaults: dict[str, Any] = {"dev_file": str(path), "test_file": str(path)}
    return DataConfig(source="files", train_file=str(path), **(defaults | settings))


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "spaces": (columns(TRAIN), {}),
    "tabs": (columns(TRAIN, "\t"), {}),
    "four columns": (columns(TRAIN, " ", "NN B-NP "), {}),
    "tag column": (columns(TRAIN, "\t").replace("\n", "\tlast\n").replace("\n\tlast\n", "\n\n"), {"tag_column": 1}),
    "token column": (
        "".join(f"7\t{line}\n" if line else "\n" for line in columns(TRAIN, "\t").split("\n")),
        {"token_column": 1},
    ),
    "blank lines with a tab or spaces": (columns(TRAIN, "\t").replace("\n\n", "\n \t\n\n  \n"), {}),
    "docstart": ("-DOCSTART- -X- O O\n\n" + columns(TRAIN, " ", "NN B-NP "), {}),
    "docstart without a blank line": ("-DOCSTART- O\n" + columns(TRAIN), {}),
    "comments": ("# sent_id = 1\n# text = Anna Li O\n" + columns(TRAIN).replace("\n\n", "\n\n# id 2\n#\n#end\n"), {}),
    "comments in a file of tabs": ("# made by hand O\n" + columns(TRAIN, "\t").replace("\n\n", "\n\n# a = O\n"), {}),
    "byte order mark": ("\ufeff" + columns(TRAIN), {}),
    "byte order mark and windows line ends": ("\ufeff" + columns(TRAIN).replace("\n", "\r\n"), {}),
    "windows line ends": (columns(TRAIN, "\t").replace("\n", "\r\n"), {}),
    "no end of line at the end": (columns(TRAIN).rstrip("\n"), {}),
    "space after the tag": (columns(TRAIN).replace("\n", " \n").replace("\n \n", "\n\n"), {}),
    "iob1": (columns(in_scheme(TRAIN, "iob1")), {}),
    "iob1, said": (columns(in_scheme(TRAIN, "iob1")), {"tag_scheme": "iob1"}),
    "bioes": (columns(in_scheme(TRAIN, "bioes")), {}),
    "bioes, said": (columns(in_scheme(TRAIN, "bioes")), {"tag_scheme": "bioes"}),
    "bilou": (columns(in_scheme(TRAIN, "bilou")), {}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_columns_read_alike(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content, settings = VARIANTS[name]
    splits = load_splits(files(tmp_path, content, **settings))
    assert splits.train == splits.dev == splits.test == TRAIN
    assert splits.types == ["LOC", "ORG", "PER"]
    assert splits.labels == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    assert not warnings(caplog)


@pytest.mark.parametrize(
    "line",
    [
        "x\u3000y O",
        "x\u00a0y O",
        "x\u00a0y\tO",
        "x\tO",
        "x y\tO",
        " x \t O ",
        "x    O",
        "  x O",
        "x O   ",
        "x O \t",
        "x\u2009NN\u2028 O",
        "\u3000 O",
    ],
)
def test_training_and_prediction_see_the_same_columns(line: str, tmp_path: Path) -> None:
    [trained] = read_file(Path(files(tmp_path, f"{line}\n").train_file or ""), DataConfig()).sentences
    seen: list[list[str]] = []

    class Recorder:
        context_sentences = 0

        def stream(self, sentences: Iterable[InContext], done: int = 0) -> Iterator[list[Any]]:
            for one in sentences:
                seen.append(list(one.words))
                yield []

    tagger: Any = Recorder()
    [written] = tag_lines(tagger, "conll", [line])
    assert seen == [trained.tokens]
    [again] = read_file(Path(files(tmp_path, f"{written}\n").train_file or ""), DataConfig()).sentences
    assert (again.tokens, again.tags) == (trained.tokens, ["O"])


def records(sentences: list[Sentence], tokens_key: str = "tokens", tags_key: str = "ner_tags") -> list[dict[str, Any]]:
    return [{tokens_key: sentence.tokens, tags_key: sentence.tags} for sentence in sentences]


def test_json_variants_read_alike(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, records(TRAIN)))
    for content, name, settings in (
        (lines, "a.jsonl", {}),
        (lines + "\n\n", "a.json", {}),
        (json.dumps(records(TRAIN), indent=1), "b.json", {}),
        (lines, "c.txt", {"format": "jsonl"}),
        (lines.replace("ner_tags", "gold"), "d.jsonl", {"tags_key": "gold"}),
        ("\ufeff" + lines.replace("\n", "\r\n"), "e.jsonl", {}),
    ):
        assert load_splits(files(tmp_path, content, name, **settings)).train == TRAIN


def class_labels() -> datasets.Features:
    names = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
    return datasets.Features(
        tokens=datasets.List(datasets.Value("string")), ner_tags=datasets.List(datasets.ClassLabel(names=names))
    )


def test_parquet_with_texts_and_with_class_labels(tmp_path: Path) -> None:
    texts, numbers = tmp_path / "texts.parquet", tmp_path / "numbers.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(records(TRAIN)), texts)
    datasets.Dataset.from_list(records(TRAIN), features=class_labels()).to_parquet(numbers)
    for path in (texts, numbers):
        splits = load_splits(DataConfig(source="files", train_file=str(path), dev_file=str(path), test_file=str(path)))
        assert splits.train == splits.dev == TRAIN


def test_hub_data_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    for split, rows in (("train", TRAIN * 4), ("validation", TRAIN), ("test", TRAIN[:1])):
        dataset = datasets.Dataset.from_list(records(rows), features=class_labels())
        dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    splits = load_splits(DataConfig(source="hub", hub_name=str(folder)))
    assert (splits.train, splits.dev, splits.test) == (TRAIN * 4, TRAIN, TRAIN[:1])


def test_hub_data_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"nobody/nothing: the data set must be on the hub or in the local cache"
    ) as info:
        load_splits(DataConfig(source="hub", hub_name="nobody/nothing"))
    assert "HF_HOME" in str(info.value)
    assert "data=files data.train_file=PATH" in str(info.value)


def test_hub_scripts_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('was run')")
    with pytest.raises(UserError, match=r"refs/convert/parquet"):
        load_splits(DataConfig(source="hub", hub_name=str(folder)))


# ruff: noqa: E501 (a fault a line reads best)
BAD: dict[str, tuple[str | bytes, str, dict[str, Any], str]] = {
    "latin-1": ("Stra\xdfe O\n".encode("latin-1"), "a.txt", {}, r"a\.txt:1: text must be UTF-8.*data\.encoding=latin-1"),
    "latin-1, later": (b"a O\nb O\n\xdf O\n", "a.txt", {}, r"a\.txt:3: text must be UTF-8"),
    "utf-16": ("a O\n".encode("utf-16"), "a.txt", {}, r"data\.encoding=utf-16"),
    "utf-16 without a mark": ("a O\n".encode("utf-16-le"), "a.txt", {}, r"a\.txt:1: text must not hold NUL bytes.*data\.encoding=utf-16-le"),
    "nul, later": ("a O\nb\0 O\n", "a.txt", {}, r"a\.txt:2: text must not hold NUL bytes"),
    "empty token in json": ('{"tokens": [""], "ner_tags": ["O"]}', "a.jsonl", {}, r":1: a token must not be empty"),
    "half a character": ('{"tokens": ["\\ud83d"], "ner_tags": ["O"]}', "a.jsonl", {}, r":1: .* not half a surrogate pair"),
    "lists in lists": ("[" * 200_000, "a.jsonl", {}, r":1: a record must be a JSON object, not lists in lists"),
    "empty": ("", "a.txt", {}, r"a\.txt: a data file must hold sentences, found an empty file"),
    "blank": ("\n \n\t\n", "a.txt", {}, r"a\.txt: a data file must hold sentences, found none in it as conll"),
    "blank json": ("\n\n", "a.jsonl", {}, r"found none in it as jsonl"),
    "one column": ("Anna\nsaw\n", "a.txt", {}, r"a\.txt:1: a token line needs at least two columns, found 'Anna'"),
    "one column, later": ("a O\n\nb\n", "a.txt", {}, r"a\.txt:3: a token line needs at least two columns, found 'b'"),
    "more columns": ("a O\nNew York B-LOC\n", "a.txt", {}, r"a\.txt:2: a line must have 2 columns.*'New York B-LOC'"),
    "unknown prefix": ("a O\nb X-PER\n", "a.txt", {}, r"a\.txt:2: unknown tag 'X-PER'.*found 'b X-PER'"),
    "bare type": ("a PER\n", "a.txt", {}, r"a\.txt:1: unknown tag 'PER'"),
    "prefix alone": ("a B-\n", "a.txt", {}, r"unknown tag 'B-'"),
    "lower case": ("a b-per\n", "a.txt", {}, r"unknown tag 'b-per'"),
    "wrong column": ("a\tB-PER\tNNP\n", "a.txt", {"tag_column": 2}, r"unknown tag 'NNP'.*fix: data\.token_column=0 data\.tag_column=1\n?$"),
    "no such column": ("a O\n", "a.txt", {"tag_column": 4}, r"data\.tag_column=4 is not among the 2 columns"),
    "no such token column": ("a O\n", "a.txt", {"token_column": -3}, r"data\.token_column=-3 is not among"),
    "empty token": ("a\tO\n\tO\n", "a.txt", {}, r"a\.txt:2: a token must not be empty"),
    "wrong scheme": ("a O\nb S-PER\n", "a.txt", {"tag_scheme": "iob2"}, r"a\.txt:2: the prefixes .* are B, I, found 'b S-PER'"),
    "10 MB line": ("a O\n" + "x" * 10_000_000, "a.txt", {}, r"a\.txt:2: a line may have 1,000,000 characters at most"),
    "10 MB json line": ("x" * 10_000_000, "a.jsonl", {}, r"a\.jsonl:1: a line must be valid JSON \(Expecting value\), found 'xxx.* \(10,000,000 characters\)"),
    "no entity": ("a O\nb O\n", "a.txt", {}, r"train must hold entities, found 1 sentences whose tags are all O"),
    "broken json": ('{"tokens": ["a"], "ner_tags": ["O"]}\n{"tok\n', "a.jsonl", {}, r"a\.jsonl:2: a line must be valid JSON"),
    "no object": ('["a"]', "a.jsonl", {}, r"a record must be a JSON object, found 'a'"),
    "no tokens": ('{"text": "a", "ner_tags": ["O"]}', "a.jsonl", {}, r"column 'tokens' \(data\.tokens_key\), found text"),
    "no tags": ('{"tokens": ["a"]}', "a.jsonl", {}, r"column 'ner_tags' \(data\.tags_key\), found tokens"),
    "a key is missing later": ('{"tokens":["a"],"ner_tags":["O"]}\n{"tokens":["a"]}', "a.jsonl", {}, r"a\.jsonl:2: .*key 'ner_tags'"),
    "lengths": ('{"tokens": ["a", "b"], "ner_tags": ["O"]}', "a.jsonl", {}, r":1: tokens and tags must have one length, not 2 and 1"),
    "numbers": ('{"tokens": ["a"], "ner_tags": [3]}', "a.jsonl", {}, r"tags are numbers.*found '3'.*ClassLabel"),
    "text for tokens": ('{"tokens": "a b", "ner_tags": ["O"]}', "a.jsonl", {}, r"tokens must be a list of texts, found 'a b'"),
    "number as token": ('{"tokens": [1], "ner_tags": ["O"]}', "a.jsonl", {}, r"tokens must be a list of texts"),
    "text for tags": ('{"tokens": ["a"], "ner_tags": "O"}', "a.jsonl", {}, r"tags must be a list of texts, found 'O'"),
    "json tag": ('{"tokens": ["a"], "ner_tags": ["PER"]}', "a.jsonl", {}, r"a tag must be O or one of .*found 'PER'"),
    "null tag": ('{"tokens": ["a"], "ner_tags": [null]}', "a.jsonl", {}, r"a tag must be O or one of .*found 'None'"),
    "no parquet": ("a O\n", "a.parquet", {}, r"a\.parquet: not a readable Parquet file.*data\.format=conll"),
    "too few to split": ("a B-PER\n\nb O\n", "a.txt", {"dev_file": None, "test_file": None}, r"train, which has only 2 sentences"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_has_one_clear_message(name: str, tmp_path: Path) -> None:
    content, file, settings, message = BAD[name]
    with pytest.raises(UserError, match="(?s)" + message) as info:
        load_splits(files(tmp_path, content, file, **settings))
    text = str(info.value)
    assert file in text or "train" in text
    assert "\n  fix: " in text
    assert len(text) < 700


def test_parquet_numbers_without_names(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"tokens": [["a"]], "ner_tags": [[1]]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet:1: tags are numbers whose names the file does not say"):
        load_splits(DataConfig(source="files", train_file=str(tmp_path / "a.parquet")))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("a O\n")
    cases: list[tuple[Path, str]] = [
        (
            tmp_path / "trian.conll",
            r"data\.train_file=.*trian\.conll: there is no such file \(did you mean 'train\.conll'\?\)",
        ),
        (tmp_path, r"must be a file, or a folder with \.ann files, found a folder \(with train\.conll\)"),
        (tmp_path / "none" / "x", r"no such file, nor its folder"),
    ]
    for path, message in cases:
        with pytest.raises(UserError, match=message):
            load_splits(DataConfig(source="files", train_file=str(path)))


def test_stray_inside_tags_are_repaired_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "a B-PER\nb I-ORG\nc I-ORG\n\nd B-LOC\ne O\nf I-LOC\n"
    splits = load_splits(files(tmp_path, text))
    assert splits.train[0].tags == ["B-PER", "B-ORG", "I-ORG"]
    assert splits.train[1].tags == ["B-LOC", "O", "B-LOC"]
    found = warnings(caplog)
    assert len(found) == 3  # one for each of the three splits that are this file
    assert re.search(r"train\.txt: 2 entities did not begin with B-: repaired in line 2, 7$", found[0])


def test_types_that_train_does_not_have_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "dev.txt").write_text("a B-NEW\nb B-PER\n")
    (tmp_path / "test.txt").write_text("a O\n")
    data = files(tmp_path, "a B-PER\n", dev_file=str(tmp_path / "dev.txt"), test_file=str(tmp_path / "test.txt"))
    assert load_splits(data).types == ["NEW", "PER"]
    assert "dev has entity types that train does not have: NEW" in caplog.text
    assert "test has no entity at all" in caplog.text


def test_another_key_is_taken_with_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    content = "\n".join(map(json.dumps, records(TRAIN, "words", "labels")))
    assert load_splits(files(tmp_path, content, "a.jsonl")).train == TRAIN
    assert "has no 'ner_tags': reading 'labels' instead" in caplog.text


def test_sentences_without_a_token_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = "\n".join(map(json.dumps, [*records(TRAIN), {"tokens": [], "ner_tags": []}]))
    assert load_splits(files(tmp_path, content, "a.jsonl")).train == TRAIN
    assert "left out 1 sentences without a token" in caplog.text


def many(count: int) -> str:
    return "".join(f"w{number} B-PER\nx O\n\n" for number in range(count))


def first_tokens(splits: Splits) -> list[list[str]]:
    return [[sentence.tokens[0] for sentence in part] for part in (splits.train, splits.dev, splits.test)]


def test_missing_splits_come_from_train_always_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = files(tmp_path, many(50), dev_file=None, test_file=None)
    train, dev, test = first_tokens(load_splits(data))
    assert (len(train), len(dev), len(test)) == (40, 5, 5)
    assert sorted(train + dev + test) == sorted(f"w{number}" for number in range(50))
    assert first_tokens(load_splits(data)) == [train, dev, test]
    assert dev == ["w6", "w19", "w39", "w40", "w45"]  # on every machine
    assert "split from the 50 train sentences: 5 for dev and 5 for test; 40 stay in train" in caplog.text
    other = files(tmp_path, many(50), dev_file=None, test_file=None, split_seed=14, dev_fraction=0.2)
    assert [len(part) for part in first_tokens(load_splits(other))] == [35, 10, 5]
    assert not set(first_tokens(load_splits(other))[1]) <= set(dev)


def test_limits_take_the_first_sentences(tmp_path: Path) -> None:
    data = files(tmp_path, many(9), max_train_sentences=3, max_dev_sentences=2, max_test_sentences=20)
    train, dev, test = first_tokens(load_splits(data))
    assert (train, dev, len(test)) == (["w0", "w1", "w2"], ["w0", "w1"], 9)
