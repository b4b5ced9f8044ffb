"""What all tiers share: no network, the project's root, the real data beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def compose() -> Any:
    """Compose the real ``conf/`` with overrides, as ``launch.py`` would; returns a DictConfig without ``hydra``."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    import mistral_ner.hyperopt.plugins  # noqa: F401

    def make(*overrides: str, name: str = "config") -> Any:
        with initialize_config_dir(str(ROOT / "conf")):
            return hydra_compose(name, overrides=list(overrides))

    return make


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    """The smallest real training: two-layer Mistral, 48 sentences, three reports; about a second."""
    return {
        "output_dir": str(tmp_path / "run"),
        "model": {
            "random_init": {
                "model_type": "mistral",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
            },
            "lora_r": 4,
            "lora_dropout": 0.1,
        },
        "data": {"max_train_sentences": 48, "max_dev_sentences": 24, "cache_dir": str(tmp_path / "cache")},
        "training": {"num_epochs": 2, "reports": 3, "learning_rate": 1e-2, "threads": 1},
    }
