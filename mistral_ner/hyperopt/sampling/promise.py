"""How promising trials look at a report, before any of them has ended.

Entity F1 is blind in the first reports: it is 0, or near it, for good settings and poor ones alike. The loss on dev is
not. Measured on two cores, the rank correlation of a trial's first report with its best F1 is between -0.3 and 0.1 for
F1, and 0.65 to 0.76 for the loss (bench/README.md). Rungs, pruners and samplers therefore look at the loss where it
sees more. Nothing else does: a trial's own value is its metric.

``hyperopt.judge`` chooses. ``metric`` and ``eval_loss`` mean just that. ``auto`` is:

- the loss, as long as fewer trials have left an F1 of 0 behind than the rung lets pass,
- then the mean of a trial's ranks by metric and by loss, until half of its reports are made,
- then the metric. It tells trials apart by itself, and on few sentences the loss of a good trial rises again while its
  F1 still grows.

``auto`` is the metric throughout if some compared trial has reported no loss (objectives need not, and studies of
earlier versions did not keep it), or if the metric is not one that falling loss improves: a kind of precision, recall
or F1, of which more is better.

The loss is the lowest that a trial has reported so far. One that rises again means that the trial has learned all that
it can, not that it has become worse. It is the mean cross-entropy of the labelled tokens of dev, whatever a trial
trains with, so that trials can be compared by it. A loss that is not finite is worse than any other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.training.checkpoint import find_best

LOSS = "eval_loss"  # a metric of every training
SECOND = "second_metric"  # user attribute of a trial: the second metric by report
_CLEAR = 0.1  # F1 that no untrained head reaches: what it guesses is right in a few hundredths
_ATTRIBUTE = "eval_loss_{}"  # user attribute of a trial: the loss at a report


class Seen(NamedTuple):
    """What a trial has shown up to a report."""

    metric: float  # at the report
    loss: float | None = None  # the lowest so far, infinite if none was finite; None: not reported


@dataclass(frozen=True)
class Scores:
    """Trials compared at one report: a number for each, of which more is better."""

    of: dict[int, float]
    by: str  # what they are made of: the metric, the loss, or ranks
    sign: int  # 1 where more of it is better, -1 where less is; scores are values times this

    def tell(self, trial: int, needed: float | None) -> str:
        """Return in words how a trial compares with the score that its rung needs, None if the rung is too empty."""
        text = f"promise {self.sign * self.of[trial]:.4g} ({self.by})"
        if needed is None:
            return f"{text}, too few trials are at its rung"
        return f"{text}, its rung needs {self.sign * needed:.4g}"


@dataclass(frozen=True)
class Judge:
    """Compares trials at a report, as ``hyperopt.judge`` says."""

    plan: Plan

    def scores(self, report: int, seen: Mapping[int, Seen]) -> Scores:
        """Return the scores of trials by what they have shown up to ``report``."""
        sign, metric = self.plan.sign, self.plan.config.hyperopt.metric
        by_metric = _finite({trial: sign * one.metric for trial, one in seen.items()})
        if not self._loss_counts(report, seen.values()):
            return Scores(by_metric, metric, sign)
        by_loss = _finite({trial: -float(one.loss or 0.0) for trial, one in seen.items()})
        if self.by_loss(report, seen.values()):
            return Scores(by_loss, LOSS, -1)
        ranks = zip(_ranks(by_metric).items(), _ranks(by_loss).values(), strict=True)
        return Scores({trial: (one + other) / 2 for (trial, one), other in ranks}, f"ranks by {metric} and {LOSS}", 1)

    def by_loss(self, report: int, seen: Collection[Seen]) -> bool:
        """Whether the loss alone compares these trials."""
        return self._loss_counts(report, seen) and (self._by_loss_to_the_end or self._is_blind(seen))

    @property
    def _by_loss_to_the_end(self) -> bool:
        return self.plan.config.hyperopt.judge == LOSS

    def _loss_counts(self, report: int, seen: Collection[Seen]) -> bool:
        early = self._by_loss_to_the_end or 2 * report < self.plan.reports_per_trial
        return self.plan.loss_may_judge and early and all(one.loss is not None for one in seen)

    def _is_blind(self, seen: Collection[Seen]) -> bool:
        """Whether the metric cannot say yet which trials a rung should let pass."""
        clear = sum(one.metric > _CLEAR for one in seen)
        return clear * self.plan.config.hyperopt.asha_reduction_factor < len(seen)


def _ranks(scores: dict[int, float]) -> dict[int, float]:
    """Return for each trial the share of the others that it beats; those that it equals count half."""
    ordered = np.sort(list(scores.values()))
    below = [(np.searchsorted(ordered, s) + np.searchsorted(ordered, s, "right") - 1) / 2 for s in scores.values()]
    return dict(zip(scores, (np.array(below) / max(1, len(scores) - 1)).tolist(), strict=True))


def _finite(scores: dict[int, float]) -> dict[int, float]:
    """Put scores that are not finite under all others."""
    worst = min((score for score in scores.values() if math.isfinite(score)), default=0.0) - 1.0
    return {trial: score if math.isfinite(score) else worst for trial, score in scores.items()}


def losses_to_keep(plan: Plan, report: int, metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the user attributes that keep a report's loss: none if nothing will judge by it, or it has none.

    Raises:
        KeyError: ``hyperopt.judge`` wants a loss that the report lacks.
    """
    hyperopt = plan.config.hyperopt
    if not plan.loss_may_judge or not (plan.asha or hyperopt.optuna_pruner != "none"):
        return {}
    if LOSS not in metrics:
        if hyperopt.judge == LOSS:
            found = ", ".join(sorted(metrics))
            raise KeyError(f"hyperopt.judge={LOSS} needs {LOSS} in every report; there are: {found}; fix: judge=auto")
        return {}
    loss = float(metrics[LOSS])
    return {_ATTRIBUTE.format(report): loss if math.isfinite(loss) else None}


