"""What a report shows, read from a study and its trials' folders: plain data, nothing about how it looks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.final import read_final
from mistral_ner.hyperopt.plan import trial_name
from mistral_ner.hyperopt.study import REASON, Study
from mistral_ner.hyperopt.watch import ENDS
from mistral_ner.progress import best_report, reports_on_disk

STATES = {**ENDS, TrialState.RUNNING: "unfinished"}


@dataclass(frozen=True)
class TrialRow:
    """One trial; ``values`` holds the metric by report, counted from 1, finite ones only."""

    number: int
    state: str
    params: dict[str, Any]
    values: dict[int, float]
    best: float | None
    start: float | None  # seconds since the epoch
    end: float | None
    reason: str = ""

    @property
    def seconds(self) -> float | None:
        """Wall time from its start to its end or last sign of life."""
        return None if self.start is None or self.end is None else self.end - self.start


@dataclass(frozen=True)
class StudyRows:
    """A study as data."""

    name: str
    folder: Path
    summary: dict[str, Any]
    sign: int
    reports_per_trial: int
    rungs: list[int]
    trials: list[TrialRow]
    kinds: dict[str, str]  # of each parameter: what its axis is, "log", "linear" or "category"
    frozen: list[FrozenTrial]
    per_type: dict[str, dict[str, float]] = field(default_factory=dict)  # of the best trial: type to precision, ...
    final: dict[str, Any] | None = None  # the fields of final.Final

    @property
    def metric(self) -> str:
        """Name of what is searched for."""
        return str(self.summary["metric"])

    @property
    def best(self) -> TrialRow | None:
        """The best trial that counts."""
        number = self.summary["best_trial"]
        return next((trial for trial in self.trials if trial.number == number), None)

    def best_so_far(self) -> list[tuple[int, float]]:
        """Reports spent and best value then, over all trials, in the order in which the reports were made.

        The study keeps the times of trials, not of reports, so a trial's reports are spread evenly over its time.
        """
        stamped = []
        for trial in self.trials:
            start, seconds = trial.start or 0.0, trial.seconds or 0.0
            for place, report in enumerate(sorted(trial.values), 1):
                stamped.append(
                    (start + seconds * place / len(trial.values), trial.number, report, trial.values[report])
                )
        points: list[tuple[int, float]] = []
        for spent, (_, _, _, value) in enumerate(sorted(stamped), 1):
            points.append((spent, value if not points else self.better(points[-1][1], value)))
        return points

    def better(self, one: float, other: float) -> float:
        """Return the better of two values of the metric."""
        return max(one, other, key=lambda value: self.sign * value)


def gather(study: Study, summary: Mapping[str, Any]) -> StudyRows:
    """Read a study in any state; ``summary`` holds the fields of ``results.Summary``."""
    plan = study.plan
    trials = [_row(study, trial) for trial in study.trials]
    best = summary["best_trial"]
    return StudyRows(
        name=plan.config.hyperopt.study_name,
        folder=plan.folder,
        summary=dict(summary),
        sign=plan.sign,
        reports_per_trial=plan.reports_per_trial,
        rungs=plan.rungs if plan.asha else [],
        trials=trials,
        kinds={parameter.name: _axis(parameter.kind) for parameter in plan.space},
        frozen=study.trials,
        per_type={} if best is None else _per_type(study, best),
        final=read_final(plan.folder),
    )


def _row(study: Study, trial: FrozenTrial) -> TrialRow:
    values = {report: value for report, value in trial.intermediate_values.items() if math.isfinite(value)}
    sign, folder = study.plan.sign, study.plan.folder / trial_name(trial.number)
    start = trial.datetime_start.timestamp() if trial.datetime_start else None
    end = trial.datetime_complete.timestamp() if trial.datetime_complete else _last_sign(folder, start)
    return TrialRow(
        number=trial.number,
        state=STATES[trial.state],
        params=study.plan.space.decode(trial.params),
        values=values,
        best=max(values.values(), key=lambda value: sign * value, default=None),
        start=start,
        end=end,
        reason=str(trial.user_attrs.get(REASON, "")),
    )


def _last_sign(folder: Path, start: float | None) -> float | None:
    """When a trial that has not ended last wrote a report."""
    try:
        return max((folder / "result.json").stat().st_mtime, start or 0.0)
    except OSError:
        return start


def _axis(kind: str) -> str:
    if kind == "choice":
        return "category"
    return "log" if kind.startswith("log") else "linear"


def _per_type(study: Study, number: int) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support by entity type, at the trial's best report."""
    reports = reports_on_disk(study.plan.folder / trial_name(number))
    row = best_report(reports, study.plan.config.hyperopt.metric, study.plan.sign)
    if row is None:
        return {}
    start = "eval_f1_"
    types = [key.removeprefix(start) for key in row if key.startswith(start)]
    names = ("precision", "recall", "f1", "support")
    return {t: {name: float(row.get(f"eval_{name}_{t}", math.nan)) for name in names} for t in types}
