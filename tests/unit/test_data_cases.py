"""Files of columns as people have them: each gives the right words and tags, or one message whose fix is right."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.config.check import check
from mistral_ner.config.schema import Config, DataConfig
from mistral_ner.data.formats import read_file
from mistral_ner.data.read import load_splits
from mistral_ner.data.schemes import spans, to_iob2
from mistral_ner.errors import ConfigError, UserError

TAG_FIRST = "O\ta\nB-Rating\tfour\nI-Rating\tstar\nO\tplace\n\nO\tin\nB-Location\tbern\n\nO\tan\nB-Dish\tapple\n"
UNIVERSAL = """\
# sent_id = a-1
# text = Hello Bo.
1\tHello\tO\t-\t-
2\tBo\tB-PER\t-\tann1
3\t.\tO\t-\t-

# sent_id = a-2
# text = In Bern
1\tIn\tO\t-\t-
2\tBern\tB-LOC\t-\tann1
"""
NESTED = "Univ.\tB-ORG\tO\nBern\tI-ORG\tB-LOC\nhosts\tO\tO\nBo\tB-PER\tO\n\nBo\tB-PER\tO\nof\tO\tO\nBasel\tB-LOC\tO\n"
HIPE = """\
TOKEN\tNE-COARSE-LIT\tNE-FINE\tMISC
# document_id = x-1
Bern\tB-loc\tB-loc.adm\tNoSpaceAfter
.\tO\tO\tEndOfSentence
Ada\tB-pers\tB-pers.ind\t_
lebt\tO\tO\tEndOfSentence
"""
GMB = (
    "Sentence #,Word,POS,Tag\nSentence: 1,Ada,NNP,B-per\n,lives,VBZ,O\n,in,IN,O\n,Bern,NNP,B-geo\n"
    'Sentence: 2,Hello,UH,O\n,"""",``,O\n,"1,000",CD,O\n'
)
ONTONOTES = """\
#begin document (bn/x); part 000
bn/x 0 0 Ada NNP (TOP(NP* - - - - (PERSON) *
bn/x 0 1 lives VBZ * - - - - * *
bn/x 0 2 in IN * - - - - * *
bn/x 0 3 New NNP * - - - - (GPE* *
bn/x 0 4 Bern NNP * - - - - *) *

bn/x 0 0 He PRP (TOP(NP* - - - - * (ARG0*) *
bn/x 0 1 sang VBD *) sing 01 - - * (V*) *
#end document
"""
NO_BLANK = 'Ada B-PER\n. O\n" O\nBo B-PER\nInc. I-PER\n! O\n" O\nBern B-LOC\n. O\n'

