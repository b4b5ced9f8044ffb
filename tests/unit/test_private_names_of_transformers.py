"""Private names of transformers that the package reads: a version that moves one fails here first, by name."""

from __future__ import annotations

import transformers
from transformers import AutoModelForTokenClassification, BertConfig

TESTED = "5.23.0"  # the version that these names were read in


def test_a_config_says_which_attention_is_in_use() -> None:
    # model/cpu/attention.py: transformers has a public method that sets the implementation, and none that reads it
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    network = AutoModelForTokenClassification.from_config(BertConfig(vocab_size=9, **shape))
    moved = f"transformers {transformers.__version__} has moved config._attn_implementation of {TESTED}"
    assert getattr(network.config, "_attn_implementation", None) == "sdpa", moved
    network.set_attn_implementation("eager")
    assert getattr(network.config, "_attn_implementation", None) == "eager", moved
