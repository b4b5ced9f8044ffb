"""The content of report.html as plain data, read from a study and its trials' folders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.results.final import read_final
from mistral_ner.hyperopt.results.summary import tell_reason
from mistral_ner.hyperopt.spec.plan import trial_name
from mistral_ner.hyperopt.study.event_log import END_NAMES
from mistral_ner.hyperopt.study.study import Study
from mistral_ner.training.checkpoint import best_report, find_best, reports_on_disk

STATES = {**END_NAMES, TrialState.RUNNING: "unfinished"}


@dataclass(frozen=True)
class TrialRow:
    """One trial; ``values`` holds the metric by report, counted from 1, without values that are not finite."""

    number: int
    state: str
    params: dict[str, Any]
    values: dict[int, float]
    best: float | None
    start: float | None  # seconds since the epoch
    end: float | None
    reason: str = ""  # why it failed, or how it compared with others where it was stopped early

    @property
    def seconds(self) -> float | None:
        """Wall time in seconds from its start to its end, or to its last report."""
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
    kinds: dict[str, str]  # the axis of each parameter: "log", "linear" or "category"
    frozen: list[FrozenTrial]
    per_type: dict[str, dict[str, float]] = field(default_factory=dict)  # scores of the best trial
    final: dict[str, Any] | None = None  # the fields of final.Final

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return str(self.summary["metric"])

    @property
    def best(self) -> TrialRow | None:
        """The best trial of the summary."""
        number = self.summary["best_trial"]
        return next((trial for trial in self.trials if trial.number == number), None)

    def best_so_far(self) -> list[tuple[int, float]]:
        """Return the best value after each report of any trial, with the number of reports until then.

        The study keeps the times of trials but not of reports, so a trial's reports are spread evenly over its time.
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


def read_rows(study: Study, summary: Mapping[str, Any]) -> StudyRows:
    """Read a study in any state; ``summary`` holds the fields of a Summary."""
    plan = study.plan
    trials = [_read_row(study, trial) for trial in study.trials]
    best = summary["best_trial"]
    return StudyRows(
        name=plan.config.hyperopt.study_name,
        folder=plan.folder,
        summary=dict(summary),
        sign=plan.sign,
        reports_per_trial=plan.reports_per_trial,
        rungs=plan.rungs if plan.asha else [],
        trials=trials,
        kinds={parameter.name: _choose_axis(parameter.kind) for parameter in plan.space},
        frozen=study.trials,
        per_type={} if best is None else _read_per_type(study, best),
        final=read_final(plan.folder),
    )


def _read_row(study: Study, trial: FrozenTrial) -> TrialRow:
    values = {report: value for report, value in trial.intermediate_values.items() if math.isfinite(value)}
    best, folder = find_best(values, study.plan.sign), study.plan.folder / trial_name(trial.number)
    start = trial.datetime_start.timestamp() if trial.datetime_start else None
    end = trial.datetime_complete.timestamp() if trial.datetime_complete else _find_last_report(folder, start)
    return TrialRow(
        number=trial.number,
        state=STATES[trial.state],
        params=study.plan.space.decode(trial.params),
        values=values,
        best=None if best is None else best[1],
        start=start,
        end=end,
        reason=tell_reason(trial),
    )


def _find_last_report(folder: Path, start: float | None) -> float | None:
    """Return when a trial that has not ended wrote its last report, in seconds since the epoch."""
    try:
        return max((folder / "result.json").stat().st_mtime, start or 0.0)
    except OSError:
        return start


def _choose_axis(kind: str) -> str:
    if kind == "choice":
        return "category"
    return "log" if kind.startswith("log") else "linear"


def _read_per_type(study: Study, number: int) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and support by entity type, at the trial's best report."""
    reports = reports_on_disk(study.plan.folder / trial_name(number))
    row = best_report(reports, study.plan.config.hyperopt.metric, study.plan.sign)
    if row is None:
        return {}
    start = "eval_f1_"
    types = [key.removeprefix(start) for key in row if key.startswith(start)]
    names = ("precision", "recall", "f1", "support")
    return {t: {name: float(row.get(f"eval_{name}_{t}", math.nan)) for name in names} for t in types}
