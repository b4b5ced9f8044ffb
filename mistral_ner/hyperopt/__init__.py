"""The search: engines, study, results.

``search`` runs one from a script; ``HyperparameterOptimizer`` and its helpers take any objective. Imported when first
used, so that Hydra's plugins stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistral_ner.hyperopt.api import HyperparameterOptimizer as HyperparameterOptimizer
    from mistral_ner.hyperopt.api import create_objective_function as create_objective_function
    from mistral_ner.hyperopt.api import create_ray_tune_search_space as create_ray_tune_search_space
    from mistral_ner.hyperopt.api import search as search

__all__ = ["HyperparameterOptimizer", "create_objective_function", "create_ray_tune_search_space", "search"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.api"), name)
