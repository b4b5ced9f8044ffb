"""From a config to its tokenizer and encoded data, which are kept for later trials."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mistral_ner.config.schema import Config, DataConfig
from mistral_ner.data.encoded.encode import Encoded, encode
from mistral_ner.data.encoded.windows import WordTokenizer
from mistral_ner.data.overview import describe
from mistral_ner.data.read import Splits, load_splits
from mistral_ner.model import load_tokenizer
from mistral_ner.model.limits import check_vocabulary, choose_max_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_kept: dict[str, tuple[PreTrainedTokenizerFast, Encoded]] = {}  # at most one: a study has one data set
_adopted: dict[str, Splits] = {}  # at most one, by its data


def prepare(config: Config, splits: Splits | None = None) -> tuple[PreTrainedTokenizerFast, Encoded]:
    """Return the tokenizer and the encoded data; a process's first call reads or fills the cache on disk.

    Args:
        config: ``data``, and which model's tokenizer.
        splits: the data, if it has been read already.

    Raises:
        UserError: the data or the tokenizer cannot be used; the message says why.
    """
    key = _key(config)
    if key not in _kept:
        splits = splits or load_splits(config.data)
        tokenizer = load_tokenizer(config.model, [sentence.tokens for sentence in splits.train])
        check_vocabulary(config.model, tokenizer)
        _keep(key, config, splits, tokenizer)
    return _kept[key]


def adopt(config: Config, splits: Splits, tokenizer: PreTrainedTokenizerFast) -> None:
    """Take what another machine has read, so that :func:`prepare` and :func:`find_splits` need no file of the data's.

    Args:
        config: ``data``, whose ``cache_dir`` may hold the encoded rows, and the model.
        splits: its sentences.
        tokenizer: the model's.
    """
    if (key := _key(config)) not in _kept:
        _keep(key, config, splits, tokenizer)
        _adopted.clear()
        _adopted[repr(config.data)] = splits


def find_splits(data: DataConfig) -> Splits:
    """Return the splits that ``data`` describes, those that were adopted or as their files are now.

    Raises:
        UserError: as :func:`mistral_ner.data.read.load_splits`.
    """
    return _adopted.get(repr(data)) or load_splits(data)


def _key(config: Config) -> str:
    model = config.model
    return repr((config.data, model.model_name, model.revision, model.random_init, model.resize_embeddings))


def describe_needs(config: Config) -> str:
    """Return as text what decides the prepared data, wherever its cache is."""
    return _key(replace(config, data=replace(config.data, cache_dir="")))


def _keep(key: str, config: Config, splits: Splits, tokenizer: PreTrainedTokenizerFast) -> None:
    _kept.clear()
    max_length = choose_max_length(config.model, config.data.max_length)
    _kept[key] = tokenizer, encode(splits, tokenizer, replace(config.data, max_length=max_length))


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
