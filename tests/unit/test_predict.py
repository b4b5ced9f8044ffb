"""Words and their places, windows that overlap, and a tagger that was really trained."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mistral_ner.data.encoded.windows import overlapping
from mistral_ner.data.read import load_splits
from mistral_ner.data.words import split
from mistral_ner.errors import UserError
from mistral_ner.metrics import entity_scores, sentence_counts
from mistral_ner.predict.tagger import Tagger
from mistral_ner.training.evaluate import Forward
from mistral_ner.training.memory import OutOfMemoryError

SCRIPTS = (
    (0x20, 0x7F), (0xC0, 0x24F), (0x300, 0x36F), (0x400, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
    (0x1000, 0x109F), (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x4FFF), (0x1F1E6, 0x1F1FF), (0x1F300, 0x1FAFF),
    (0x0, 0x20), (0xFE00, 0xFE0F), (0xD800, 0xDFFF), (0x10000, 0x10FFFF),
)  # fmt: skip


def random_text(seed: int) -> str:
    """Runs of many scripts, with combining marks, joiners, control characters, halves of surrogate pairs, spaces."""
    rng = random.Random(seed)
    runs = []
    for _ in range(rng.randrange(9)):
        low, high = rng.choice(SCRIPTS)
        runs.append("".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 9))))
        runs.append(rng.choice(["", " ", "\u200d", "\u3000", "'s ", "-", "Ada Li", "Oslo"]))
    return "".join(runs)


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n", []),
        ("Ada's mum, O'Brien.", ["Ada", "'s", "mum", ",", "O'Brien", "."]),
        ("Jean-Claude, U.S., 1,000.5", ["Jean-Claude", ",", "U.S.", ",", "1,000.5"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京へ", ["東", "京", "へ"]),
        ("👩\u200d👩\u200d👧 👍🏽🇩🇪", ["👩\u200d👩\u200d👧", "👍🏽", "🇩🇪"]),
        ("می\u200cخ", ["می\u200cخ"]),
        (unicodedata.normalize("NFD", "São"), [unicodedata.normalize("NFD", "São")]),
        ("a\0b", ["a", "\0", "b"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def check_nothing_lost(text: str) -> None:
    places = split(text)
    assert all(start < end for start, end in places)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))
    assert "".join(words(text)) == "".join(char for char in text if not char.isspace())


@given(st.text())
def test_every_character_but_space_is_in_one_word(text: str) -> None:
    check_nothing_lost(text)


def test_every_character_of_thousands_of_texts_in_many_scripts_is_in_one_word() -> None:
    for seed in range(3000):
        check_nothing_lost(random_text(seed))


@given(st.lists(st.integers(1, 12), max_size=60), st.integers(1, 20))
def test_windows_decide_every_word_once_and_fit(lengths: list[int], room: int) -> None:
    decided = []
    for (start, end), (left, right) in overlapping(lengths, room):
        assert 0 <= left <= start < end <= right <= len(lengths)
        assert sum(min(length, room) for length in lengths[left:right]) <= room
        decided += range(start, end)
    assert decided == list(range(len(lengths)))


def test_words_in_the_middle_of_a_long_text_see_both_sides() -> None:
    windows = list(overlapping([1] * 1000, 100))
    assert all(start - left >= 25 and right - end >= 25 for (start, end), (left, right) in windows[1:-1])
    assert windows[0][0] == (0, 75)
    assert windows[-1][1] == (900, 1000)


def test_a_sentence_a_word_too_long_is_two_windows() -> None:
    assert list(overlapping([1] * 101, 100)) == [((0, 75), (0, 100)), ((75, 101), (1, 101))]


# --- trained ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, object], toy_files: dict[str, str]
) -> tuple[Path, dict[str, object]]:
    """A training of the toy sentences, and its config."""
    from mistral_ner.model import forget_base
    from mistral_ner.train import fit

    folder = tmp_path_factory.mktemp("trained")
    config: dict[str, object] = {
        "output_dir": str(folder / "run"),
        "model": {**tiny_model, "lora_r": 8},
        "data": {"source": "files", **toy_files, "cache_dir": str(folder / "cache")},
        "training": {"num_epochs": 8, "reports": 3, "learning_rate": 1e-2, "threads": 1},
    }
    assert fit(config) > 0.9
    forget_base()
    return folder / "run", config


@pytest.fixture(scope="module")
def tagger(run: tuple[Path, dict[str, object]]) -> Tagger:
    return Tagger.load(run[0])


def test_it_tags_what_it_learned_at_the_right_places(tagger: Tagger) -> None:
    text = "Ada Li saw Oslo ."
    (found,) = tagger.tag([text])
    assert [(entity.type, entity.text) for entity in found] == [("PER", "Ada Li"), ("LOC", "Oslo")]
    assert [(entity.start, entity.end) for entity in found] == [(0, 6), (11, 15)]
    assert all(0.3 < entity.score <= 1 for entity in found)


def test_it_reaches_the_score_of_its_training(tagger: Tagger, run: tuple[Path, dict[str, object]]) -> None:
    from mistral_ner.config.check import check

    splits = load_splits(check(run[1]).data)
    gold, predicted = [], []
    for sentence, entities in zip(splits.dev, tagger.tag_words([s.tokens for s in splits.dev]), strict=True):
        tags = ["O"] * len(sentence.tokens)
        for entity in entities:
            tags[entity.start] = f"B-{entity.type}"
            tags[entity.start + 1 : entity.end] = [f"I-{entity.type}"] * (entity.end - entity.start - 1)
        gold += [splits.labels.index(tag) for tag in sentence.tags]
        predicted += [splits.labels.index(tag) for tag in tags]
    lengths = [len(sentence.tokens) for sentence in splits.dev]
    scores = entity_scores(gold, predicted, lengths, splits.labels)
    report = json.loads((run[0] / "adapter" / "report.json").read_text())
    assert scores["f1"] == pytest.approx(report["eval_f1"])
    wanted, proposed, correct = sentence_counts(gold, predicted, lengths, splits.labels).sum(0)
    assert 2 * correct / (wanted + proposed) == pytest.approx(scores["f1"])


def test_places_are_right_in_thousands_of_texts_at_any_batch_size(
    tagger: Tagger, run: tuple[Path, dict[str, object]]
) -> None:
    texts = [random_text(seed) for seed in range(2000)]
    found = tagger.tag(texts)
    assert sum(map(len, found)) > 300
    for text, entities in zip(texts, found, strict=True):
        assert all(text[entity.start : entity.end] == entity.text for entity in entities)
        assert all(not entity.text[0].isspace() and not entity.text[-1].isspace() for entity in entities)
        assert all(one.end <= other.start for one, other in itertools.pairwise(entities))
    for tokens in (1, 100):
        others = Tagger.load(run[0], batch_tokens=tokens).tag(texts[:200])
        for one, other in zip(found[:200], others, strict=True):
            assert [(e.type, e.start, e.end) for e in one] == [(e.type, e.start, e.end) for e in other]
            np.testing.assert_allclose([e.score for e in one], [e.score for e in other], atol=2e-4)


@pytest.mark.parametrize("room", [40, 1])
def test_batches_that_do_not_fit_into_memory_are_halved(
    tagger: Tagger, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffers before stay as they were, and no text is lost; if one text does not fit, the error says so."""
    own, sizes = Forward._compute, []

    def compute(self: Forward, model: Any, device: Any, with_loss: bool, positions: Any, rows: Any) -> Any:
        sizes.append(len(rows) * max(len(row["input_ids"]) for row in rows))
        if sizes[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(self, model, device, with_loss, positions, rows)

    texts = ["Ada Li saw Oslo .", "we left Rome ."] * 20
    expected = tagger.tag(texts)
    monkeypatch.setattr(Forward, "_compute", compute)
    if room == 1:
        with pytest.raises(OutOfMemoryError, match=r"out of memory with \d tokens of an evaluation batch; fix: free"):
            tagger.tag(texts)
        return
    for one, other in zip(tagger.tag(texts), expected, strict=True):
        assert [(e.type, e.start, e.end) for e in one] == [(e.type, e.start, e.end) for e in other]
    assert max(sizes) > room >= sizes[-1]


def test_what_is_done_goes_through_no_model_and_changes_nothing(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long sentences lie in several buffers; of the others a buffer has several."""
    long = ["Ada", "Li", "saw", "Oslo", "."] * 150
    sentences = [[], ["Ada", "Li"], long, ["Bo", "left"], [], long, *([["Cy", "saw", "Rome"]] * 50), []]
    own, rows = Forward._compute, [0]

    def compute(self: Forward, model: Any, device: Any, with_loss: bool, positions: Any, batch: Any) -> Any:
        rows[-1] += len(batch)
        return own(self, model, device, with_loss, positions, batch)

    monkeypatch.setattr(Forward, "_compute", compute)
    monkeypatch.setattr(tagger, "_forward", Forward(0, 16))
    whole = list(tagger.stream_words(sentences))
    for done in (1, 2, 3, 6, 40, len(sentences)):
        rows.append(0)
        assert list(tagger.stream_words(sentences, done))[done:] == whole[done:]
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] == 0


def test_empty_texts_keep_their_place(tagger: Tagger) -> None:
    assert tagger.tag([]) == []
    assert tagger.tag(["", " ", "\n"]) == [[], [], []]
    assert [len(found) for found in tagger.tag(["", "Ada Li saw Oslo .", ""])] == [0, 2, 0]


def test_a_long_text_is_tagged_to_its_end(tagger: Tagger) -> None:
    sentence = "Ada Li saw Oslo . "
    assert len(sentence) * 400 > 10 * tagger.max_length
    (found,) = tagger.tag([(sentence * 400).removesuffix(" . ")])
    last = [entity for entity in found if entity.start >= len(sentence) * 399]
    assert [(entity.type, entity.text) for entity in last][-1] == ("LOC", "Oslo")
    (long_word,) = tagger.tag(["x" * 100_000 + " Oslo"])
    assert all(entity.end <= 100_005 for entity in long_word)


def test_a_moved_folder_tags_the_same(tagger: Tagger, run: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run[0] / "adapter", tmp_path / "elsewhere")
    text = ["Bo Li left Rome ."]
    assert Tagger.load(tmp_path / "elsewhere").tag(text) == tagger.tag(text)


def test_a_merged_model_tags_the_same_and_plain_transformers_reads_it(
    tagger: Tagger, run: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    from transformers import pipeline

    from mistral_ner.config.check import check
    from mistral_ner.model.stored import read_labels, save_merged

    adapter = run[0] / "adapter"
    save_merged(check(run[1]), read_labels(adapter), adapter, tmp_path / "merged")
    text = "Ada Li saw Oslo ."
    (ours,), (merged,) = tagger.tag([text]), Tagger.load(tmp_path / "merged").tag([text])
    assert [(e.type, e.start, e.end) for e in ours] == [(e.type, e.start, e.end) for e in merged]
    np.testing.assert_allclose([e.score for e in ours], [e.score for e in merged], atol=2e-4)
    plain = pipeline("token-classification", model=str(tmp_path / "merged"), aggregation_strategy="simple")
    found = [(item["entity_group"], text[item["start"] : item["end"]].strip()) for item in plain(text)]
    assert found == [("PER", "Ada Li"), ("LOC", "Oslo")]


def test_a_bidirectional_decoder_stays_one_when_plain_transformers_loads_it(
    run: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    from transformers import AutoModelForTokenClassification

    from mistral_ner.config.check import check
    from mistral_ner.model.stored import load_trained, merge_adapter, read_labels

    config, adapter = check(run[1]), run[0] / "adapter"
    config.model.bidirectional = True
    size = len(load_trained(adapter).tokenizer)
    merge_adapter(config.model, read_labels(adapter), size, adapter).save_pretrained(str(tmp_path))
    plain = AutoModelForTokenClassification.from_pretrained(str(tmp_path)).eval()
    one, other = torch.tensor([[2, 50, 60, 70]]), torch.tensor([[2, 50, 60, 71]])
    with torch.inference_mode():
        assert not torch.allclose(
            plain(one).logits[0, 1], plain(other).logits[0, 1]
        )  # an earlier word sees a later one


def test_folders_that_hold_no_model(run: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    import shutil

    with pytest.raises(UserError, match="must be a folder, found nothing"):
        Tagger.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"must hold adapter_model\.safetensors"):
        Tagger.load(tmp_path)
    for name in ("labels.json", "config.yaml", "tokenizer.json"):
        folder = tmp_path / name
        shutil.copytree(run[0] / "adapter", folder)
        (folder / name).unlink()
        with pytest.raises(UserError, match=name):
            Tagger.load(folder)
    folder = tmp_path / "broken"
    shutil.copytree(run[0] / "adapter", folder)
    (folder / "adapter_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="must be a safetensors file"):
        Tagger.load(folder)