def look_at(trial: FrozenTrial, report: int) -> Seen:
    """Return what a trial that made ``report`` has shown up to it."""
    metric = trial.intermediate_values[report]
    if _ATTRIBUTE.format(report) not in trial.user_attrs:
        return Seen(metric)
    made = [trial.user_attrs.get(_ATTRIBUTE.format(number)) for number in trial.intermediate_values if number <= report]
    return Seen(metric, min((loss for loss in made if loss is not None), default=math.inf))


def estimate(judge: Judge, trials: Iterable[FrozenTrial]) -> dict[int, float]:
    """Return the value that each trial would have had at its end, for those that were stopped early or that wait.

    Where the metric judges a report, that is the trial's best so far. Elsewhere it is read off the line through the
    trials that made the same report, sorted by their scores: those that ran to their end stand there with their value,
    and the worst with the poorest metric of all.
    """
    trials = [trial for trial in trials if trial.intermediate_values]
    estimates: dict[int, float] = {}
    for report in {max(trial.intermediate_values) for trial in trials if trial.state != TrialState.COMPLETE}:
        made = {trial.number: trial for trial in trials if report in trial.intermediate_values}
        open_ended = [number for number, trial in made.items() if max(trial.intermediate_values) == report]
        open_ended = [number for number in open_ended if made[number].state != TrialState.COMPLETE]
        estimates |= _estimate_at(judge, report, made, open_ended)
    return estimates


def _estimate_at(judge: Judge, report: int, made: Mapping[int, FrozenTrial], wanted: list[int]) -> dict[int, float]:
    sign = judge.plan.sign
    so_far = {number: best_value(trial, sign) for number, trial in made.items()}
    seen = {number: look_at(trial, report) for number, trial in made.items()}
    scored = judge.scores(report, seen)
    if scored.by == judge.plan.config.hyperopt.metric:
        return {number: so_far[number] for number in wanted}
    scores = scored.of
    known = {n: sign * so_far[n] for n, trial in made.items() if trial.state == TrialState.COMPLETE}
    worst, best = min(scores, key=lambda n: scores[n]), max(scores, key=lambda n: scores[n])
    line = {scores[n]: value for n, value in known.items()}
    line.setdefault(scores[best], max(sign * value for value in so_far.values()))
    line.setdefault(scores[worst], min(sign * value for value in so_far.values()))
    places = sorted(line)
    heights = np.maximum.accumulate([line[place] for place in places])
    return {n: sign * float(np.interp(scores[n], places, heights)) for n in wanted}


def best_value(trial: FrozenTrial, sign: int) -> float:
    """Return the best report of a trial that has made one."""
    best = find_best(trial.intermediate_values, sign)
    assert best is not None, "a trial that has reported has a best report"
    return best[1]


class PromisedStudy:
    """A study as a pruner sees it: where the loss judges a report, it stands in the place of the metric.

    Pruners read the trials, the best of them, and their intermediate values, and compare by the study's direction.
    """

    def __init__(self, study: Any, judge: Judge, report: int) -> None:
        self._study, self._sign = study, judge.plan.sign
        self._trials: list[FrozenTrial] = study.get_trials(deepcopy=False)
        seen = [look_at(trial, report) for trial in self._trials if report in trial.intermediate_values]
        self._by_loss = judge.by_loss(report, seen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @property
    def direction(self) -> StudyDirection:
        """The direction of the metric, which decides in a search for two."""
        first: StudyDirection = self._study.directions[0]
        return first

    @property
    def best_trial(self) -> FrozenTrial:
        """The complete trial with the best metric.

        Raises:
            ValueError: no trial is complete.
        """
        complete = [trial for trial in self._trials if trial.state == TrialState.COMPLETE]
        return self.show(max(complete, key=lambda trial: self._sign * trial.values[0]))

    def get_trials(self, deepcopy: bool = True, states: Iterable[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the trials in the given states."""
        wanted = None if states is None else tuple(states)
        return [self.show(trial) for trial in self._trials if wanted is None or trial.state in wanted]

    def show(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial with the values that judge it."""
        if not self._by_loss:
            return trial
        shown = copy.copy(trial)
        losses = {report: look_at(trial, report).loss for report in trial.intermediate_values}
        shown.intermediate_values = {k: math.nan if v is None else -self._sign * v for k, v in losses.items()}
        return shown
