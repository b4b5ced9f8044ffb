"""Walks over the modules of a network: fewer of them, to the same end."""

from __future__ import annotations

import torch
from torch import nn

from mistral_ner.training.walks import quick_walks


def test_a_model_does_as_before_with_fewer_walks(monkeypatch) -> None:
    walks = []
    walk = nn.Module.named_modules
    monkeypatch.setattr(nn.Module, "named_modules", lambda self, *a, **k: (walks.append(self), walk(self, *a, **k))[1])
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Sequential(nn.Linear(2, 1)))
    parameters = list(model.parameters())
    model[1].eval()  # as a base that is lent, in a model that is new
    with quick_walks(model):
        walks.clear()
        for mode in (True, False, True, True, False):
            assert model.train(mode) is model
            assert {module.training for module in model.modules()} == {mode}
        assert model.train().training
        assert not model.eval().training
        walks.clear()
        model(torch.ones(1, 2)).backward()
        assert [one is other for one, other in zip(model.parameters(), parameters, strict=True)] == [True] * 4
        assert all(parameter.grad is not None for parameter in parameters)
        model.zero_grad()
        assert [parameter.grad for parameter in parameters] == [None] * 4
        assert walks == []
    assert "train" not in vars(model)
    assert list(model.parameters()) == parameters
    assert walks != []
