"""The search: engines, study, results.

``search`` runs one from a script; ``HyperparameterOptimizer`` and its helpers take any objective. These names are
imported when they are first used, so that Hydra's plugins stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistral_ner.hyperopt.compat import HyperparameterOptimizer as HyperparameterOptimizer
    from mistral_ner.hyperopt.compat import create_objective_function as create_objective_function
    from mistral_ner.hyperopt.compat import create_ray_tune_search_space as create_ray_tune_search_space
    from mistral_ner.hyperopt.dispatch import search as search

_MODULE_OF = {
    "HyperparameterOptimizer": "compat",
    "create_objective_function": "compat",
    "create_ray_tune_search_space": "compat",
    "search": "dispatch",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.sweepers")  # a script composes hyperopt=combined with what is registered there
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
