"""JSON records in and out of predict: words, text, and text with the spans of annotation tools.

What is found comes back in the form that the record's own spans or tags have, under another key, so that a training
never takes it for gold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mistral_ner.config.schema import DataConfig
from mistral_ner.data.records.json_lines import as_record, parse
from mistral_ner.data.records.record import TAGS_KEYS, TOKENS_KEYS
from mistral_ner.data.source import Line, fault
from mistral_ner.data.spans.tools import (
    ENDS,
    KINDS,
    STARTS,
    find_annotations,
    find_spans_key,
    find_task_text,
    find_text,
    find_words,
    is_task,
)
from mistral_ner.predict.entity import Entity, Item, as_json, as_object, in_text, iob2_tags
from mistral_ner.predict.texts import text_item

_FIX = 'write {"text": "…"} or {"tokens": ["…", "…"]}, or name another format with --format'
_LOOKED_AT = 1000  # records that show the form of the spans
_FORMS: dict[str, Any] = {  # of spans under a key that holds none, as the tools write them
    "label": [0, 0, ""],
    "labels": [0, 0, ""],
    "spans": {"start": 0, "end": 0, "label": ""},
    "ents": {"start": 0, "end": 0, "label": ""},
}

Record = dict[str, Any]


@dataclass(frozen=True)
class _Raw:
    """A JSON value of the input: a record, or spaCy's pair of a text and an object, which is ``paired``."""

    number: int
    record: Record
    paired: bool = False

    def write(self, found: Record) -> str:
        """Return the value with what was found in it; what it holds already, such as gold tags, is kept."""
        record = {**self.record, **found}
        if not self.paired:
            return as_json(record)
        return as_json([record["text"], {key: value for key, value in record.items() if key != "text"}])


@dataclass(frozen=True)
class _Form:
    """How the spans of a file are written: the ``key`` of their list, one of them, and Label Studio's names."""

    key: str | None = None
    sample: Any = None
    control: Record | None = None


def record_items(lines: Iterable[Line], where: str, data: DataConfig) -> Iterator[Item]:
    """Yield the records of JSON lines, which are read one by one, or of one array, which is read at once.

    Raises:
        UserError: names the record that cannot be read.
    """
    lines = iter(lines)
    start: list[Line] = []
    while (line := next(lines, None)) is not None:
        start.append(line)
        if line[1].strip():
            break
    lines = itertools.chain(start, lines)
    if start and start[-1][1].lstrip().startswith("["):
        yield from _of_array(lines, where, data)
        return
    raws = (_read(where, *line) for line in lines)
    first = list(itertools.islice(raws, _LOOKED_AT))
    form = _find_form([raw.record for raw in first if raw is not None])
    for raw in itertools.chain(first, raws):
        yield Item([], lambda _: [""]) if raw is None else _item(raw, where, data, form)


def _read(where: str, number: int, line: str) -> _Raw | None:
    if not line.strip():
        return None
    return _Raw(number, as_record(where, number, parse(where, number, line, _FIX), _FIX))


def _of_array(lines: Iterable[Line], where: str, data: DataConfig) -> Iterator[Item]:
    values = parse(where, 1, "\n".join(text for _, text in lines), _FIX)
    raws = [
        _Raw(number, as_record(where, number, value, _FIX), isinstance(value, list))
        for number, value in enumerate(values, 1)
    ]
    form = _find_form([raw.record for raw in raws])
    yield Item([], lambda _: ["["])
    for raw in raws:
        item = _item(raw, where, data, form)
        yield item if raw is raws[-1] else replace(item, render=partial(_with_comma, item))
    yield Item([], lambda _: ["]"])


def _with_comma(item: Item, entities: list[Entity]) -> Iterator[str]:
    yield from (f"{line}," for line in item.render(entities))


