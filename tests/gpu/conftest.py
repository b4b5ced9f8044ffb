"""What ``make gpu`` trains: a random Mistral of 0.9 billion weights; without a card a small one, where that will do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from card import CARD, measured

from mistral_ner.config.schema import ModelConfig

NEEDS_CARD = "needs_card"
LARGE = {"hidden_size": 2048, "intermediate_size": 7168, "num_hidden_layers": 16, "num_attention_heads": 16}
SMALL = {"hidden_size": 64, "intermediate_size": 224, "num_hidden_layers": 4, "num_attention_heads": 4}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{NEEDS_CARD}: what it tests is CUDA's own")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker(NEEDS_CARD) and not CARD:
            item.add_marker(pytest.mark.skip(reason="no GPU that torch can use"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what was not tested, and print what was measured."""
    skipped = len(terminalreporter.stats.get("skipped", []))
    if not CARD:
        line = f"NO GPU: {skipped} tests of CUDA itself were SKIPPED; the others ran on the CPU with a small model"
        terminalreporter.write_line(f"\n*** {line} ***", red=True, bold=True)
    for line in measured:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a Mistral with random weights, made once, with a tokenizer trained on the toy sentences."""
    from mistral_ner.model.base import load_base
    from mistral_ner.model.tokenizer import train_tokenizer

    place = tmp_path_factory.mktemp("mistral")
    words = [name.split() for name in ("Ada Li saw Oslo .", "Bo Li left Rome .", "we knows Lima .", "Cy Di Ed Bonn")]
    tokenizer = train_tokenizer(words * 4)
    shape = {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None, **(LARGE if CARD else SMALL)}
    base = load_base(ModelConfig(model_name="random", random_init=shape), len(tokenizer))
    base.config.architectures = ["MistralForTokenClassification"]
    base.score = torch.nn.Linear(shape["hidden_size"], 2, bias=False)  # replaced when it is loaded
    base.save_pretrained(str(place))
    tokenizer.save_pretrained(str(place))
    return place


@pytest.fixture
def run(tmp_path: Path, folder: Path, toy_files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A training on the toy sentences, of a minute at most; no base model is kept from another test."""
    from mistral_ner.model import forget_base
    from mistral_ner.training.memory import free_memory

    forget_base()
    free_memory()
    yield {
        "output_dir": str(tmp_path / "run"),
        "model": {"model_name": str(folder), "lora_r": 8, "bidirectional": True},
        "data": {"source": "files", **toy_files, "cache_dir": str(tmp_path / "cache"), "max_length": 64},
        "training": {
            "num_epochs": 3,
            "reports": 3,
            "learning_rate": 2e-3 if CARD else 1e-2,
            "threads": 1,
            "per_device_train_batch_size": 8,
        },
    }
    forget_base()