# a file's name and text, its sentences' words, and its entities as their words and type
CASES: dict[str, tuple[str, str, list[str], list[str]]] = {
    "index first": (
        "a.conllu",
        "0\tAda\tB-PER\n1\tlives\tO\n2\tin\tO\n3\tBern\tB-LOC\n\n0\tHello\tO\n1\tBo\tB-PER\n",
        ["Ada lives in Bern", "Hello Bo"],
        ["Ada PER", "Bern LOC", "Bo PER"],
    ),
    "universal ner": ("a.iob2", UNIVERSAL, ["Hello Bo .", "In Bern"], ["Bo PER", "Bern LOC"]),
    "comment of five words in a file of five columns": (
        "a.iob2",
        "# text = Hello O\n1\tHello\tO\t-\t-\n\n# text = Thanks O\n1\tThanks\tO\t-\t-\n2\tGoethe\tB-PER\t-\tx\n",
        ["Hello", "Thanks Goethe"],
        ["Goethe PER"],
    ),
    "the same with spaces": (
        "a.iob2",
        "1 Hello O - O\n\n# text = Thanks O\n1 Thanks O - O\n2 Goethe B-PER - O\n",
        ["Hello", "Thanks Goethe"],
        ["Goethe PER"],
    ),
    "ranges and empty nodes": (
        "a.conllu",
        "1-2\tvamonos\t_\n1\tvamos\tO\n2\tnos\tO\n2.1\tx\t_\n3\tBern\tB-LOC\n",
        ["vamos nos Bern"],
        ["Bern LOC"],
    ),
    "nested": (
        "a.iob2",
        NESTED,
        ["Univ. Bern hosts Bo", "Bo of Basel"],
        ["Univ. Bern ORG", "Bo PER", "Bo PER", "Basel LOC"],
    ),
    "bmes": (
        "a.char.bmes",
        "王 B-N\n小 M-N\n明 E-N\n男 O\n\n李 B-N\n四 E-N\n",
        ["王 小 明 男", "李 四"],
        ["王 小 明 N", "李 四 N"],
    ),
    "bmewo": ("a.txt", "a B-X\nb M-X\nc E-X\nd W-X\n", ["a b c d"], ["a b c X", "d X"]),
    "gmb": ("a.csv", GMB, ["Ada lives in Bern", 'Hello " 1,000'], ["Ada per", "Bern geo"]),
    "semicolons": ("a.csv", "word;tag\nAda;B-per\n;\nBern;B-geo\n", ["Ada", "Bern"], ["Ada per", "Bern geo"]),
    "hipe": ("a.tsv", HIPE, ["Bern .", "Ada lebt"], ["Bern loc", "Ada pers"]),
    "ontonotes": ("a.gold_conll", ONTONOTES, ["Ada lives in New Bern", "He sang"], ["Ada PERSON", "New Bern GPE"]),
    "phrases beside entities": (
        "a.txt",
        "Ada NNP B-NP I-PER\nsang VBD B-VP O\n\nin IN B-PP O\nBern NNP B-NP I-LOC\n",
        ["Ada sang", "in Bern"],
        ["Ada PER", "Bern LOC"],
    ),
    "offsets first": (
        "a.tsv",
        "1-1\t0-3\tAda\tB-PER\n1-2\t4-8\tsang\tO\n\n2-1\t9-11\tBo\tB-PER\n",
        ["Ada sang", "Bo"],
        ["Ada PER", "Bo PER"],
    ),
    "numbers as words": ("a.txt", "1984 B-WORK\nis O\n7 O\n", ["1984 is 7"], ["1984 WORK"]),
}  # fmt: skip