def _item(raw: _Raw, where: str, data: DataConfig, form: _Form) -> Item:
    record = raw.record
    has_text = isinstance(record.get("text"), str)
    keys = (data.tokens_key, *TOKENS_KEYS[: 1 if has_text else None])
    words = next((record[key] for key in keys if _is_words(record.get(key))), None)
    if words is not None:
        return Item(words, lambda entities: [raw.write(_of_words(record, words, entities, data))])
    if is_task(record) or (isinstance(record.get("data"), dict) and not has_text):
        text = find_task_text(record)
        add = _add_to_task
    else:
        text, add = (None if "tokens" in record and find_words(record) is None else find_text(record)), _add_spans
    if text is None:
        rule = 'a record must have "text", a string, or "tokens", a list of strings'
        raise fault(where, raw.number, rule, as_json(record), _FIX)
    places = find_words(record) if add is _add_spans else None
    return text_item(text, data.sentence_end, lambda entities: [raw.write(add(record, entities, form))], places)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _of_words(record: Record, words: list[str], entities: Sequence[Entity], data: DataConfig) -> Record:
    """Return tags and entities of a record of words; the entities' places count characters of its text.

    That is the text that the record's ``offsets`` are of, else the words joined by single spaces.
    """
    text, places = record.get("text"), record.get("offsets")
    if not (isinstance(text, str) and isinstance(places, list) and len(places) == len(words)):
        ends = list(itertools.accumulate((len(word) + 1 for word in words), initial=0))
        text, places = " ".join(words), [(start, end - 1) for start, end in itertools.pairwise(ends)]
    gold = next((key for key in (data.tags_key, *TAGS_KEYS) if _is_tags(record.get(key))), None)
    tags = f"predicted_{gold}" if gold is not None else TAGS_KEYS[0]
    plain = [as_object(in_text(entity, text, places)) for entity in entities]
    key = "predicted_entities" if "entities" in record else "entities"
    return {tags: iob2_tags(len(words), entities), key: plain}


def _is_tags(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(tag, list | dict) for tag in value)


def _add_spans(record: Record, entities: Sequence[Entity], form: _Form) -> Record:
    """Return the entities in the form of the file's own spans, or as our own objects where it has none."""
    key = form.key or find_spans_key(record)
    if key is None:
        name = "predicted_entities" if "entities" in record else "entities"
        return {name: list(map(as_object, entities))}
    return {f"predicted_{key}": [_as_span(entity, form.sample) for entity in entities]}


def _add_to_task(record: Record, entities: Sequence[Entity], form: _Form) -> Record:
    """Return the predictions of a task of Label Studio, in the form that it imports."""
    control = form.control or {"from_name": "label", "to_name": "text", "type": "labels"}
    sample = form.sample if isinstance(form.sample, dict) else {"start": 0, "end": 0, "text": "", "labels": []}
    result = [{**control, "value": _as_span(entity, sample)} for entity in entities]
    before = record.get("predictions")
    return {"predictions": [*(before if isinstance(before, list) else []), {"result": result}]}


def _as_span(entity: Entity, sample: Any) -> Any:
    """Return an entity under the names that ``sample`` has for its parts."""
    if isinstance(sample, list):
        return [entity.start, entity.end, entity.type]
    if not isinstance(sample, dict):
        return as_object(entity)
    places: Record = {_first(STARTS, sample): entity.start, _first(ENDS, sample): entity.end}
    if isinstance(sample.get("globalOffsets"), dict):
        places = {"globalOffsets": {"start": entity.start, "end": entity.end}}
    kind = {"labels": [entity.type]} if "labels" in sample else {_first(KINDS, sample): entity.type}
    texts = {key: entity.text for key in ("text", "word") if key in sample}
    return {**places, **kind, **texts, "score": entity.score}


def _first(names: Sequence[str], sample: Record) -> str:
    return next((name for name in names if name in sample), names[0])


def _find_form(records: Sequence[Record]) -> _Form:
    """Return the form of the spans of these records."""
    results = [
        one
        for record in records
        if isinstance(record.get("data"), dict)
        for annotation in find_annotations(record) or ()
        for one in annotation.get("result") or ()
        if isinstance(one, dict) and isinstance(one.get("value"), dict) and "labels" in one["value"]
    ]
    if results:
        names = ("from_name", "to_name", "type")
        return _Form(None, results[0]["value"], {name: results[0][name] for name in names if name in results[0]})
    key = next((key for record in records if (key := find_spans_key(record)) is not None), None)
    if key is None:
        return _Form()
    spans = (record[key] for record in records if isinstance(record.get(key), list))
    sample = next((span for found in spans for span in found if isinstance(span, list | dict)), _FORMS.get(key))
    return _Form(key, sample)
