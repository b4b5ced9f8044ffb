"""Files of columns in and out of predict: the training's columns, a column added, every other line as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.columns.layout import Layout
from mistral_ner.data.context import InContext
from mistral_ner.data.formats import read_file
from mistral_ner.errors import UserError
from mistral_ner.predict.columns import Reading
from mistral_ner.predict.entity import Entity
from tests.conftest import CASES, needs_cases
from tests.tagging import tag_lines

OF_COLUMNS = [
    "index_first.conllu", "universal_ner.iob2", "ud_comment_five_columns.iob2", "nested_layers.iob2", "bmes.char.bmes",
    "gmb.csv", "hipe_header.tsv", "ontonotes.gold_conll",
]  # fmt: skip


class Tagger:
    """Finds a PER in each sentence's first word, and remembers the sentences."""

    context_sentences = 0

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def stream(self, sentences: Iterable[InContext], done: int = 0) -> Iterator[list[Entity]]:
        for one in sentences:
            words = list(one.words)
            if words:
                self.seen.append(words)
            yield [Entity("PER", 0, 1, words[0], 1.0)] if words else []


def tag(text: str, reading: Reading, kind: str = "conll") -> tuple[list[list[str]], list[str]]:
    """Return the sentences that were tagged, and the lines that came back."""
    tagger: Any = Tagger()
    lines = tag_lines(tagger, kind, text.split("\n"), reading)
    return tagger.seen, lines


def layout_of(path: Path) -> Layout:
    layout: Layout = read_file(path, DataConfig()).layout
    return layout


@needs_cases
@pytest.mark.parametrize("name", OF_COLUMNS)
def test_predict_reads_the_sentences_of_training_and_adds_a_column(name: str) -> None:
    trained = read_file(CASES / name, DataConfig())
    text = (CASES / name).read_text(encoding="utf-8").removesuffix("\n")
    kind = "csv" if name.endswith("csv") else "conll"
    seen, lines = tag(text, Reading(trained.layout), kind)
    assert seen == [sentence.tokens for sentence in trained.sentences]
    numbers = {number for sentence in trained.sentences for number in sentence.lines}
    for number, (before, after) in enumerate(zip(text.split("\n"), lines, strict=True), 1):
        if number in numbers:
            gap = "," if kind == "csv" else "\t" if "\t" in before else " "
            assert after in [f"{before.rstrip()}{gap}{tag}" for tag in ("B-PER", "O")]
        elif before != after:  # a header, or what CoNLL-U leaves out
            assert after.rsplit(maxsplit=1)[-1].rpartition(",")[2] in ("predicted", "_")
    assert sum(line.endswith("B-PER") for line in lines) >= len(seen)


@needs_cases
def test_comments_come_back_as_they_were_and_gold_is_kept() -> None:
    path = CASES / "ud_comment_five_columns.iob2"
    _, lines = tag(path.read_text(), Reading(layout_of(path)))
    assert lines[:4] == [
        "# sent_id = a-1", "# text = Hello Goethe", "1\tHello\tO\t-\t-\tB-PER", "2\tGoethe\tB-PER\t-\tx\tO",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\tAda\n2\tLi", ["Ada", "Li"]),  # without the training's tags
        ("1\tAda\tO\t-\t-\n2\tLi\tO\t-\t-", ["Ada", "Li"]),
        ("1\tAda\tO\n2\tLi\tO", ["Ada", "Li"]),
        ("Ada\nLi", ["Ada", "Li"]),
    ],
)
def test_other_files_than_the_training_file(text: str, words: list[str]) -> None:
    saved = Layout(1, 2, 0, width=5)
    seen, lines = tag(text, Reading(saved))
    assert seen == [words]
    assert lines == [f"{line}\t{tag}" for line, tag in zip(text.split("\n"), ["B-PER", "O"], strict=True)]


def test_words_by_the_name_that_the_training_file_gave_them() -> None:
    saved = Layout(2, 3, names=("id", "pos", "word", "tag"), width=4)
    seen, lines = tag("word\tlemma\nAda\tada\nLi\tli", Reading(saved))
    assert seen == [["Ada", "Li"]]
    assert lines == ["word\tlemma\tpredicted", "Ada\tada\tB-PER", "Li\tli\tO"]


def test_a_column_without_words_is_refused_and_a_typed_one_is_taken() -> None:
    text = "O\tAda\nB-PER\tLi\n"
    with pytest.raises(UserError, match=r"x.conll:1: column 0 must hold words, and holds tags.*\n.*--token-column=1$"):
        tag(text, Reading(Layout(0, 1, width=2)))
    with pytest.raises(UserError, match=r"--token-column=2 is not a column of x.conll; there are 0 to 1"):
        tag(text, Reading(typed="2"))
    assert tag(text, Reading(typed="1"))[0] == tag(text, Reading(typed="-1"))[0] == [["Ada", "Li"]]


def test_sentences_end_where_the_training_files_ended() -> None:
    text = "Ada\n.\nBo\n.\nCy"
    assert tag(text, Reading(data=DataConfig(sentence_end="punctuation")))[0] == [["Ada", "."], ["Bo", "."], ["Cy"]]
    assert tag(text, Reading())[0] == [["Ada", ".", "Bo", ".", "Cy"]]


def test_every_line_of_a_long_file_comes_back_in_order() -> None:
    blocks = [f"# id = {number}\n{number} a\n# a b c\n{number} b\n\n" for number in range(4000)]
    seen, lines = tag("".join(blocks), Reading(typed="1"))
    assert seen == [["a", "b"]] * 4000
    comments = [line for line in lines if line.startswith("#")]
    assert comments == [comment for number in range(4000) for comment in (f"# id = {number}", "# a b c")]
    assert lines[1:5:2] == ["0 a B-PER", "0 b O"]
    rows = "".join(f"{number},a\n{number},b\n" for number in range(2000))
    seen, lines = tag(f"sentence_id,word\n{rows}", Reading(), "csv")
    assert seen == [["a", "b"]] * 2000
    assert lines[:3] == ["sentence_id,word,predicted", "0,a,B-PER", "0,b,O"]


def test_gold_of_json_lines_is_kept() -> None:
    _, [line] = tag('{"tokens": ["Ada"], "ner_tags": ["O"]}', Reading(), "jsonl")
    assert line.startswith('{"tokens": ["Ada"], "ner_tags": ["O"], "predicted_ner_tags": ["B-PER"], "entities": [{')


def test_saved_layouts(tmp_path: Path) -> None:
    from mistral_ner import files
    from mistral_ner.predict.columns import read_layout

    assert read_layout(tmp_path) is None
    layout = Layout(1, 2, 0, names=("a", "b"), width=5)
    files.write_json(tmp_path / "columns.json", dataclasses.asdict(layout))
    assert read_layout(tmp_path) == layout
    (tmp_path / "columns.json").write_text("[]")
    with pytest.raises(UserError, match="must hold what a training wrote"):
        read_layout(tmp_path)
