"""A search on recorded learning curves: study, sampler, searcher and scheduler are those of a real one.

Only Ray and the trainings are left out. A few slots make a report each in turn.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna

from mistral_ner.hyperopt.engines.ray_tune import StudySearcher
from mistral_ner.hyperopt.engines.trial import REPORT
from mistral_ner.hyperopt.sampling.samplers import build_sampler
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.spec.space import SearchSpace
from mistral_ner.hyperopt.study.event_log import EventLog
from mistral_ner.hyperopt.study.study import Study

HERE = Path(__file__).parent
REPORTS = 9
# metrics by the columns of a table, which end in the number of the report; older tables hold F1 alone
COLUMNS = {"f1": "eval_f1", "eval_loss": "eval_loss", "train_loss": "train_loss"}

# The metrics of a setting by report, which counts from 0.
Recorded = Callable[[Mapping[str, Any]], Mapping[str, Sequence[float]]]


class Table:
    """The settings that record_curves.py has recorded."""

    def __init__(self, path: Path, space: SearchSpace | None = None) -> None:
        """Read a table; ``space`` is needed to look for the setting that is nearest to a proposal."""
        self.space = space
        rows = list(csv.DictReader(path.open()))
        self.metrics = {
            metric: np.array([[float(row[f"{name}_{k}"]) for k in range(1, REPORTS + 1)] for row in rows])
            for name, metric in COLUMNS.items()
            if f"{name}_1" in rows[0]
        }
        self.curves = self.metrics["eval_f1"]  # shape (settings, reports)
        self.best = float(self.curves.max())
        self.points = np.array(
            [self.unit({p.name: float(row[p.name]) for p in space}) for row in rows] if space else []
        )

    def at(self, setting: int) -> dict[str, Sequence[float]]:
        """Return the metrics of a setting by report."""
        return {metric: values[setting].tolist() for metric, values in self.metrics.items()}

    def near(self, values: Mapping[str, Any]) -> dict[str, Sequence[float]]:
        """Return the metrics of the setting that is nearest to a proposal."""
        return self.at(self.nearest(values))

    def nearest(self, values: Mapping[str, Any]) -> int:
        """Return the number of the setting that is nearest to a proposal, in the unit cube of the space."""
        distance = ((self.points - np.array(self.unit(values))) ** 2).sum(axis=1)
        return int(distance.argmin())

    def unit(self, values: Mapping[str, Any]) -> list[float]:
        """Return settings as numbers from 0 to 1, choices by rank."""
        assert self.space is not None
        place = []
        for p in self.space:
            value = float(values[p.name])
            if p.kind == "choice":
                place.append(list(p.choices).index(value) / (len(p.choices) - 1))
            elif p.kind.startswith("log"):
                place.append(math.log(value / p.low) / math.log(p.high / p.low))
            else:
                place.append((value - p.low) / (p.high - p.low))
        return place


def replay(
    plan: Plan, recorded: Recorded, most: int | None = None, at_end: Callable[[Study, int], None] | None = None
) -> tuple[Study, list[float]]:
    """Run one search.

    Args:
        plan: the search; its strategy decides whether ASHA compares trials.
        recorded: returns the metrics of a proposal.
        most: reports after which the search ends; None: when all its trials have ended.
        at_end: ends a trial in the place of the study.

    Returns:
        The study, and F1 of each report in the order in which they were made.
    """
    storage = optuna.storages.InMemoryStorage()
    made = optuna.create_study(storage=storage, direction="maximize", sampler=build_sampler(plan, 0))
    for values in plan.enqueued:
        made.enqueue_trial(plan.space.encode(values))
    study = Study(plan, made, storage)
    searcher = StudySearcher(study, EventLog(study))
    if at_end is not None:
        searcher._end = lambda number, *_, **__: at_end(study, number)  # type: ignore[method-assign]
    slots: list[int] = []
    curves: dict[int, Mapping[str, Sequence[float]]] = {}
    scores: list[float] = []
    while most is None or len(scores) < most:
        while len(slots) < plan.at_once and isinstance(started := searcher.suggest(f"{len(scores)} {slots}"), dict):
            number = started["number"]
            searcher.numbers = {str(n): n for n in (*slots, number)}
            slots.append(number)
            curves.setdefault(number, recorded(plan.space.decode(study.trials[number].params)))
        if not slots:
            break
        number = slots.pop(0)
        report = len(study.reports_of(number)) + 1
        metrics = {name: values[report - 1] for name, values in curves[number].items()}
        scores.append(metrics["eval_f1"])
        if _goes_on(searcher, number, report, metrics):
            slots.append(number)
        else:
            searcher.on_trial_complete(str(number))
    searcher.end_paused()
    return study, scores


def _goes_on(searcher: StudySearcher, number: int, report: int, metrics: dict[str, float]) -> bool:
    """Report; whether the trial goes on."""
    if not searcher.study.plan.asha:
        searcher.study.report(number, report, metrics)
        return report < REPORTS
    trial: Any = SimpleNamespace(config={"number": number})
    decision = searcher.scheduler.on_trial_result(None, trial, {**metrics, REPORT: report})
    return decision == searcher.scheduler.CONTINUE and report < REPORTS
