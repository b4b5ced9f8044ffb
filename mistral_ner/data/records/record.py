"""One record: which of its keys hold the words and the tags, and whether they are sound."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.schemes import TAG_RULE, is_tag
from mistral_ner.data.source import RawSentence, fault, is_encodable
from mistral_ner.errors import UserError

log = logging.getLogger(__name__)

TOKENS_KEYS = ("tokens", "words")
TAGS_KEYS = ("ner_tags", "tags", "labels")


def holds_tags(record: Mapping[str, Any], data: DataConfig) -> bool:
    """Whether a record has a list of words, and a list of tags, not of spans."""
    words = next((record[key] for key in (data.tokens_key, *TOKENS_KEYS) if key in record), None)
    tags = next((record[key] for key in (data.tags_key, *TAGS_KEYS) if key in record), None)
    return (
        isinstance(words, list)
        and isinstance(tags, list)
        and not any(isinstance(word, dict) for word in words)
        and not any(isinstance(tag, list | dict) for tag in tags)
    )


def find_keys(where: str, present: Sequence[str], data: DataConfig) -> tuple[str, str]:
    """Return the keys of tokens and tags among ``present``: the configured ones, else common ones, which are logged."""
    found = []
    for setting, wanted, others in (
        ("tokens_key", data.tokens_key, TOKENS_KEYS),
        ("tags_key", data.tags_key, TAGS_KEYS),
    ):
        key = next((name for name in (wanted, *others) if name in present), None)
        if key is None:
            spans = " (or spans: text with label, labels, spans or entities)" if "text" in present else ""
            raise UserError(
                f"{where}: there must be a column {wanted!r} (data.{setting}), found {', '.join(present) or 'none'}\n"
                f"  fix: data.{setting}=COLUMN{spans}"
            )
        if key != wanted:
            log.info("%s has no %r: reading %r instead (data.%s=%s says so)", where, wanted, key, setting, key)
        found.append(key)
    return found[0], found[1]


def check_record(
    path: str | Path, number: int, tokens: Any, tags: Any, names: Sequence[str] | None = None
) -> RawSentence:
    """Return a record as a sentence; ``names`` turns whole numbers into tags.

    Raises:
        UserError: tokens or tags are not lists of text, they differ in length, or a tag is unknown.
    """
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise fault(path, number, "tokens must be a list of texts", tokens, "data.tokens_key=COLUMN")
    if not isinstance(tags, list):
        raise fault(path, number, "tags must be a list of texts", tags, "data.tags_key=COLUMN")
    if not all(tokens):
        raise fault(path, number, "a token must not be empty", tokens, "take it out, with its tag")
    if not is_encodable("".join(tokens)):
        raise fault(path, number, "a token must be whole characters, not half a surrogate pair", tokens, "mend it")
    if len(tokens) != len(tags):
        rule = f"tokens and tags must have one length, not {len(tokens)} and {len(tags)}"
        raise fault(path, number, rule, " ".join(tokens), "give each token one tag")
    texts = [_tag_text(path, number, tag, names) for tag in tags]
    return RawSentence(tokens, texts, [number] * len(tokens))


def _tag_text(path: str | Path, number: int, tag: Any, names: Sequence[str] | None) -> str:
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            fix = "write the tags as text (O, B-PER, ...), or as Parquet with a ClassLabel feature of datasets"
            raise fault(path, number, "tags are numbers whose names the file does not say", tag, fix)
        if not 0 <= tag < len(names):
            raise fault(path, number, f"a tag number must be from 0 to {len(names) - 1}", tag, "mend the number")
        tag = names[tag]
    if not isinstance(tag, str) or not is_tag(tag):
        fix = "write tags as O, B-TYPE and I-TYPE; data.tags_key=COLUMN picks another column"
        raise fault(path, number, TAG_RULE, tag, fix)
    return tag
