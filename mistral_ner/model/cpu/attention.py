"""Attention on the CPU by plain matrix products, for short windows.

torch's fused kernel saves memory that grows with the square of a window's length, but is slower on short windows: a
training step takes 1.3 times as long with GQA in bfloat16, and 1.1 times as long with BERT's heads.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mistral_ner.config.schema import Config
from mistral_ner.model.hardware import device

_SHORT = 128  # subwords a window: 6 MB of float32 for each layer and sentence with twelve heads, kept for the gradients


@contextlib.contextmanager
def quick_attention(model: Any, config: Config) -> Iterator[None]:
    """Let ``model`` use eager attention if that is faster and the config leaves the choice; restore it afterwards.

    The choice follows from the config alone, so that a model is scored as it was trained.

    Args:
        model: a transformers model, or a peft model around one.
        config: ``model.attention`` and ``data.max_length``.
    """
    base: Any = getattr(model, "get_base_model", lambda: model)()
    before = base.config._attn_implementation
    length = config.data.max_length
    short = isinstance(length, int) and length <= _SHORT and device().type == "cpu"
    if not short or config.model.attention != "auto" or before != "sdpa":
        yield
        return
    base.set_attn_implementation("eager")
    try:
        yield
    finally:
        base.set_attn_implementation(before)
