"""Data sets of the Hugging Face hub, or local folders laid out like them. No loading script is ever run."""

from __future__ import annotations

import logging
from typing import Any

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.records.record import check_record, find_keys
from mistral_ner.data.source import RawSentence
from mistral_ner.errors import UserError

log = logging.getLogger(__name__)

_SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev", "valid"), "test": ("test",)}


def read_hub(data: DataConfig) -> dict[str, list[RawSentence]]:
    """Return the splits that ``data.hub_name`` has, under the names train, dev and test.

    Raises:
        UserError: the data set cannot be loaded, has no train split, or has tags of an unknown kind.
    """
    found = _load(data)
    splits: dict[str, list[RawSentence]] = {}
    for split, names in _SPLIT_NAMES.items():
        name = next((name for name in names if name in found), None)
        if name is not None:
            splits[split] = _sentences(found[name], f"{data.hub_name}/{name}", data)
    if "train" not in splits:
        raise UserError(
            f"{data.hub_name}: a data set needs a split named train, found {', '.join(found)}\n"
            "  fix: download it as files and use data=files data.train_file=PATH"
        )
    return splits


def _load(data: DataConfig) -> Any:
    import datasets

    try:
        return datasets.load_dataset(data.hub_name, data.hub_config, revision=data.hub_revision)
    except Exception as error:  # datasets raises a dozen classes, builtin ones too, for one and the same case
        reason = " ".join(str(error).split())[:300]
        fix = (
            "connect to the internet once, or set HF_HOME to a folder that holds a cached copy, or download the data "
            "set as files and use data=files data.train_file=PATH"
        )
        if "script" in reason.lower():
            fix = "data.hub_revision=refs/convert/parquet (the hub's own Parquet copy; scripts are never run)"
        elif "config name" in reason.lower():
            fix = "data.hub_config=NAME"
        raise UserError(
            f"data.hub_name={data.hub_name}: the data set must be on the hub or in the local cache, "
            f"found {type(error).__name__}: {reason}\n  fix: {fix}"
        ) from error


def _sentences(dataset: Any, where: str, data: DataConfig) -> list[RawSentence]:
    tokens_key, tags_key = find_keys(where, dataset.column_names, data)
    feature = getattr(dataset.features[tags_key], "feature", None)
    names = getattr(feature, "names", None)
    rows = zip(dataset[tokens_key], dataset[tags_key], strict=True)
    return [
        check_record(where, number, list(tokens), list(tags), names) for number, (tokens, tags) in enumerate(rows, 1)
    ]
