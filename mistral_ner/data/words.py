"""Text to words, with their places: models are trained on words, so running text has to be split like their data.

The rules are those of common data sets (CoNLL-2003 and similar ones), and no character but white space is lost:

- letters, marks and digits that touch are a word (``São``, ``हिन्दी``, ``x2``); so are numbers with their points
  (``1,000.5``), abbreviations of single letters (``U.S.``), and words joined by hyphens (``Jean-Claude``) or by an
  apostrophe after a single letter (``O'Brien``);
- an English ending after an apostrophe is a word of its own (``Ada`` ``'s``);
- scripts that put no space between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) are split into characters;
- every other character (punctuation, symbols, emoji with the characters joined to them) is a word of its own.

If a model's training data was split in another way, give it words instead of text.
"""

from __future__ import annotations

import regex

_UNSPACED = "".join(
    rf"\p{{Script={name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
)
_SPACE = r"\s\x1c-\x1f"  # as in str.isspace
_APOSTROPHE = r"'\u2019"
_JOINERS = r"\u200c\u200d"  # inside words of Persian and of Indian scripts, and in emoji
_LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]"
_RUN = rf"{_LETTER}(?:{_LETTER}|[{_JOINERS}](?={_LETTER}))*"
_WORD = regex.compile(
    rf"""
      \p{{N}}+(?:[.,:]\p{{N}}+)+(?!{_LETTER})       # 1,000.5
    | (?<!{_LETTER})(?:\p{{L}}\.){{2,}}             # U.S.
    | (?<={_LETTER})[{_APOSTROPHE}](?:s|ll|re|ve|d|m|t)(?!{_LETTER})
    | (?:(?<!{_LETTER})\p{{L}}[{_APOSTROPHE}](?={_LETTER}{{2}}))?{_RUN}(?:-{_RUN})*
    | [{_UNSPACED}][\p{{M}}{_JOINERS}]*
    | \p{{Regional_Indicator}}{{2}}                 # a flag
    | [^{_SPACE}][\p{{M}}\p{{Emoji_Modifier}}]*(?:\u200d[^{_SPACE}\p{{L}}\p{{N}}][\p{{M}}\p{{Emoji_Modifier}}]*)*
    """,
    regex.VERBOSE | regex.VERSION1 | regex.IGNORECASE,
)


def split(text: str) -> list[tuple[int, int]]:
    """Return the words of ``text`` as (start, end) in characters, in order; every character but white space is in one.

    White space is what ``str.isspace`` says it is; zero-width characters are not white space.
    """
    return [match.span() for match in _WORD.finditer(text)]
