"""The walks over a network's modules that Trainer takes in every step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def quick_walks(model: nn.Module) -> Iterator[None]:
    """Let ``model`` name its parameters from memory, and change its mode only if it is in the other one.

    In each step Trainer sets the mode, clips and clears the gradients, and each walks over some hundred modules: with
    ``minilm`` 7% of a short batch's time. Inside, no module may come or go, and the mode is that of the whole model.
    """
    parameters, change, quick = list(model.parameters()), model.train, vars(model)
    now: bool | None = None  # not model.training: a base that is lent may be in the other mode

    def train(mode: bool = True) -> Any:
        nonlocal now
        if mode != now:
            now = mode
            change(mode)
        return model

    quick["parameters"], quick["train"] = lambda recurse=True: iter(parameters), train
    try:
        yield
    finally:
        del quick["parameters"], quick["train"]
