"""Who multiplies float32 matrices: another library where that is quicker, and never with shortened numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mistral_ner.model.cpu import products
from mistral_ner.model.cpu.products import wide_products

SETTINGS = torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    assert SETTINGS.fp32_precision == "none"
    yield
    SETTINGS.fp32_precision = "none"


def test_products_are_those_of_float32_forward_and_backward() -> None:
    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(384, 96), torch.randn(50, 384, requires_grad=True)
    with wide_products():
        layer(rows).square().sum().backward()
    exact, doubled = torch.nn.Linear(384, 96).double(), rows.detach().double().requires_grad_()
    exact.load_state_dict(layer.state_dict())
    exact(doubled).square().sum().backward()
    for found, wanted in ((rows.grad, doubled.grad), (layer.weight.grad, exact.weight.grad)):
        assert found is not None
        assert wanted is not None
        assert ((found - wanted).abs().max() / wanted.abs().max()).item() < 2e-6


@pytest.mark.parametrize("shape", [(8, 32, 32), (8, 384, 384), (128, 384, 1536), (700, 384, 384)])
def test_no_shape_is_rounded(shape: tuple[int, int, int]) -> None:
    """Which library multiplies depends on the shape, and so does whether it rounds."""
    torch.manual_seed(0)
    rows, inner, columns = shape
    one, other = torch.randn(rows, inner), torch.randn(inner, columns)
    with wide_products():
        found = [one @ other, torch.nn.functional.linear(one, other.t().contiguous())]
        found += [torch.bmm(one.expand(4, -1, -1), other.expand(4, -1, -1))[0]]
    wanted = one.double() @ other.double()
    for each in found:
        assert ((each - wanted).abs().max() / wanted.abs().max()).item() < 5e-6


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that says so, whichever runs the tests: what is looked at here is the setting alone."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.mark.usefixtures("avx512")
def test_it_holds_inside_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_exact", lambda: True)
    with wide_products():
        inside = SETTINGS.fp32_precision
        assert inside == "bf16"
        with wide_products():
            assert SETTINGS.fp32_precision == inside
        assert SETTINGS.fp32_precision == inside
    assert SETTINGS.fp32_precision == "none"
    with pytest.raises(ZeroDivisionError), wide_products():
        _ = 1 / 0
    assert SETTINGS.fp32_precision == "none"


def test_a_precision_that_the_caller_chose_stays() -> None:
    SETTINGS.fp32_precision = "ieee"
    with wide_products():
        assert SETTINGS.fp32_precision == "ieee"
    assert SETTINGS.fp32_precision == "ieee"


@pytest.mark.usefixtures("avx512")
def test_a_processor_that_would_round_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_exact", lambda: False)
    with wide_products():
        assert SETTINGS.fp32_precision == "none"


def test_rounding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert products._exact()
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(a.bfloat16(), b.bfloat16()).float())
    assert not products._exact()
