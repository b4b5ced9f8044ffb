"""The loss of a training: cross-entropy, or the focal loss as its paper defines it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistral_ner.train import fit
from mistral_ner.training.checkpoint import reports_on_disk
from mistral_ner.training.trainer import _sum_loss

IGNORED = -100


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_word_weighs_less_the_surer_the_model_is_of_its_label(gamma: float) -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(3, 5, 4)), random.integers(0, 4, size=(3, 5))
    labels[0, 0] = labels[2, 4] = IGNORED
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = 0.0
    for row, one in zip(probabilities.reshape(-1, 4), labels.ravel(), strict=True):
        if one != IGNORED:
            expected -= (1 - row[one]) ** gamma * np.log(row[one])
    found = _sum_loss(torch.tensor(logits), torch.tensor(labels), gamma)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradients_are_finite_where_the_model_is_sure(gamma: float) -> None:
    logits = torch.tensor([[[200.0, 0.0], [0.0, 200.0], [1.0, 0.0]]], requires_grad=True)
    _sum_loss(logits, torch.tensor([[0, 0, IGNORED]]), gamma).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 1].abs().min() > 0.5, "it is surely wrong there"


def test_a_training_uses_it(tiny: dict[str, Any], tmp_path: Path, cold: None) -> None:
    """Its loss is smaller than the cross-entropy, and it learns something else from it."""
    losses = {}
    for gamma in (0.0, 2.0):
        folder = tmp_path / str(gamma)
        fit({**tiny, "output_dir": str(folder), "training": {**tiny["training"], "focal_gamma": gamma}})
        losses[gamma] = [(row["train_loss"], row["eval_loss"]) for row in reports_on_disk(folder)]
    assert 0 < losses[2.0][0][0] < losses[0.0][0][0]
    assert losses[2.0][-1][1] != losses[0.0][-1][1]
