"""A tokenizer with more tokens than the model has embeddings: the new ones are trained, saved and merged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForTokenClassification, AutoTokenizer

from mistral_ner.config.check import read
from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.model import load_tokenizer
from mistral_ner.model.base import added_tokens, base_model
from mistral_ner.model.limits import check_vocabulary
from mistral_ner.model.stored import WEIGHTS, load_trained, save_merged
from mistral_ner.model.tokenizer import train_tokenizer
from mistral_ner.train import fit
from mistral_ner.training.inputs.prepare import forget_prepared

pytestmark = pytest.mark.usefixtures("cold")
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
WORDS = ["Oslo", "Rome", "Lima", "Bonn"]  # of the toy data


@pytest.fixture(params=["bert", "mistral"])
def short(request: pytest.FixtureRequest, tmp_path: Path) -> ModelConfig:
    """A network made for its tokenizer, to which four words were added afterwards."""
    folder = tmp_path / "short"
    tokenizer = train_tokenizer([["Ada", "saw", "Li", "."]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CONFIG_MAPPING[request.param](**SHAPE, vocab_size=len(tokenizer))
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.add_tokens(WORDS)
    tokenizer.save_pretrained(str(folder))
    return ModelConfig(model_name=str(folder), resize_embeddings=True, lora_r=4)


def test_without_the_key_it_is_refused_with_the_key(short: ModelConfig, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(short)
    with caplog.at_level(logging.WARNING):
        check_vocabulary(short, tokenizer)
    assert "4 tokens without an embedding get one, trained with the adapter: Oslo, Rome, Lima, Bonn" in caplog.text
    short.resize_embeddings = False
    with pytest.raises(UserError, match="its tokenizer 4 tokens without one") as refused:
        check_vocabulary(short, tokenizer)
    assert "or model.resize_embeddings=true, which trains an embedding for each of them" in str(refused.value)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_new_embeddings_are_trained_saved_and_merged(
    short: ModelConfig, tuning: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(short)
    base = base_model(short, len(tokenizer))
    before = {name: value.clone() for name, value in base.named_parameters()}
    new = list(added_tokens(base))
    assert tokenizer.convert_ids_to_tokens(new) == WORDS
    tiny["model"] = {"model_name": short.model_name, "resize_embeddings": True, "lora_r": 4, "tuning": tuning}
    value = fit(tiny)
    assert value > 0.5
    assert base_model(short, len(tokenizer)) is base
    assert {name: value.tolist() for name, value in base.named_parameters()} == {
        k: v.tolist() for k, v in before.items()
    }

    adapter = tmp_path / "run" / "adapter"
    trained = load_trained(adapter)
    ids = torch.tensor([[2, *new, 5]])
    answer = trained.model(input_ids=ids).logits
    if tuning == "lora":
        rows = [value for name, value in load_file(adapter / WEIGHTS).items() if "trainable_tokens" in name]
        old = base.get_input_embeddings().weight[new]
        assert [tuple(one.shape) for one in rows] == [(4, 32)], "the new rows alone are saved"
        assert (rows[0] - old).abs().amax(1).min() > 1e-3, "each of them was trained"
    assert trained.config is not None
    save_merged(trained.config, trained.labels, adapter, tmp_path / "merged")
    alone = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged").eval()
    if tuning == "lora":
        torch.testing.assert_close(alone(input_ids=ids).logits, answer, atol=1e-5, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").convert_tokens_to_ids(WORDS) == new
    forget_prepared()


def test_what_is_below_a_trained_embedding_cannot_be_kept() -> None:
    model = {"resize_embeddings": True, "frozen_prefix": True, "lora_layers": "top:1"}
    faults = read({"output_dir": "o", "model": model})[1]
    assert "true keeps activations that never change, and model.resize_embeddings=true trains" in str(faults[0])


def test_lora_on_some_layers_trains_new_embeddings_too(short: ModelConfig, tiny: dict[str, Any]) -> None:
    tiny["model"] = {"model_name": short.model_name, "resize_embeddings": True, "lora_layers": "top:1"}
    assert fit(tiny) > 0.3
    forget_prepared()
