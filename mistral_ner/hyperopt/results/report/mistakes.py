"""Where the final model's entities differ from the gold ones, read from its ``predictions_*.jsonl``."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mistral_ner.data.schemes import spans
from mistral_ner.hyperopt.results.trainings import FOLDER
from mistral_ner.metrics import scores_of_counts

log = logging.getLogger(__name__)

Span = tuple[int, int, str]  # first word, word after the last, type

RIGHT, MISSED, SPURIOUS, TYPE, BORDER = "right", "missed", "spurious", "wrong type", "wrong border"
BOTH = "wrong type and border"
KINDS = (MISSED, SPURIOUS, TYPE, BORDER, BOTH)
NONE = ""  # takes the place of a type where there is no entity


@dataclass(frozen=True)
class Pair:
    """A gold entity and the predicted one that stands for it; one of them may be missing."""

    gold: Span | None
    found: Span | None

    @property
    def kind(self) -> str:
        """How the two differ: one of :data:`KINDS`, or :data:`RIGHT`."""
        if self.gold is None or self.found is None:
            return SPURIOUS if self.gold is None else MISSED
        if self.gold[:2] == self.found[:2]:
            return RIGHT if self.gold[2] == self.found[2] else TYPE
        return BORDER if self.gold[2] == self.found[2] else BOTH

    @property
    def cell(self) -> tuple[str, str, str]:
        """The kind, the gold type and the predicted type."""
        return self.kind, self.gold[2] if self.gold else NONE, self.found[2] if self.found else NONE


@dataclass(frozen=True)
class WrongSentence:
    """A sentence with at least one mistake."""

    number: int  # in its split, counted from 1
    line: int  # in its file; 0 if unknown
    tokens: list[str]
    pairs: list[Pair]

    @property
    def mistakes(self) -> list[Pair]:
        """The pairs that differ."""
        return [pair for pair in self.pairs if pair.kind != RIGHT]


@dataclass
class Findings:
    """The entities of a split, compared."""

    split: str
    sentences: int = 0
    wrong: list[WrongSentence] = field(default_factory=list)
    cells: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # pairs by :attr:`Pair.cell`

    def add(self, tokens: list[str], gold_tags: list[str], found_tags: list[str], line: int = 0) -> None:
        """Compare the IOB2 tags of the next sentence."""
        self.sentences += 1
        pairs = pair_entities(spans(gold_tags), spans(found_tags))
        self.cells.update(pair.cell for pair in pairs)
        if any(pair.kind != RIGHT for pair in pairs):
            self.wrong.append(WrongSentence(self.sentences, line, tokens, pairs))

    def count(self, kind: str | None = None, gold: str | None = None, found: str | None = None) -> int:
        """Return how many pairs there are of a kind, a gold type and a predicted type; None stands for any."""
        wanted = (kind, gold, found)
        return sum(
            count
            for cell, count in self.cells.items()
            if all(part is None or part == own for part, own in zip(wanted, cell, strict=True))
        )

    @property
    def types(self) -> list[str]:
        """The entity types, sorted by name."""
        return sorted({kind for _, *types in self.cells for kind in types} - {NONE})

    @property
    def entities(self) -> tuple[int, int, int]:
        """How many entities are gold, predicted, and right."""
        whole = self.cells.total()
        return whole - self.count(SPURIOUS), whole - self.count(MISSED), self.count(RIGHT)

    def choose(self, most: int) -> list[WrongSentence]:
        """Return up to ``most`` wrong sentences in their order; of each cell some, so that no rare one is left out."""
        seen: Counter[tuple[str, str, str]] = Counter()
        ranks = []
        for sentence in self.wrong:
            mine = {pair.cell for pair in sentence.mistakes}
            ranks.append(min(seen[cell] for cell in mine))
            seen.update(mine)
        chosen = sorted(range(len(ranks)), key=ranks.__getitem__)[:most]
        return [self.wrong[place] for place in sorted(chosen)]


def pair_entities(gold: Sequence[Span], found: Sequence[Span]) -> list[Pair]:
    """Pair each gold entity with at most one predicted entity that overlaps it, in the order of the words.

    Equal ones come first, then those with equal borders, then those of equal type, then the longest overlap. MUC-5
    pairs and names the differences much alike (Chinchor and Sundheim 1993, https://aclanthology.org/M93-1007).
    """
    candidates = [(one, other) for one in gold for other in found if one[0] < other[1] and other[0] < one[1]]
    candidates.sort(key=_rank)
    partner: dict[Span, Span] = {}
    taken: set[Span] = set()
    for one, other in candidates:
        if one not in partner and other not in taken:
            partner[one] = other
            taken.add(other)
    pairs = [Pair(one, partner.get(one)) for one in gold] + [Pair(None, one) for one in found if one not in taken]
    return sorted(pairs, key=lambda pair: pair.gold or pair.found or (0, 0, ""))


def _rank(pair: tuple[Span, Span]) -> tuple[bool, bool, int, int, int]:
    one, other = pair
    overlap = min(one[1], other[1]) - max(one[0], other[0])
    return one[:2] != other[:2], one[2] != other[2], -overlap, one[0], other[0]


def read_findings(folder: Path) -> Findings | None:
    """Compare the final model's predictions of the study in ``folder``: those on test, else those on dev, else None."""
    for split in ("test", "dev"):
        path = folder / FOLDER / f"predictions_{split}.jsonl"
        if path.is_file():
            try:
                return _read(path, split)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s is damaged (%r), so its errors are not shown", path, error)
    return None


def _read(path: Path, split: str) -> Findings:
    findings = Findings(split)
    with path.open(encoding="utf-8") as file:
        for text in file:
            row = json.loads(text)
            findings.add(row["tokens"], row["ner_tags"], row["predicted_ner_tags"], row.get("line", 0))
    return findings


def describe_findings(findings: Findings) -> str:
    """Return how many entities of the split are right, in a sentence with precision, recall and F1."""
    gold, found, right = findings.entities
    precision, recall, f1 = map(float, scores_of_counts(right, found, gold))
    return (
        f"On {findings.split} the final model found {right} of {gold} entities as they are marked, and {found - right} "
        f"that are not: precision {precision:.4f}, recall {recall:.4f}, F1 {f1:.4f}."
    )


def cut_out(sentence: WrongSentence, around: int) -> list[tuple[int, int]]:
    """Return the ranges of words that lie within ``around`` words of a mistake, in order and apart from each other."""
    places = [span for pair in sentence.mistakes for span in (pair.gold, pair.found) if span is not None]
    found: list[tuple[int, int]] = []
    for first, after, _ in sorted(places):
        start, end = max(0, first - around), min(len(sentence.tokens), after + around)
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found
