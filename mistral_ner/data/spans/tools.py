"""Records of annotation tools: doccano, spaCy, Prodigy, Label Studio, and ``entities`` as Hugging Face has them.

Sources of the forms: doccano's and Label Studio's documentation of their exports, Prodigy's of its annotation
interfaces (``ner_manual``), spaCy's ``Doc.to_json``, and the output of the token-classification pipeline of
transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mistral_ner.data.source import BadLine, faults, is_encodable
from mistral_ner.data.spans.document import Document, Documents, Span

_TEXT_KEYS = ("text", "data")  # doccano's older exports have the text in data
_SPAN_KEYS = ("spans", "entities", "ents", "labels", "label")
STARTS = ("start", "start_offset")
ENDS = ("end", "end_offset")
KINDS = ("label", "type", "entity_group", "entity")

Record = Mapping[str, Any]


class _RecordError(Exception):
    """What is wrong with a record: the rule, what was found, and the fix."""


def name_tool(records: Sequence[Record]) -> str | None:
    """Return the tool that wrote these records; None if they are no text with spans."""
    if is_task(records[0]):
        return "Label Studio"
    keys = (find_spans_key(record) for record in records if find_text(record) is not None)
    key = next((key for key in keys if key is not None), None)
    if key is None:
        return None
    sample = next((span for record in records for span in record.get(key) or () if isinstance(span, dict | list)), None)
    if key == "spans":
        return "Prodigy"
    if key in ("label", "labels"):
        return "Label Studio" if isinstance(sample, dict) and "labels" in sample else "doccano"
    if isinstance(sample, dict) and "start_offset" in sample:
        return "doccano"
    named = isinstance(sample, dict) and "label" not in sample
    return "Hugging Face" if named else "spaCy"


def read_documents(path: Path, records: Sequence[tuple[int, Record]]) -> Documents:
    """Return the documents of records of one tool.

    Of Prodigy's records only those accepted are read, of Label Studio's tasks the first annotation that was not
    cancelled; the others are counted.

    Raises:
        UserError: names every record that cannot be read.
    """
    found = Documents()
    bad = []
    for line, record in records:
        try:
            document = _read_task(line, record, found) if is_task(record) else _read_record(line, record, found)
        except _RecordError as error:
            rule, what, fix = error.args
            bad.append(BadLine(line, rule, what if isinstance(what, str) else json.dumps(what), fix))
            continue
        found.read += [document] if document is not None else []
    if bad:
        raise faults(path, bad)
    return found


def is_task(record: Record) -> bool:
    """Whether a record is a task of Label Studio with its annotations."""
    return isinstance(record.get("data"), dict) and find_annotations(record) is not None


def find_annotations(task: Record) -> list[Any] | None:
    """Return the annotations of a task of Label Studio, which called them completions once."""
    found = task.get("annotations", task.get("completions"))
    return found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else None


def find_text(record: Record) -> str | None:
    """Return the text of a record that is no task; None if it has none."""
    return next((record[key] for key in _TEXT_KEYS if isinstance(record.get(key), str)), None)


def find_spans_key(record: Record) -> str | None:
    """Return the key whose list holds spans, or nothing."""
    for key in _SPAN_KEYS:
        value = record.get(key)
        if isinstance(value, list) and all(isinstance(span, dict | list) for span in value):
            return key
    return None


def _read_record(line: int, record: Record, found: Documents) -> Document | None:
    if record.get("answer", "accept") != "accept":
        found.counts["records that were not accepted left out"] += 1
        return None
    text, key = find_text(record), find_spans_key(record)
    if text is not None and key is None and "answer" in record:  # Prodigy leaves the key out where nothing is marked
        return _document(line, text, [], find_words(record))
    if text is None:
        raise _RecordError("every record needs a text", dict(record), "add 'text' to it")
    if key is None:
        raise _RecordError("every record needs its spans", dict(record), f"add one of {', '.join(_SPAN_KEYS)}")
    return _document(line, text, [_span(span, found) for span in record[key]], find_words(record))


def _read_task(line: int, task: Record, found: Documents) -> Document | None:
    """Read a task of Label Studio; the spans of other controls than labels are not entities."""
    done = [one for one in find_annotations(task) or () if not one.get("was_cancelled")]
    if not done:
        found.counts["tasks without an annotation left out"] += 1
        return None
    found.counts["annotations beside the first of a task left out"] += len(done) - 1
    text = find_task_text(task)
    if text is None:
        raise _RecordError("a task needs a text in its data", task["data"], "export tasks of text")
    values = [one.get("value") for one in done[0].get("result") or ()]
    marked = [value for value in values if isinstance(value, dict) and isinstance(value.get("labels"), list)]
    return _document(line, text, [_span(value, found) for value in marked], None)


def find_task_text(task: Record) -> str | None:
    """Return the text of a task of Label Studio: ``text`` in its data, else the first text there."""
    texts = [value for value in task["data"].values() if isinstance(value, str)]
    text = task["data"].get("text")
    return text if isinstance(text, str) else next(iter(texts), None)


def _document(line: int, text: str, spans: list[Span], words: list[tuple[int, int]] | None) -> Document:
    if not is_encodable(text):
        shown = text.encode("utf-8", "replace").decode()
        raise _RecordError("a text must be whole characters, not half a surrogate pair", shown, "mend it")
    return Document(line, text, spans, words)


def _span(raw: Any, found: Documents) -> Span:
    """Read ``[start, end, type]``, or an object with these under one of their names."""
    start: Any = None
    end: Any = None
    kind: Any = None
    text: Any = None
    if isinstance(raw, list):
        start, end, kind = raw[:3] if len(raw) >= 3 else (None, None, None)
    else:
        offsets = raw.get("globalOffsets")  # of Label Studio's HyperText
        start, end = (_first(offsets if isinstance(offsets, dict) else raw, names) for names in (STARTS, ENDS))
        kind, text = _first(raw, KINDS), raw.get("text")
        if isinstance(raw.get("labels"), list) and raw["labels"]:
            kind = raw["labels"][0]
            found.counts["labels beside the first of a span left out"] += len(raw["labels"]) - 1
    if not (_is_count(start) and _is_count(end) and isinstance(kind, str) and kind.strip()):
        raise _RecordError("a span must have a start and an end in characters and a type", raw, 'write [0, 3, "PER"]')
    return Span(int(start), int(end), kind.strip(), text if isinstance(text, str) else None)


def _first(raw: Record, names: Sequence[str]) -> Any:
    return next((raw[name] for name in names if raw.get(name) is not None), None)


def _is_count(value: Any) -> bool:
    """Whether a value is a whole number, which tables write as 3.0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1


def find_words(record: Record) -> list[tuple[int, int]] | None:
    """Return the places of the words that Prodigy and spaCy give."""
    tokens = record.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        return None
    words = [(token.get("start"), token.get("end")) for token in tokens]
    if not all(_is_count(start) and _is_count(end) for start, end in words):
        return None
    return [(int(start), int(end)) for start, end in words if str(find_text(record))[start:end].strip()]
