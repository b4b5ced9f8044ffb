"""``errors.html``: the sentences that the final model got wrong, with both markings, and how it confuses types."""

from __future__ import annotations

import html
from collections.abc import Iterator

from mistral_ner.hyperopt.results.report.mistakes import (
    BORDER,
    KINDS,
    MISSED,
    NONE,
    RIGHT,
    SPURIOUS,
    Findings,
    Pair,
    Span,
    WrongSentence,
    cut_out,
    describe_findings,
)
from mistral_ner.hyperopt.results.report.parts import REPORT_PAGE, build_document, build_section, read_asset

MOST = 1000  # sentences that are shown; a browser filters them at once
AROUND = 25  # words that are shown before and after a mistake

_CLASSES = {RIGHT: "right", **dict(zip(KINDS, ("missed", "spurious", "type", "border", "both"), strict=True))}
_MEANINGS = (
    "missed: nothing was found where an entity is; spurious: something was found where none is; "
    "a wrong border or type: what was found overlaps the entity."
)


def build_errors_page(study: str, findings: Findings) -> str:
    """Return the HTML page of the final model's mistakes."""
    body = [
        f"<h1>Errors of {html.escape(study)}</h1>",
        f'<nav><a href="{REPORT_PAGE}">Report</a><a href="#confusion">Types</a>',
        '<a href="#sentences">Sentences</a></nav>',
        f'<p class="soft">{html.escape(describe_findings(findings))}</p>',
        _confusion(findings),
        _sentences(findings),
    ]
    return build_document(f"{study} · errors", body, [f"<script>\n{read_asset('errors.js')}</script>"])


def _confusion(findings: Findings) -> str:
    """Return the table of gold types against predicted types; a press on a number shows its sentences."""
    about = (
        "A row for each type of the gold entities, a column for each type that was predicted. On the diagonal are the "
        "right ones; + counts those of the right type with a wrong border. Press a number to see its sentences."
    )
    columns = [*findings.types, NONE]
    head = "".join(f"<th>{html.escape(found or 'nothing')}</th>" for found in columns)
    rows = "".join(
        f"<tr><th>{html.escape(gold or 'nothing')}</th>{''.join(_cell(findings, gold, f) for f in columns)}</tr>"
        for gold in columns
    )
    table = f'<table class="confusion"><thead><tr><th>gold ↓ predicted →</th>{head}</tr></thead><tbody>{rows}</tbody>'
    return build_section(
        "confusion", "Which type for which", f'<p class="soft">{about}</p><div class="wide">{table}</table></div>'
    )


def _cell(findings: Findings, gold: str, found: str) -> str:
    if gold == found:
        right, border = findings.count(RIGHT, gold, found), findings.count(BORDER, gold, found)
        more = f" {_button(findings, f'+{border}', gold, found)}" if border else ""
        return f'<td class="right">{right}{more}</td>' if gold else "<td></td>"
    count = findings.count(None, gold, found)
    return f"<td>{_button(findings, str(count), gold, found) if count else ''}</td>"


def _button(findings: Findings, text: str, gold: str, found: str) -> str:
    said = html.escape(f"gold {gold or 'nothing'}, predicted {found or 'nothing'}")
    cell = f'data-gold="{_number(findings, gold)}" data-found="{_number(findings, found)}"'
    return f'<button type="button" {cell} title="{said}">{text}</button>'


def _number(findings: Findings, kind: str) -> str:
    """Return what stands for an entity type in attributes: no text of the data."""
    return str(findings.types.index(kind)) if kind else "none"


def _sentences(findings: Findings) -> str:
    chosen = findings.choose(MOST)
    if not chosen:
        return build_section("sentences", "Sentences", '<p class="soft">No sentence has an error.</p>')
    whole = f"{len(findings.wrong)} of {findings.sentences} sentences have an error"
    cut = f"; {MOST} of them are here, some for each number of the table" if len(chosen) < len(findings.wrong) else ""
    about = f"{whole}{cut}. All are in final/predictions_{findings.split}.jsonl. {_MEANINGS}"
    articles = "".join(_article(findings, sentence) for sentence in chosen)
    content = f'<p class="soft">{html.escape(about)}</p>{_filters(findings, len(chosen))}{articles}'
    return build_section("sentences", "Sentences", content)


def _filters(findings: Findings, shown: int) -> str:
    kinds = [(str(place), f"{kind} ({findings.count(kind)})") for place, kind in enumerate(KINDS)]
    types = [(str(place), kind) for place, kind in enumerate(findings.types)]
    selects = _select("kind", "every error", kinds) + _select("type", "every type", types)
    chosen = '<button type="button" id="cell" hidden></button>'
    return f'<div class="filters">{selects}{chosen}<span class="soft" id="shown">{shown} shown</span></div>'


def _select(name: str, every: str, options: list[tuple[str, str]]) -> str:
    given = "".join(f'<option value="{value}">{html.escape(text)}</option>' for value, text in options)
    return f'<select id="{name}" aria-label="{name}"><option value="">{every}</option>{given}</select>'


def _article(findings: Findings, sentence: WrongSentence) -> str:
    codes = " ".join(_code(findings, pair) for pair in sentence.mistakes)
    place = f"sentence {sentence.number}" + (f", line {sentence.line}" if sentence.line else "")
    chips = "".join(
        f'<span class="chip {_CLASSES[pair.kind]}">{html.escape(_name(pair))}</span>' for pair in sentence.mistakes
    )
    gold = [(pair.gold, pair.kind) for pair in sentence.pairs if pair.gold]
    found = [(pair.found, pair.kind) for pair in sentence.pairs if pair.found]
    rows = "".join(
        f'<div class="marking"><span class="soft">{label}</span><p dir="auto">{_mark(sentence, spans)}</p></div>'
        for label, spans in (("gold", gold), ("found", found))
    )
    return f'<article data-errors="{codes}"><div class="soft">{place} {chips}</div>{rows}</article>\n'


def _code(findings: Findings, pair: Pair) -> str:
    kind, gold, found = pair.cell
    return f"{KINDS.index(kind)}.{_number(findings, gold)}.{_number(findings, found)}"


def _name(pair: Pair) -> str:
    kind, gold, found = pair.cell
    if kind in (MISSED, SPURIOUS):
        return f"{kind}: {gold or found}"
    return f"{kind}: {gold}" if gold == found else f"{kind}: {gold}, found {found}"


def _mark(sentence: WrongSentence, spans: list[tuple[Span, str]]) -> str:
    """Return the words around the mistakes, with entities marked."""
    parts: list[str] = []
    end = 0
    for start, after in cut_out(sentence, AROUND):
        parts += ["…"] * (start > end) + list(_mark_range(sentence.tokens, spans, start, after))
        end = after
    return " ".join(parts + ["…"] * (end < len(sentence.tokens)))


def _mark_range(words: list[str], spans: list[tuple[Span, str]], start: int, end: int) -> Iterator[str]:
    place = start
    for (first, after, kind), mistake in sorted(spans):
        if after <= start or first >= end:
            continue
        yield from map(html.escape, words[place:first])
        text = html.escape(" ".join(words[max(first, start) : min(after, end)]))
        yield f'<mark class="{_CLASSES[mistake]}">{text} <b>{html.escape(kind)}</b></mark>'
        place = after
    yield from map(html.escape, words[place:end])
