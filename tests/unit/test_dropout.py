"""Quick dropout drops what torch's own would: as many, scaled as much, from the same generator."""

import pytest
import torch
from torch import nn

from mistral_ner.model.cpu.dropout import QuickDropout, quick_dropout

ONES = torch.ones(999, 1001)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.95])
def test_rate_and_scale(rate):
    torch.manual_seed(0)
    out = QuickDropout(rate)(ONES)
    dropped = float((out == 0).double().mean())
    assert dropped == pytest.approx(rate, abs=4 * (rate * (1 - rate) / ONES.numel()) ** 0.5 + 1e-5)
    assert torch.equal(out[out != 0].unique(), torch.tensor([1 / (1 - rate)]))


def test_neighbours_are_independent():
    torch.manual_seed(0)
    dropped = (QuickDropout(0.3)(ONES) == 0).flatten().double()
    for lag in (1, 2, 3, 4, 1001):
        both = float((dropped[lag:] * dropped[:-lag]).mean())
        assert both == pytest.approx(0.09, abs=2e-3), lag


def test_follows_from_the_global_seed_and_drops_gradients_alike():
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        x = ONES.clone().requires_grad_()
        y = QuickDropout(0.2)(x)
        y.sum().backward()
        assert torch.equal(x.grad, y)
        outs.append(y.detach())
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], QuickDropout(0.2)(ONES))


def test_nothing_is_dropped_in_evaluation():
    assert torch.equal(QuickDropout(0.5).eval()(ONES), ONES)
    assert torch.equal(QuickDropout(0.0)(ONES), ONES)


def test_a_model_has_its_own_dropout_back_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))

    def breaks():
        with quick_dropout(model):
            assert type(model[1]) is QuickDropout
            raise KeyError

    with pytest.raises(KeyError):
        breaks()
    assert type(model[1]) is nn.Dropout
