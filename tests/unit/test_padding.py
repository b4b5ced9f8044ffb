"""Networks whose answers depend on the padding beside a sentence are found, and scored one length at a time."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from mistral_ner.config.schema import ModelConfig
from mistral_ner.data.encoded.rows import Row
from mistral_ner.model import lend_model
from mistral_ner.model.padding import reads_padding
from mistral_ner.training.evaluate import Forward
from mistral_ner.training.inputs.batches import batches_by_tokens

pytestmark = pytest.mark.usefixtures("cold")
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
FNET = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
FUNNEL = {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64}
MISTRAL = {**SHAPE, "num_key_value_heads": 1}


def small(kind: str, shape: dict[str, Any] = SHAPE, **more: Any) -> ModelConfig:
    return ModelConfig(random_init={"model_type": kind, **shape}, lora_r=2, **more)


def row(*ids: int) -> Row:
    return {"input_ids": list(ids), "first_subwords": list(range(len(ids))), "labels": [0] * len(ids)}


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2"])
def test_most_networks_do_not_read_padding(kind: str) -> None:
    with lend_model(small(kind), ["O", "B-X"], 0, 50) as model:
        assert not reads_padding(model.eval(), "fp32", 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_decoder_does_not_read_padding_with_and_without_its_mask(bidirectional: bool, precision: str) -> None:
    with lend_model(small("mistral", MISTRAL, bidirectional=bidirectional), ["O", "B-X"], 0, 50) as model:
        assert not reads_padding(model.eval(), precision, 0)


@pytest.mark.parametrize(
    ("kind", "shape"), [("fnet", FNET), ("convbert", SHAPE), ("nystromformer", SHAPE), ("yoso", SHAPE)]
)
def test_a_network_that_reads_padding_is_found_once(
    kind: str, shape: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), lend_model(small(kind, shape), ["O", "B-X"], 0, 50) as model:
        assert all(reads_padding(model.eval(), "fp32", 0) for _ in range(3))
    assert caplog.text.count(f"the answers of a {kind} depend on the padding beside a sentence") == 1


@pytest.mark.parametrize(("kind", "shape"), [("fnet", FNET), ("funnel", FUNNEL), ("bert", SHAPE)])
def test_logits_do_not_depend_on_the_sentences_beside(kind: str, shape: dict[str, Any]) -> None:
    rows = [row(2, 5, 6), row(*range(5, 25)), row(2, 7, 9), row(2, *range(5, 11))]
    with lend_model(small(kind, shape), ["O", "B-X"], 0, 50) as model:
        model.eval()
        forward = Forward(0, 2048, "fp32")
        together = list(forward.word_logits(model, rows))
        for one, logits in zip(rows, together, strict=True):
            with torch.inference_mode():
                alone = model(input_ids=torch.tensor([one["input_ids"]])).logits[0].numpy()
            np.testing.assert_allclose(logits, alone, atol=1e-5)


def test_batches_of_one_length() -> None:
    rows = [row(1, 2), row(1, 2, 3), row(3, 4), row(5, 6), row(1)]
    assert list(batches_by_tokens(rows, 5, one_length=True)) == [[1], [0, 2], [3], [4]]
    assert list(batches_by_tokens(rows, 100)) == [[1, 0, 2, 3, 4]]
