"""From a config to its tokenizer and encoded data, kept for the trials that follow; no model, no training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistral_ner.config import Config
from mistral_ner.data.encode import Encoded, encode
from mistral_ner.data.read import load_splits
from mistral_ner.model import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_kept: dict[str, tuple[PreTrainedTokenizerFast, Encoded]] = {}  # at most one: a study has one data set


def prepare(config: Config) -> tuple[PreTrainedTokenizerFast, Encoded]:
    """Return the tokenizer and the encoded data; the first call in a process reads or fills the cache on disk.

    Raises:
        UserError: the data or the tokenizer cannot be used; the message says why.
    """
    key = repr((config.data, config.model.model_name, config.model.revision, config.model.random_init))
    if key not in _kept:
        _kept.clear()
        splits = load_splits(config.data)
        tokenizer = load_tokenizer(config.model, [sentence.tokens for sentence in splits.train])
        _kept[key] = tokenizer, encode(splits, tokenizer, config.data)
    return _kept[key]


def forget_prepared() -> None:
    """Drop what is kept; the next :func:`prepare` reads the cache on disk again."""
    _kept.clear()
