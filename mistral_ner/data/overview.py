"""What was read, in a few lines: before a training, a search and a dry run, and for ``python -m mistral_ner.data``."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mistral_ner.data.encoded.windows import WordTokenizer
from mistral_ner.data.read import SPLITS, Sentence, Splits
from mistral_ner.data.schemes import spans

if TYPE_CHECKING:
    from mistral_ner.data.encoded.encode import Encoded

log = logging.getLogger(__name__)

MANY_UNKNOWN = 0.05  # of the words: from here on a warning says so
_TYPES = 8  # that are named, the most frequent first
_WARNINGS = 5  # that are repeated
_LONGEST = 160  # characters of a warning
_WORDS = 20  # of the first sentence that are shown


def describe(splits: Splits, words: WordTokenizer | None = None, encoded: Encoded | None = None) -> str:
    """Return lines that say where each split is from, what it holds, and how the model sees it.

    Args:
        splits: the data.
        words: the model's tokenizer, for its unknown words; None leaves them out.
        encoded: the same data, for its windows; None leaves them out.
    """
    lines = [(name, _describe_split(name, splits)) for name in SPLITS if getattr(splits, name)]
    lines.append(("first", _mark(next(item for item in splits.train if set(item.tags) != {"O"}))))
    lines.append(("longest", _describe_longest(splits, words, encoded)))
    if words is not None:
        lines.append(("unknown", _describe_unknown(splits, words)))
    lines += [("warning", _shorten(text)) for text in splits.warnings[:_WARNINGS]]
    if (more := len(splits.warnings) - _WARNINGS) > 0:
        lines.append(("warning", f"... and {more} more, above"))
    return "\n".join(f"  {name:<9}{text}" for name, text in lines)


def _shorten(text: str) -> str:
    """Return a warning's first line, of a length that a terminal shows in one or two."""
    first = text.partition("\n")[0]
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST]}..."


def _describe_split(name: str, splits: Splits) -> str:
    sentences: list[Sentence] = getattr(splits, name)
    kinds = Counter(kind for item in sentences for _, _, kind in spans(item.tags))
    most = [f"{kind} {count:,}" for kind, count in kinds.most_common(_TYPES)]
    named = ", ".join(most + ["..."] * (len(kinds) > _TYPES)) or "no entity"
    size = sum(len(item.tokens) for item in sentences)
    where = splits.origins.get(name, "given")
    return f"{where}: {_count(len(sentences), 'sentence')}, {_count(size, 'word')}; {named}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _mark(sentence: Sentence) -> str:
    """Return a sentence with its entities in brackets: ``[Ada Li PER] left [Oslo LOC]``."""
    words = list(sentence.tokens)
    entities = spans(sentence.tags)
    for start, end, kind in entities:
        words[start] = f"[{words[start]}"
        words[end - 1] += f" {kind}]"
    shown = max(_WORDS, entities[0][1])
    return " ".join(words[:shown] + ["..."] * (len(words) > shown))


def _describe_longest(splits: Splits, words: WordTokenizer | None, encoded: Encoded | None) -> str:
    if words is None or encoded is None:
        return f"{max(len(item.tokens) for name in SPLITS for item in getattr(splits, name)):,} words"
    longest, most, several, size = 0, 0, 0, 0
    for name in SPLITS:
        if not getattr(splits, name):
            continue
        rows = encoded.split(name).data.column("sentence").to_numpy()
        windows = np.bincount(rows)
        lengths = np.bincount(rows, encoded.rows(name).lengths - len(words.before) - len(words.after))
        if any(item.before or item.after for item in getattr(splits, name)):  # windows hold neighbours, too
            lengths = np.array([sum(map(len, words.encode(item.tokens))) for item in getattr(splits, name)])
        if lengths.max() > longest:
            longest, most = int(lengths.max()), int(windows[lengths.argmax()])
            size = len(getattr(splits, name)[int(lengths.argmax())].tokens)
        several += int((windows > 1).sum())
    cut = f"; {_count(several, 'sentence')} of several windows (data.max_length)" if several else ""
    return f"{_count(size, 'word')}, {_count(longest, 'subword')}, in {_count(most, 'window')}{cut}"


def _describe_unknown(splits: Splits, words: WordTokenizer) -> str:
    counts = Counter(word for name in SPLITS for item in getattr(splits, name) for word in item.tokens)
    unknown = words.find_unknown(counts)
    frequent = sorted(unknown, key=lambda word: -counts[word])
    share = sum(counts[word] for word in unknown) / counts.total()
    if share > MANY_UNKNOWN:
        log.warning(
            "%.0f%% of the words are unknown to the model, such as %s: it cannot tell them apart\n"
            "  fix: a model for this language, model.model_name=FacebookAI/xlm-roberta-base for a hundred of them",
            *(100 * share, ", ".join(frequent[:5])),
        )
    if not unknown:
        return "every word is in the model's vocabulary"
    return f"{share:.1%} of the words are not in the model's vocabulary ({', '.join(frequent[:5])})"
