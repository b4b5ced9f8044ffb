"""Attention by plain products gives what torch's kernel gives, where it is taken, and is taken back."""

from contextlib import nullcontext

import pytest
import torch

from mistral_ner.config.check import check
from mistral_ner.model import lend_model
from mistral_ner.model.cpu.attention import quick_attention

KINDS = {
    "mistral": {"num_key_value_heads": 1, "num_attention_heads": 2},
    "bert": {"num_attention_heads": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}


def config_of(kind="mistral", max_length=128, **model):
    shape = {"model_type": kind, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, **KINDS[kind]}
    network = {"model_name": "tiny", "random_init": shape, "lora_dropout": 0.0, **model}
    return check({"output_dir": "unused", "model": network, "data": {"max_length": max_length}})


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize(("kind", "bidirectional"), [("mistral", False), ("mistral", True), ("bert", False)])
def test_it_is_the_same_attention(kind, bidirectional):
    config = config_of(kind, bidirectional=bidirectional)
    batch = {"input_ids": torch.randint(5, 50, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    batch["attention_mask"][1, 4:] = 0
    found = []
    with lend_model(config.model, ["O", "B-PER"], 0, 50) as model:
        for quick in (False, True):
            with quick_attention(model, config) if quick else nullcontext():
                assert model.get_base_model().config._attn_implementation == ("eager" if quick else "sdpa")
                logits = model(**batch).logits
            logits[batch["attention_mask"] == 1].square().sum().backward()
            grads = [one.grad for one in model.parameters() if one.requires_grad]
            found.append([logits[batch["attention_mask"] == 1].detach(), *grads])
            model.zero_grad()
        assert model.get_base_model().config._attn_implementation == "sdpa"
    for plain, quick in zip(*found, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize(
    "config", [config_of(max_length=129), config_of(attention="sdpa")], ids=["long windows", "chosen"]
)
def test_where_it_is_not_taken(config):
    with lend_model(config.model, ["O", "B-PER"], 0, 50) as model, quick_attention(model, config):
        assert model.get_base_model().config._attn_implementation == "sdpa"


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_it_is_taken_back_after_an_error(tuning):
    config = config_of(tuning=tuning)
    with lend_model(config.model, ["O", "B-PER"], 0, 50) as model:
        seen = []

        def breaks():
            with quick_attention(model, config):
                seen.append(model.config._attn_implementation)
                raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            breaks()
        assert seen == ["eager"]
        assert model.config._attn_implementation == "sdpa"
