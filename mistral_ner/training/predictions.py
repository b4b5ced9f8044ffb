"""What a training leaves to look at: its splits as they were read, and what the model found beside the gold tags."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from mistral_ner import files
from mistral_ner.config.schema import Config, DataConfig
from mistral_ner.data.read import SPLITS, Sentence, Splits
from mistral_ner.metrics import IntArray, Score, entity_spans, entity_types
from mistral_ner.training.evaluate import score
from mistral_ner.training.inputs.prepare import find_splits


def read_again(data: DataConfig) -> Splits:
    """Return the splits, without another word about them."""
    log = logging.getLogger("mistral_ner.data")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return find_splits(data)
    finally:
        log.setLevel(level)


def write_splits(folder: Path, splits: Splits) -> None:
    """Write ``splits/train.jsonl``, ``dev.jsonl`` and ``test.jsonl``: the sentences in order, with their lines."""
    (folder / "splits").mkdir(exist_ok=True)
    for name in SPLITS:
        files.write_json_lines(folder / "splits" / f"{name}.jsonl", [_row(one) for one in getattr(splits, name)])


def score_and_write(config: Config, split: str, splits: Splits) -> Score | None:
    """Score the adapter of a training on a split, and write ``predictions_SPLIT.jsonl`` beside the adapter's folder.

    Its lines are those that ``python -m mistral_ner.predict`` adds ``predicted_ner_tags`` to.

    Raises:
        UserError: as :func:`mistral_ner.training.evaluate.score`.
    """
    folder, sentences = Path(config.output_dir), getattr(splits, split)
    found = score(config, folder / "adapter", split)
    if found is not None:
        tags = iter(_as_entities(found.tags, [len(one.tokens) for one in sentences], splits.labels))
        rows = [{**_row(one), "predicted_ner_tags": [next(tags) for _ in one.tokens]} for one in sentences]
        files.write_json_lines(folder / f"predictions_{split}.jsonl", rows)
    return found


def _row(sentence: Sentence) -> dict[str, Any]:
    line = {"line": sentence.line} if sentence.line else {}
    return {**line, "tokens": sentence.tokens, "ner_tags": sentence.tags}


def _as_entities(tags: IntArray, lengths: list[int], labels: list[str]) -> list[str]:
    """Return predicted tags as they are scored: an I- that continues no entity is O."""
    texts = np.full(len(tags), "O", dtype=object)
    types = entity_types(labels)
    for start, end, kind in entity_spans(tags, lengths, labels).tolist():
        texts[start:end] = f"I-{types[kind]}"
        texts[start] = f"B-{types[kind]}"
    found: list[str] = texts.tolist()
    return found
