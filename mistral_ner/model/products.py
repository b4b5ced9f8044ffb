"""Products of float32 matrices by the library that uses the whole width of the processor.

torch has MKL multiply them, which takes AVX2 on processors that are not Intel's, whatever they have; oneDNN, which
torch carries as well, takes AVX-512 wherever it is there: twice as fast on AMD's EPYC.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

# oneDNN, and torch for it, keep what they compiled for each shape of a product, a thousand of them unless told
# otherwise; batches have ever new shapes, and a hundred trainings grew by half. Read once, at the first product.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")


@contextlib.contextmanager
def wide_products() -> Iterator[None]:
    """Let oneDNN multiply float32 matrices on the CPU where it has AVX-512 for them and rounds no operand.

    A precision that the caller has chosen stays. Needs torch 2.9; before it nothing changes.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None or settings.fp32_precision != "none" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        yield
        return
    try:
        # torch has no other name for "by oneDNN": it allows bfloat16 operands, which are used where there are units
        # for them (AMX)
        settings.fp32_precision = "bf16"
        if not _exact():
            settings.fp32_precision = "none"
        yield
    finally:
        settings.fp32_precision = "none"


def _exact() -> bool:
    """Whether a product keeps what float32 holds and bfloat16 does not."""
    numbers = torch.full((64, 64), 1 + 2.0**-12)
    return torch.equal(numbers @ torch.eye(64), numbers)
