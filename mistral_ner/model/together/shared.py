"""A network of modules of its own whose weights are those of another: each trial attaches its adapter to one."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel


def share_weights(base: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of ``base``, modules and config, that holds the very same tensors.

    Args:
        base: from :func:`mistral_ner.model.base.base_model`, with nothing attached.
    """
    kept: list[Any] = [*base.parameters(), *base.buffers()]
    # what bitsandbytes keeps beside its packed weights
    kept += [getattr(module, name, None) for module in base.modules() for name in ("state", "quant_state")]
    return copy.deepcopy(base, {id(one): one for one in kept if one is not None})
