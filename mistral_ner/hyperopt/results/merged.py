"""The final model as one checkpoint, base and adapter merged: written and scored, because it may be another model.

An adapter that was trained on weights in 4 or 8 bits has learnt to make up for their rounding. Merged, it lies on the
weights as they were before. The sum is rounded to the format of the weights, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistral_ner import files
from mistral_ner.config.schema import Config
from mistral_ner.hyperopt.cluster.road import Road, work_in
from mistral_ner.hyperopt.cluster.workers import Failed, Workers

if TYPE_CHECKING:
    from mistral_ner.metrics import Score

log = logging.getLogger(__name__)

FOLDER = "merged"


def merge(config: Config, adapter: Path, folder: Path, splits: Sequence[str], workers: Workers) -> str:
    """Write ``folder/merged`` and its ``metrics.json``; return the model card's words about it.

    Args:
        config: of the training.
        adapter: what it trained.
        folder: the final model's.
        splits: to score it on.
        workers: score it; where they cannot (the weights of a 4-bit search may not fit in 16), the card says so.
    """
    from mistral_ner.model.stored import read_labels, save_merged  # late, because it imports torch

    place = folder / FOLDER
    save_merged(config, read_labels(adapter), adapter, place)
    if config.model.tuning == "full":
        return "`merged/` is the same model.\n"
    scores: dict[str, dict[str, float]] = {}
    for split in splits:  # one after the other: each may fetch the whole model
        office = workers.office
        wanted = config, place, split, office.issue(place) if office is not None else None
        ((_, found),) = workers.each(_score, [wanted])
        if isinstance(found, Failed):
            log.warning("the merged model could not be scored on %s: %s", split, found.reason)
            return f"{_describe(config)} It could not be scored here: {found.reason}.\n"
        if found is not None:
            scores[split] = found.metrics
    files.write_json(place / "metrics.json", scores)
    text = ", ".join(f"{split} F1 {metrics['f1']:.4f}" for split, metrics in scores.items())
    log.info("merged model: %s", text)
    return f"{_describe(config)} Its own scores: {text}.\n"


def _describe(config: Config) -> str:
    bits = {"4bit": "4 bits", "8bit": "8 bits"}.get(config.model.quantization)
    if bits is None:
        return "`merged/` is base and adapter in one checkpoint; their sum is rounded to the format of the weights."
    return (
        f"`merged/` is another model than the one scored above: the adapter was trained on weights in {bits}, and is "
        "merged into the unrounded ones."
    )


def _score(wanted: tuple[Config, Path, str, Road | None]) -> Score | None:
    from mistral_ner.training.evaluate import score

    config, folder, split, road = wanted
    with work_in(folder, road) as place:
        place.settle(config, trains=True)
        return score(config, place.folder, split)
