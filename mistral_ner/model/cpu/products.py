"""Products of float32 matrices by the library that uses the full width of the processor.

torch uses MKL, which never goes beyond AVX2 on processors that are not Intel's. oneDNN, which comes with torch, uses
AVX-512 wherever there is any, and is twice as fast on AMD's EPYC.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

# oneDNN, and torch for it, cache compiled code for each shape of a product, a thousand shapes by default. With these a
# process grew by half in a hundred trainings; with fewer than a training's own, most products were compiled again: a
# third of a step's time in bfloat16. Both read these once, at the first product.
for _name, _shapes in (("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512"), ("LRU_CACHE_CAPACITY", "64")):
    os.environ.setdefault(_name, _shapes)


@contextlib.contextmanager
def wide_products() -> Iterator[None]:
    """Let oneDNN multiply float32 matrices on a CPU with AVX-512, if it does not round the operands.

    A precision that the caller has chosen is kept. Nothing changes before torch 2.9.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None or settings.fp32_precision != "none" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        yield
        return
    try:
        # torch has no other name for "by oneDNN": it allows bfloat16 operands, which are used on CPUs with units for
        # them (AMX)
        settings.fp32_precision = "bf16"
        if not _exact():
            settings.fp32_precision = "none"
        yield
    finally:
        settings.fp32_precision = "none"


def _exact() -> bool:
    """Tell whether products keep digits that float32 holds and bfloat16 does not.

    Which library multiplies depends on the shapes: torch 2.11 rounds large products and batched ones only.
    """
    digits = 1 + 2.0**-12
    large, batched = torch.full((512, 512), digits), torch.full((4, 64, 64), digits)
    return torch.equal(large @ torch.eye(512), large) and torch.equal(
        batched @ torch.eye(64).expand(4, 64, 64), batched
    )
