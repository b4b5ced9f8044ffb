"""Real data sets are read whole, tags of every scheme alike, and conf/data knows the keys of the schema."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.read import Sentence, load_splits
from mistral_ner.data.schemes import detect, spans, to_iob2
from tests.conftest import SHARED_DATA, needs_real_data

CONF = Path(__file__).parents[2] / "conf" / "data"


@pytest.mark.parametrize(
    ("tags", "scheme", "converted", "placed"),
    [
        (["I-A", "I-A", "B-A"], "iob1", ["B-A", "I-A", "B-A"], [0]),
        (["O", "I-A", "I-B"], "iob1", ["O", "B-A", "B-B"], [1, 2]),
        (["B-A", "I-A", "I-B"], "iob2", ["B-A", "I-A", "B-B"], [2]),
        (["B-A", "E-A", "I-A", "S-A"], "bioes", ["B-A", "I-A", "B-A", "B-A"], [2]),
        (["B-A", "L-A", "U-A", "U-A"], "bioes", ["B-A", "I-A", "B-A", "B-A"], []),
        (["O"], "iob2", ["O"], []),
    ],
)
def test_schemes(tags: list[str], scheme: str, converted: list[str], placed: list[int]) -> None:
    assert detect([tags]) == scheme
    assert to_iob2(tags) == (converted, placed)


def counts(sentences: list[Sentence]) -> tuple[int, int, dict[str, int]]:
    kinds = Counter(kind for sentence in sentences for _, _, kind in spans(sentence.tags))
    return len(sentences), sum(len(sentence.tokens) for sentence in sentences), dict(kinds)


def notice(folder: Path) -> Callable[[str], tuple[int, int, dict[str, int]]]:
    """Return what the NOTICE of a data set says of a file: sentences, tokens, entities by type."""
    text = (folder / "NOTICE").read_text()

    def of(file: str) -> tuple[int, int, dict[str, int]]:
        found = re.search(rf"{re.escape(file)}\): (\d+) sentences, (\d+) tokens, \d+ entities; labels: (.*)", text)
        assert found
        kinds = dict(part.rsplit(" ", 1) for part in found[3].split(", "))
        return int(found[1]), int(found[2]), {kind: int(count) for kind, count in kinds.items()}

    return of


@needs_real_data
def test_wnut17(caplog: pytest.LogCaptureFixture) -> None:
    folder = SHARED_DATA / "wnut17"
    names = ["wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"]
    train, dev, test = (str(folder / name) for name in names)
    splits = load_splits(DataConfig(source="files", train_file=train, dev_file=dev, test_file=test))
    for name, part in zip(names, (splits.train, splits.dev, splits.test), strict=True):
        assert counts(part) == notice(folder)(name)
    assert sum(token == "#" for sentence in splits.train for token in sentence.tokens) == 2
    assert len(splits.types) == 6
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@needs_real_data
@pytest.mark.parametrize("domain", ["ai", "literature", "music", "politics", "science"])
def test_crossner(domain: str) -> None:
    folder = SHARED_DATA / "crossner" / domain
    train, dev, test = (str(folder / f"{name}.txt") for name in ("train", "dev", "test"))
    splits = load_splits(DataConfig(source="files", train_file=train, dev_file=dev, test_file=test))
    text = (SHARED_DATA / "crossner" / "NOTICE").read_text()
    for name, part in (("train", splits.train), ("dev", splits.dev), ("test", splits.test)):
        found = re.search(rf"crossner/{domain} {name} .*: (\d+) sentences, (\d+) tokens, (\d+) entities", text)
        assert found
        sentences, tokens, kinds = counts(part)
        assert [sentences, tokens, sum(kinds.values())] == [int(number) for number in found.groups()]


def test_conf_files_know_exactly_the_keys_of_the_schema() -> None:
    base = OmegaConf.load(CONF / "sample.yaml")
    defaults = OmegaConf.to_container(OmegaConf.structured(DataConfig))
    assert isinstance(defaults, dict)
    assert set(base) == set(defaults)
    assert {key: base[key] for key in base if key != "cache_dir"} == {
        k: v for k, v in defaults.items() if k != "cache_dir"
    }
    found = sorted(path.stem for path in CONF.glob("*.yaml"))
    assert found == ["conll2003", "files", "sample", "wnut17"]
    for name in found:
        text = (CONF / f"{name}.yaml").read_text()
        assert text.startswith(f"# python launch.py data={name}")
        assert set(OmegaConf.create(text)) - {"defaults"} <= set(defaults)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    base = OmegaConf.load(CONF / "sample.yaml")
    monkeypatch.delenv("MISTRAL_NER_CACHE", raising=False)
    assert base["cache_dir"] == DataConfig().cache_dir
    monkeypatch.setenv("MISTRAL_NER_CACHE", "/somewhere")
    assert base["cache_dir"] == "/somewhere"
