"""Private names of transformers and accelerate that the package uses: a version that moves one fails here first."""

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


def test_what_accelerate_keeps_of_accumulation_is_one_for_the_process() -> None:
    # training/parallel/together.py: each of several trainings has its own, put in place while it runs
    from accelerate.state import GradientState

    one, other = GradientState(), GradientState()
    before = dict(vars(one))
    assert vars(one) is vars(other)
    assert {"sync_gradients", "plugin_kwargs"} <= before.keys()


def test_networks_have_their_plain_attention_under_one_name() -> None:
    # model/together/layers.py
    from importlib import import_module

    from mistral_ner.model.together.network import KINDS

    for kind in KINDS:
        name = kind.replace("-", "_")
        module = import_module(f"transformers.models.{name}.modeling_{name}")
        assert callable(module.eager_attention_forward)