def read(tmp_path: Path, name: str, text: str, **settings: Any) -> tuple[list[str], list[str]]:
    """Return the sentences of a file as text, and its entities with their types."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    sentences = read_file(path, DataConfig(source="files", **settings)).sentences
    entities = [
        f"{' '.join(sentence.tokens[start:end])} {kind}"
        for sentence in sentences
        for start, end, kind in spans(to_iob2(sentence.tags)[0])
    ]
    return [" ".join(sentence.tokens) for sentence in sentences], entities


@pytest.mark.parametrize("case", CASES)
def test_files_as_people_have_them(case: str, tmp_path: Path) -> None:
    name, text, words, entities = CASES[case]
    assert read(tmp_path, name, text) == (words, entities)


def proposal(message: str) -> dict[str, str]:
    """Return the keys of the fix of a message, as they would be typed."""
    return dict(re.findall(r"data\.(\w+)=(\S+)", message.rpartition("fix: ")[2]))


def test_tags_before_words_are_refused_and_the_fix_is_right(tmp_path: Path) -> None:
    for settings in ({}, {"token_column": "0"}, {"tag_column": "-1"}, {"token_column": "0", "tag_column": "-2"}):
        with pytest.raises(UserError) as info:
            read(tmp_path, "a.bio", TAG_FIRST, **settings)
        assert str(info.value).endswith("fix: data.token_column=1 data.tag_column=0")
    found = read(tmp_path, "a.bio", TAG_FIRST, **proposal(str(info.value)))
    assert found == (["a four star place", "in bern", "an apple"], ["four star Rating", "bern Location", "apple Dish"])
    assert read(tmp_path, "a.bio", TAG_FIRST, tag_column="0") == found


def test_equal_columns_are_a_fault_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be another column") as info:
        check(Config("out", data=DataConfig(token_column="0", tag_column="0")))
    assert read(tmp_path, "a.bio", TAG_FIRST, **proposal(str(info.value)))[0][1] == "in bern"
    with pytest.raises(ConfigError, match=r"fix: data\.token_column=0 data\.tag_column=3"):
        check(Config("out", data=DataConfig(token_column="3", tag_column="3")))


def test_what_is_guessed_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read(tmp_path, "a.iob2", UNIVERSAL)
    assert "words in column 1, as column 0 holds numbers (data.token_column=1 says so)" in caplog.text
    assert "tags in column 2 (data.tag_column=2 says so)" in caplog.text
    caplog.clear()
    read(tmp_path, "b.txt", "Ada B-PER\nsang O\n")
    assert not caplog.records


def test_what_is_typed_is_not_guessed(tmp_path: Path) -> None:
    numbers = "1\tAda\tB-PER\n2\tsang\tO\n"
    assert read(tmp_path, "a.txt", numbers, token_column="0", tag_column="-1")[0] == ["1 2"]


def test_no_words_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none holds words") as info:
        read(tmp_path, "a.txt", "1\tB-PER\n2\tO\n")
    assert "data.token_column=N" in str(info.value)
    assert read(tmp_path, "a.txt", "1\tB-PER\n2\tO\n", token_column="0") == (["1 2"], ["1 PER"])


def test_several_columns_of_tags_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, "a.iob2", NESTED)
    [said] = [record.getMessage() for record in caplog.records]
    assert "2 columns of tags: 1 (PER 2, ORG 1, LOC 1); 2 (LOC 1)" in said
    assert "Read: 1; data.tag_column=2 reads another" in said
    assert read(tmp_path, "a.iob2", NESTED, tag_column="2")[1] == ["Bern LOC"]


def test_the_training_file_says_which_tags_are_read(tmp_path: Path) -> None:
    """A dev file that is richer in the other column is read as the training file."""
    dev = "Univ.\tO\tB-ORG\nBern\tO\tB-LOC\n"
    paths = []
    for name, text in (("train", NESTED), ("dev", dev), ("test", NESTED)):
        paths.append(tmp_path / f"{name}.txt")
        paths[-1].write_text(text)
    train, dev_path, test = map(str, paths)
    splits = load_splits(DataConfig(source="files", train_file=train, dev_file=dev_path, test_file=test))
    assert splits.dev[0].tags == ["O", "O"]


def test_columns_by_name(tmp_path: Path) -> None:
    assert read(tmp_path, "a.tsv", HIPE, tag_column="NE-FINE")[1] == ["Bern loc.adm", "Ada pers.ind"]
    with pytest.raises(UserError, match=r"data\.tag_column=NE-FIN names no column \(did you mean 'NE-FINE'"):
        read(tmp_path, "a.tsv", HIPE, tag_column="NE-FIN")


def test_a_header_is_called_one(tmp_path: Path) -> None:
    text = "Wort Kennung\nAda B-PER\nsang O\nin O\nBern B-LOC\n"
    with pytest.raises(UserError, match="looks like a header: 'Kennung' is no tag") as info:
        read(tmp_path, "a.txt", text)
    assert "data.tag_column=Kennung" in str(info.value)
    assert read(tmp_path, "a.txt", text, tag_column="Kennung") == (["Ada sang in Bern"], ["Ada PER", "Bern LOC"])
    with pytest.raises(UserError, match="the first line must name the columns"):
        read(tmp_path, "a.csv", "Ada,B-PER\nsang,O\n")


def test_no_blank_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no blank line separates sentences: the 9 tokens") as info:
        read(tmp_path, "a.conll", NO_BLANK)
    found = read(tmp_path, "a.conll", NO_BLANK, sentence_end="punctuation")
    assert "data.sentence_end=punctuation" in str(info.value)
    assert found[0] == ['Ada . "', 'Bo Inc. ! "', "Bern ."]
    assert read(tmp_path, "a.conll", NO_BLANK, sentence_end="blank")[0] == ['Ada . " Bo Inc. ! " Bern .']


def test_all_bad_lines_come_in_one_error(tmp_path: Path) -> None:
    text = "".join(f"w{number} O\nx{number} PER\n" for number in range(20)) + "y\n" + "z O\n" * 30
    with pytest.raises(UserError) as info:
        read(tmp_path, "a.txt", text)
    message = str(info.value)
    assert message.startswith("21 lines cannot be read:")
    assert message.count("a.txt:") == 10
    assert "... and 11 more" in message
    assert "a.txt:20: unknown tag 'PER'" in message
    assert message.count("fix: ") == 2


def test_bad_files_are_named_together(tmp_path: Path) -> None:
    paths = {}
    for name, text in (("train", "a B-PER\n"), ("dev", "a\n"), ("test", "")):
        path = tmp_path / f"{name}.txt"
        path.write_text(text)
        paths[f"{name}_file"] = str(path)
    with pytest.raises(UserError, match="2 data files cannot be read") as info:
        load_splits(DataConfig(source="files", **paths))
    assert "dev.txt:1: a token line needs" in str(info.value)
    assert "test.txt: a data file must hold sentences" in str(info.value)
