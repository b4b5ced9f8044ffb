"""Models at their limits: positions, vocabulary, and what an architecture cannot do. No weights are loaded for most."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from mistral_ner.config.check import read
from mistral_ner.config.schema import ModelConfig, is_whole
from mistral_ner.errors import ConfigError, UserError
from mistral_ner.model import lend_model
from mistral_ner.model.hardware import usable_precision
from mistral_ner.model.limits import check_vocabulary, choose_max_length, find_limit
from mistral_ner.model.tokenizer import load_tokenizer, train_tokenizer
from mistral_ner.train import fit
from mistral_ner.training.evaluate import score
from mistral_ner.training.inputs.prepare import forget_prepared, prepare

POSITIONS = {"max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("kind", "fields", "limit"),
    [
        ("bert", POSITIONS, 64),
        ("roberta", {**POSITIONS, "pad_token_id": 1}, 62),  # ids begin behind the padding's
        ("gpt2", {"n_positions": 32}, 32),
        ("deberta-v2", {**POSITIONS, "position_biased_input": False}, None),
        ("mistral", POSITIONS, None),
        ("t5", {}, None),
    ],
)
def test_a_table_of_positions_ends(kind: str, fields: dict[str, Any], limit: int | None) -> None:
    assert find_limit(CONFIG_MAPPING[kind](**fields)) == limit


def test_windows_longer_than_the_model_are_refused_with_the_largest_that_fits() -> None:
    model = ModelConfig(random_init={"model_type": "bert", **POSITIONS})
    with pytest.raises(ConfigError) as refused:
        choose_max_length(model, 65)
    assert "data.max_length: must be at most 64, as many positions as" in str(refused.value)
    assert "fix: data.max_length=64, or data.max_length=auto" in str(refused.value)
    assert choose_max_length(model, 64) == choose_max_length(model, "auto") == 64
    assert choose_max_length(ModelConfig(random_init={"model_type": "mistral"}), "auto") == 512


def test_auto_is_a_length_in_the_config() -> None:
    config, faults = read({"output_dir": "o", "data": {"max_length": "auto"}})
    assert config is not None
    assert (config.data.max_length, faults) == ("auto", [])
    assert str(read({"output_dir": "o", "data": {"max_length": "long"}})[1][0]).startswith(
        "data.max_length: must be a whole number or auto, found 'long'"
    )
    assert is_whole("data.max_length")


def test_a_model_of_few_positions_is_refused_before_its_weights_are_loaded(tiny: dict[str, Any]) -> None:
    tiny["model"] = {"random_init": {"model_type": "bert", **POSITIONS}}
    config, _ = read(tiny)
    assert config is not None
    with pytest.raises(ConfigError, match="at most 64"):
        prepare(config)
    forget_prepared()


@pytest.fixture
def small_bert(tmp_path: Path) -> ModelConfig:
    """A folder with a tokenizer of four special tokens and some words, and the config of a BERT made for it."""
    tokenizer = train_tokenizer([["Ada", "saw", "Oslo"]])
    tokenizer.save_pretrained(str(tmp_path))
    CONFIG_MAPPING["bert"](vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    return ModelConfig(model_name=str(tmp_path))


def add_tokens(model: ModelConfig, **tokens: Any) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.add_special_tokens(tokens) if "pad_token" in tokens else tokenizer.add_tokens(tokens["words"])
    tokenizer.save_pretrained(model.model_name)


def test_a_tokenizer_that_fits_its_model_is_left_alone(small_bert: ModelConfig) -> None:
    tokenizer = load_tokenizer(small_bert)
    check_vocabulary(small_bert, tokenizer)
    assert tokenizer.pad_token == "<pad>"


def test_an_added_pad_token_without_an_embedding_is_replaced(
    small_bert: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    add_tokens(small_bert, pad_token="[PAD]")
    tokenizer = load_tokenizer(small_bert)
    assert tokenizer.pad_token == "[PAD]"
    with caplog.at_level(logging.WARNING):
        check_vocabulary(small_bert, tokenizer)
    assert tokenizer.pad_token == "</s>"
    assert "padding is </s>: the pad token [PAD] has no embedding in this model" in caplog.text


def test_added_words_without_an_embedding_are_named(small_bert: ModelConfig) -> None:
    rows = len(load_tokenizer(small_bert))
    add_tokens(small_bert, words=["aspirin", "ibuprofen"])
    with pytest.raises(UserError) as refused:
        check_vocabulary(small_bert, load_tokenizer(small_bert))
    message = str(refused.value)
    assert (
        f"has {rows} embeddings, and its tokenizer 2 tokens without one, first 'aspirin' with the id {rows}" in message
    )
    assert "or model.resize_embeddings=true, which trains an embedding for each of them" in message


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
DEBERTA = {"model_type": "deberta", **SHAPE, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}


@pytest.mark.parametrize("kind", ["albert", "mpnet", "bros"])
def test_checkpointing_that_a_network_does_not_have_is_one_message(kind: str) -> None:
    model = ModelConfig(random_init={"model_type": kind, **SHAPE}, gradient_checkpointing=True)
    with pytest.raises(UserError) as refused, lend_model(model, ["O", "B-X"], 0, 50):
        pass
    assert str(refused.value).endswith(f"found a {kind}\n  fix: model.gradient_checkpointing=false")
    model.gradient_checkpointing = False
    with lend_model(model, ["O", "B-X"], 0, 50) as lent:  # the base is as it was
        assert lent.training is not None


@pytest.mark.parametrize(("shape", "usable"), [(DEBERTA, "fp32"), ({"model_type": "bert", **SHAPE}, "bf16")])
def test_a_number_format_that_a_network_cannot_use_is_replaced(
    shape: dict[str, Any], usable: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), lend_model(ModelConfig(random_init=shape), ["O", "B-X"], 0, 50) as lent:
        assert usable_precision(lent, "bf16") == usable
        assert usable_precision(lent, "fp32") == "fp32"
    said = "this model cannot compute in bf16 (value cannot be converted"
    assert (said in caplog.text) is (usable == "fp32")


def test_a_training_in_a_format_that_its_network_cannot_use_ends(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["model"] = {"random_init": DEBERTA, "lora_r": 2}
    tiny["training"] |= {"precision": "bf16", "num_epochs": 1, "reports": 1}
    value = fit(tiny)
    config, _ = read(tiny)
    assert config is not None
    scored = score(config, tmp_path / "run" / "adapter", "dev")
    assert scored is not None
    assert scored.metrics["f1"] == value, "it is scored as it was trained"
