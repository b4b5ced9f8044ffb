"""Adapters on disk, and merged models."""

import contextlib
import json

import pytest
import torch
from peft import PeftModel
from test_model_adapter import BERT, LABELS, MISTRAL, VOCAB, adapter_bits, logits, tiny, train
from transformers import AutoModelForTokenClassification

from mistral_ner.errors import UserError
from mistral_ner.model import (
    base_model,
    detach,
    forget_base,
    lend_model,
    load_adapter,
    merge_adapter,
    save_adapter,
)

pytestmark = pytest.mark.usefixtures("cold")


@pytest.fixture(params=[MISTRAL, BERT], ids=["mistral", "bert"])
def trained(request, tmp_path):
    """A trained adapter's settings, folder, bits and logits."""
    model = tiny(request.param, bidirectional=True)
    with lend_model(model, LABELS, 3, VOCAB) as attached:
        train(attached, steps=5)
        save_adapter(attached, tmp_path / "adapter")
        return model, tmp_path / "adapter", adapter_bits(attached), logits(attached)


@contextlib.contextmanager
def loaded(model, labels, seed, folder):
    """The base model with the adapter that was saved in ``folder``."""
    with lend_model(model, labels, seed, VOCAB) as attached:
        load_adapter(attached, folder)
        yield attached


def test_a_saved_adapter_comes_back_bit_for_bit(trained):
    model, folder, bits, answer = trained
    with lend_model(model, LABELS, 99, VOCAB) as attached:
        assert adapter_bits(attached) != bits
        load_adapter(attached, folder)
        assert adapter_bits(attached) == bits
        assert torch.equal(logits(attached), answer)
    with loaded(model, LABELS, 99, folder) as attached:
        assert torch.equal(logits(attached), answer)


def test_a_loaded_adapter_trains_on_like_the_first(trained):
    model, folder, _, _ = trained
    ends = []
    for _ in range(2):
        with loaded(model, LABELS, 1, folder) as attached:
            train(attached)
            ends.append(adapter_bits(attached))
    assert ends[0] == ends[1]


def test_files_are_those_of_peft(trained):
    model, folder, _, answer = trained
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["inference_mode"] is True
    # peft itself reads it, onto a network with a head of the right size
    with lend_model(model, LABELS, 0, VOCAB) as attached:
        plain = attached.unload()
        loaded = PeftModel.from_pretrained(plain, str(folder))
        torch.testing.assert_close(logits(loaded), answer)
        forget_base()


def test_merged_weights_are_base_plus_adapter(trained, tmp_path):
    model, folder, _, answer = trained
    base = base_model(model, VOCAB)
    merged = merge_adapter(model, LABELS, VOCAB, folder)
    assert merged is not base
    torch.testing.assert_close(logits(merged), answer, atol=1e-5, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
    assert again.config.id2label == dict(enumerate(LABELS))
    torch.testing.assert_close(logits(again), answer, atol=1e-5, rtol=1e-4)


def test_an_adapter_that_does_not_fit_is_refused(trained, tmp_path):
    model, folder, _, _ = trained
    message = r"must fit the model, but base_model\.model.*use the config\.yaml"
    with pytest.raises(UserError, match=message), loaded(model, ["O", "B-X"], 0, folder):
        pass
    model.lora_r = 8
    with pytest.raises(UserError, match="must fit the model"), loaded(model, LABELS, 0, folder):
        pass
    message = r"must hold adapter_model\.safetensors, found none"
    with pytest.raises(UserError, match=message), loaded(model, LABELS, 0, tmp_path):
        pass


def test_a_quantised_base_takes_a_saved_adapter(tmp_path):
    pytest.importorskip("bitsandbytes")
    model = tiny(quantization="4bit")
    with lend_model(model, LABELS, 0, VOCAB) as attached:
        train(attached)
        save_adapter(attached, tmp_path)
        answer = logits(attached)
    with loaded(model, LABELS, 1, tmp_path) as attached:
        assert torch.equal(logits(attached), answer)
        detach(attached)  # once more at the end of the block does no harm
