"""Tag text with a trained model, from Python or with ``python -m mistral_ner.predict``.

    from mistral_ner.predict import Tagger

    tagger = Tagger.load("multirun/STUDY/final")
    for entity in tagger.tag(["Ada Lovelace was born in London."])[0]:
        print(entity.type, entity.text, entity.start, entity.end, entity.score)

The names below are imported when they are first used, so that a wrong command line costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistral_ner.predict.entity import Entity as Entity
    from mistral_ner.predict.tagger import Tagger as Tagger

__all__ = ["Entity", "Tagger"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mistral_ner.predict import tagger

    return getattr(tagger, name)
