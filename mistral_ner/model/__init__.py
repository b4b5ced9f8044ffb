"""The base model, which a process loads once, and the adapter that each trial attaches and detaches.

A trial does::

    tokenizer = load_tokenizer(config.model, train_sentences)
    with lend_model(config.model, labels, seed, len(tokenizer)) as model:
        ...  # train, evaluate, save_adapter(model, folder)

base.py loads the frozen network once a process, hardware.py says in which format, adapter.py attaches and detaches,
stored.py saves and loads, tokenizer/ and source.py find the files of a model name, targets.py chooses the modules
that LoRA changes. The names below are imported when they are first used, so importing this package costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistral_ner.model.adapter import attach as attach
    from mistral_ner.model.adapter import detach as detach
    from mistral_ner.model.adapter import lend_model as lend_model
    from mistral_ner.model.base import base_model as base_model
    from mistral_ner.model.base import forget_base as forget_base
    from mistral_ner.model.stored import load_adapter as load_adapter
    from mistral_ner.model.stored import load_trained as load_trained
    from mistral_ner.model.stored import merge_adapter as merge_adapter
    from mistral_ner.model.stored import save_adapter as save_adapter
    from mistral_ner.model.stored import save_merged as save_merged
    from mistral_ner.model.stored import save_weights as save_weights
    from mistral_ner.model.stored import weight_files as weight_files
    from mistral_ner.model.tokenizer import load_saved_tokenizer as load_saved_tokenizer
    from mistral_ner.model.tokenizer import load_tokenizer as load_tokenizer

_MODULE_OF = {
    "lend_model": "adapter",
    "attach": "adapter",
    "detach": "adapter",
    "base_model": "base",
    "forget_base": "base",
    "load_adapter": "stored",
    "load_trained": "stored",
    "merge_adapter": "stored",
    "save_adapter": "stored",
    "save_merged": "stored",
    "save_weights": "stored",
    "weight_files": "stored",
    "load_saved_tokenizer": "tokenizer",
    "load_tokenizer": "tokenizer",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
