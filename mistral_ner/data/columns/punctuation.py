"""Sentences that nothing but punctuation separates."""

from __future__ import annotations

from mistral_ner.data.source import RawSentence

_ENDS = frozenset(".!?\u3002\uff01\uff1f\u0964")  # of sentences, in most scripts
_CLOSING = frozenset("\"')]\u201d\u2019\u00bb")


def split_at_punctuation(sentence: RawSentence) -> list[RawSentence]:
    """Return the parts of a sentence, each with the marks at its end and the quotes and brackets that close it."""
    parts = []
    start = 0
    for place in range(1, len(sentence.tokens) + 1):
        if place == len(sentence.tokens) or _ends(sentence, place):
            parts.append(sentence.part(start, place))
            start = place
    return parts


def _ends(sentence: RawSentence, place: int) -> bool:
    """Whether a sentence ends before the word at ``place``; never inside an entity."""
    tokens, tag = sentence.tokens, sentence.tags[place]
    if set(tokens[place]) <= _ENDS | _CLOSING or tag[:2] in ("I-", "E-", "L-", "M-"):
        return False
    last = place - 1
    while last > 0 and tokens[last] in _CLOSING:
        last -= 1
    return set(tokens[last]) <= _ENDS
