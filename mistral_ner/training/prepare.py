"""From a config to its tokenizer and encoded data, which are kept for later trials."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mistral_ner.config.schema import Config
from mistral_ner.data.encode import Encoded, encode
from mistral_ner.data.overview import describe
from mistral_ner.data.read import Splits, load_splits
from mistral_ner.data.windows import WordTokenizer
from mistral_ner.model import load_tokenizer
from mistral_ner.model.limits import check_vocabulary, choose_max_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_kept: dict[str, tuple[PreTrainedTokenizerFast, Encoded]] = {}  # at most one: a study has one data set


def prepare(config: Config, splits: Splits | None = None) -> tuple[PreTrainedTokenizerFast, Encoded]:
    """Return the tokenizer and the encoded data; a process's first call reads or fills the cache on disk.

    Args:
        config: ``data``, and which model's tokenizer.
        splits: the data, if it has been read already.

    Raises:
        UserError: the data or the tokenizer cannot be used; the message says why.
    """
    model = config.model
    key = repr((config.data, model.model_name, model.revision, model.random_init, model.resize_embeddings))
    if key not in _kept:
        _kept.clear()
        splits = splits or load_splits(config.data)
        tokenizer = load_tokenizer(config.model, [sentence.tokens for sentence in splits.train])
        check_vocabulary(config.model, tokenizer)
        max_length = choose_max_length(config.model, config.data.max_length)
        _kept[key] = tokenizer, encode(splits, tokenizer, replace(config.data, max_length=max_length))
    return _kept[key]


def describe_data(config: Config, splits: Splits) -> str:
    """Prepare the data and return the lines that say what was read, and how the model's tokenizer sees it.

    Raises:
        UserError: as :func:`prepare`.
    """
    tokenizer, encoded = prepare(config, splits)
    return describe(splits, WordTokenizer(tokenizer), encoded)


def forget_prepared() -> None:
    """Drop what is kept; the next :func:`prepare` reads the cache on disk again."""
    _kept.clear()
