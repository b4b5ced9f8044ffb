"""The parts of peft that are used here, imported without bitsandbytes.

peft imports bitsandbytes wherever it is installed, which takes a second and a half, though only quantised weights need
it. Whoever imports peft, or transformers' Trainer, which imports peft, imports this module first.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

_BITSANDBYTES = "bitsandbytes"


@contextlib.contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Let no library find bitsandbytes inside the block, unless it has been imported already."""
    if _BITSANDBYTES in sys.modules:
        yield
        return
    _forget_answers()
    # None says that there is no such module: https://docs.python.org/3/reference/import.html#the-module-cache
    sys.modules[_BITSANDBYTES] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_BITSANDBYTES]
        _forget_answers()


def _forget_answers() -> None:
    """Make peft look again whether bitsandbytes is installed: it remembers the answers of these two functions."""
    peft_looks = sys.modules.get("peft.import_utils")
    for name in ("is_bnb_available", "is_bnb_4bit_available"):
        forget = getattr(getattr(peft_looks, name, None), "cache_clear", None)
        if forget is not None:
            forget()


with without_bitsandbytes():
    from peft import (
        LoraConfig,
        PeftModel,
        TaskType,
        get_peft_model,
        get_peft_model_state_dict,
        set_peft_model_state_dict,
    )
    from peft.helpers import disable_input_dtype_casting
    from peft.tuners.lora.layer import Linear as LoraLinear
    from peft.tuners.lora.layer import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS_OF_TYPES
    from peft.utils.other import TrainableTokensWrapper


def can_leave_casts(model: Any) -> bool:
    """Return whether peft can switch the casts of every adapter's inputs off: not those of new embeddings (0.21)."""
    adapters = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    return all(hasattr(module, "cast_input_dtype_enabled") for module in adapters)


__all__ = [
    "TARGETS_OF_TYPES",
    "BaseTunerLayer",
    "LoraConfig",
    "LoraLayer",
    "LoraLinear",
    "PeftModel",
    "TaskType",
    "TrainableTokensWrapper",
    "can_leave_casts",
    "disable_input_dtype_casting",
    "get_peft_model",
    "get_peft_model_state_dict",
    "set_peft_model_state_dict",
    "without_bitsandbytes",
]
