"""The final model's mistakes: paired, named, counted, and shown on a page that no text of the data can break."""

from __future__ import annotations

import json
import logging
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mistral_ner.hyperopt.results.report import errors_page
from mistral_ner.hyperopt.results.report.errors_page import build_errors_page
from mistral_ner.hyperopt.results.report.mistakes import (
    BORDER,
    BOTH,
    MISSED,
    NONE,
    RIGHT,
    SPURIOUS,
    TYPE,
    Findings,
    cut_out,
    describe_findings,
    pair_entities,
    read_findings,
)
from mistral_ner.metrics import entity_scores

EVIL = "</script><img src=x onerror=alert(1)>&\"'<b>"


@pytest.mark.parametrize(
    ("gold", "found", "kinds"),
    [
        ([(0, 2, "PER")], [(0, 2, "PER")], [RIGHT]),
        ([(0, 2, "PER")], [], [MISSED]),
        ([], [(0, 2, "PER")], [SPURIOUS]),
        ([(0, 2, "PER")], [(0, 2, "LOC")], [TYPE]),
        ([(0, 2, "PER")], [(1, 2, "PER")], [BORDER]),
        ([(0, 2, "PER")], [(1, 3, "LOC")], [BOTH]),
        ([(0, 2, "PER")], [(2, 4, "PER")], [MISSED, SPURIOUS]),  # they touch and do not overlap
        ([(0, 4, "PER")], [(0, 1, "PER"), (2, 4, "PER")], [BORDER, SPURIOUS]),  # the longer one stands for it
        ([(0, 4, "PER")], [(0, 3, "LOC"), (3, 4, "PER")], [BORDER, SPURIOUS]),  # the type counts before the length
        ([(0, 1, "PER"), (1, 4, "LOC")], [(0, 4, "LOC")], [MISSED, BORDER]),
        ([(0, 2, "PER"), (2, 4, "LOC")], [(1, 3, "ORG")], [BOTH, MISSED]),
    ],
)
def test_an_entity_has_at_most_one_partner_and_a_name_for_what_differs(
    gold: list[Any], found: list[Any], kinds: list[str]
) -> None:
    pairs = pair_entities(gold, found)
    assert sorted(pair.kind for pair in pairs) == sorted(kinds)
    assert sorted(pair.gold for pair in pairs if pair.gold) == gold
    assert sorted(pair.found for pair in pairs if pair.found) == found


def draw_tags(rng: random.Random, size: int) -> list[str]:
    return [rng.choice(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]) for _ in range(size)]


def test_the_counts_are_those_of_the_scores() -> None:
    rng = random.Random(3)
    labels = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    findings, flat = Findings("dev"), ([], [], [])  # type: tuple[Findings, tuple[list[int], list[int], list[int]]]
    for _ in range(200):
        size = rng.randint(1, 12)
        gold, found = draw_tags(rng, size), draw_tags(rng, size)
        findings.add(["w"] * size, gold, found)
        flat[0].extend(map(labels.index, gold))
        flat[1].extend(map(labels.index, found))
        flat[2].append(size)
    scores = entity_scores(*flat, labels)
    assert f"F1 {scores['f1']:.4f}" in describe_findings(findings)
    assert f"precision {scores['precision']:.4f}, recall {scores['recall']:.4f}" in describe_findings(findings)
    for kind in ("LOC", "PER"):
        assert findings.count(gold=kind) == scores[f"support_{kind}"]
        assert findings.count(RIGHT, kind, kind) == pytest.approx(scores[f"recall_{kind}"] * scores[f"support_{kind}"])
    assert findings.count(gold=NONE) == findings.count(SPURIOUS)


def test_nothing_found_is_no_division() -> None:
    findings = Findings("dev")
    findings.add(["a"], ["O"], ["O"])
    assert "found 0 of 0 entities" in describe_findings(findings)
    assert "No sentence has an error." in build_errors_page("s", findings)


def write_predictions(folder: Path, rows: list[dict[str, Any]], split: str = "test") -> Path:
    (folder / "final").mkdir(exist_ok=True)
    path = folder / "final" / f"predictions_{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(gold: str, found: str, line: int = 0) -> dict[str, Any]:
    tags = gold.split()
    place = {"line": line} if line else {}
    return {
        **place,
        "tokens": [f"w{i}" for i in range(len(tags))],
        "ner_tags": tags,
        "predicted_ner_tags": found.split(),
    }


