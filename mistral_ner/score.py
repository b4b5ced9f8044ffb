"""A trained adapter, scored on a split of the data that it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mistral_ner.batches import batches_by_tokens
from mistral_ner.config import Config
from mistral_ner.metrics import IntArray, Score, entity_scores, sentence_counts
from mistral_ner.model.attention import quick_attention
from mistral_ner.model.hardware import autocast
from mistral_ner.model.stored import load_trained
from mistral_ner.predict.tagger import word_probabilities
from mistral_ner.prepare import prepare


def score(config: Config, folder: str | Path, split: str) -> Score | None:
    """Score the adapter in ``folder`` on ``split`` (train, dev or test); None where the split has no sentences.

    Raises:
        UserError: the data cannot be read, or the folder holds no adapter that can be loaded.
    """
    _, data = prepare(config)
    gold, lengths = data.gold(split)
    if len(lengths) == 0:
        return None
    trained = load_trained(folder)
    rows = data.rows(split)
    predicted: list[IntArray] = [np.empty(0, dtype=np.int64)] * len(rows)
    pad_id = int(trained.tokenizer.pad_token_id or 0)
    batches = batches_by_tokens(rows, config.training.eval_batch_tokens)
    # as it was scored while it trained, so that both say the same
    with autocast(config.training.precision), quick_attention(trained.model, config):
        for index, chances in word_probabilities(trained.model, rows, pad_id, batches):
            predicted[index] = chances.argmax(-1)
    tags = np.concatenate(predicted)
    return Score(
        entity_scores(gold, tags, lengths, data.labels),
        sentence_counts(gold, tags, lengths, data.labels),
    )