def test_test_is_shown_and_dev_where_there_is_no_test(tmp_path: Path) -> None:
    assert read_findings(tmp_path) is None
    write_predictions(tmp_path, [row("B-PER O", "O B-PER")], "dev")
    found = read_findings(tmp_path)
    assert found is not None
    assert (found.split, found.count(MISSED), found.count(SPURIOUS)) == ("dev", 1, 1)
    write_predictions(tmp_path, [row("O", "O"), row("B-PER I-PER", "B-PER O", line=7)])
    found = read_findings(tmp_path)
    assert found is not None
    assert (found.split, found.sentences, found.count(BORDER)) == ("test", 2, 1)
    assert [(one.number, one.line) for one in found.wrong] == [(2, 7)]
    assert "sentence 2, line 7" in build_errors_page("s", found)


@pytest.mark.parametrize("damage", ['{"tokens": ["a"]', '{"tokens": ["a"]}', "[1]"])
def test_damaged_predictions_are_named_and_break_nothing(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_predictions(tmp_path, [])
    path.write_text(damage, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert read_findings(tmp_path) is None
    assert f"{path} is damaged" in caplog.text


class Elements(HTMLParser):
    """Collects the elements of a page, and its text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_no_text_of_the_data_becomes_markup() -> None:
    findings = Findings("test")
    findings.add([EVIL, "saw", EVIL], [f"B-{EVIL}", "O", "O"], ["O", "O", f"B-x{EVIL}"])
    page = build_errors_page(EVIL, findings)
    plain = Findings("test")
    plain.add(["a", "saw", "b"], ["B-a", "O", "O"], ["O", "O", "B-b"])
    assert Elements(page).names == Elements(build_errors_page("s", plain)).names
    assert Elements(page).text.count(EVIL) >= 8
    assert not any(name.startswith("on") for name, _ in Elements(page).attributes)
    assert not re.search(r'(src|href)="(?!data:|report\.html|#)', page), "the page loads something"


def test_of_many_wrong_sentences_the_first_of_each_cell_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = Findings("test")
    for _ in range(50):
        findings.add(["a", "b"], ["B-PER", "O"], ["O", "O"])
    findings.add(["a", "b"], ["B-RARE", "O"], ["B-PER", "O"])
    assert [one.number for one in findings.choose(3)] == [1, 2, 51]
    monkeypatch.setattr(errors_page, "MOST", 3)
    page = build_errors_page("s", findings)
    assert page.count("<article") == 3
    assert "51 of 51 sentences have an error; 3 of them are here" in page
    assert "All are in final/predictions_test.jsonl." in page


def test_of_a_long_sentence_the_words_around_a_mistake_are_shown() -> None:
    findings = Findings("test")
    size = 400
    tags = ["O"] * size
    found = ["B-PER" if place in (100, 110, 399) else "O" for place in range(size)]
    findings.add([f"w{place}" for place in range(size)], tags, found)
    assert cut_out(findings.wrong[0], 25) == [(75, 136), (374, 400)]
    page = build_errors_page("s", findings)
    assert "… w75 " in page
    assert " w135 … w374 " in page
    assert "w74 " not in page
    assert '<mark class="spurious">w399 <b>PER</b></mark></p>' in page


def test_the_table_counts_gold_by_predicted_type() -> None:
    findings = Findings("test")
    findings.add(["a", "b", "c", "d"], ["B-A", "I-A", "B-B", "O"], ["B-A", "O", "B-A", "B-B"])
    findings.add(["a"], ["B-A"], ["B-A"])
    page = build_errors_page("s", findings)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    texts = [re.sub(r"<[^>]+>", "", cell).strip() for cell in cells]
    assert texts == ["1 +1", "", "", "1", "0", "", "", "1", ""]  # rows A, B, nothing; columns A, B, nothing
    assert 'data-gold="1" data-found="0" title="gold B, predicted A"' in page
    assert 'data-errors="3.0.0 2.1.0 1.none.1"' in page
