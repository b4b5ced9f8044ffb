"""Trials in another form than the study holds them: as samplers should see them, and those of earlier studies."""

from __future__ import annotations

import copy
import heapq
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.sampling.promise import SECOND, Judge, best_value, estimate
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.training.checkpoint import find_best

log = logging.getLogger(__name__)

# The trials of a long study that samplers see. The time of a proposal grows with them, and older trials that are not
# among the best weigh little.
_LATEST, _BEST = 500, 25  # TPE counts at most 25 trials as good
APART = 10**6  # added to the numbers of earlier studies' trials, so that they differ from those of this one


@dataclass
class KnownTrials:
    """Trials that samplers see in another form than the study holds them, or that it does not hold."""

    warm: Sequence[FrozenTrial] = ()  # trials of earlier studies, by rank
    at_work: Collection[int] | None = None  # numbers of running trials that do not wait at a rung; None: all of them
    _so_far: dict[int, float] = field(default_factory=dict)  # the best report of trials that have ended

    def complete(self, trials: list[FrozenTrial], judge: Judge) -> list[FrozenTrial]:
        """Return the latest trials and the best of the older ones, as a sampler should see them.

        Those that were stopped early or that wait at a rung are complete ones, with an estimate of their value.
        Optuna's TPE ranks every stopped trial below every complete one. The first trials at a rung may pass it, however
        poor they are, and TPE would take them for the best; GP would ignore the stopped trials. Trials that wait are
        running ones in the study, and TPE takes those for poor.
        """
        values = {trial.number: self._best_so_far(trial, judge.plan.sign) for trial in trials if self._counts(trial)}
        older = [trial for trial in trials[:-_LATEST] if trial.number in values]
        # with two metrics any of the older ones may be one that no other beats in both
        most = _BEST if judge.plan.config.hyperopt.second_metric is None else len(older)
        best = {t.number for t in heapq.nlargest(most, older, key=lambda t: judge.plan.sign * values[t.number])}
        kept = [trial for trial in older if trial.number in best] + trials[-_LATEST:]
        known = [trial for trial in kept if trial.number in values and trial.number < APART]
        values |= estimate(judge, known)
        seen = [t if t.number not in values else _as_complete(t, values[t.number], judge.plan.sign) for t in kept]
        return _rank_own(seen, judge.plan) if self.warm else seen

    def _counts(self, trial: FrozenTrial) -> bool:
        """Whether a trial has ended or waits at a rung, and has something to show."""
        waits = trial.state == TrialState.RUNNING and self.at_work is not None and trial.number not in self.at_work
        stopped = (trial.state == TrialState.PRUNED or waits) and bool(trial.intermediate_values)
        return stopped or trial.state == TrialState.COMPLETE

    def _best_so_far(self, trial: FrozenTrial, sign: int) -> float:
        if trial.state == TrialState.COMPLETE:
            return float(trial.values[0])
        if trial.state == TrialState.RUNNING:
            return best_value(trial, sign)
        return self._so_far.setdefault(trial.number, best_value(trial, sign))


def _as_complete(trial: FrozenTrial, value: float, sign: int) -> FrozenTrial:
    """Return a trial as a complete one with ``value``; a second metric is that of its best report so far."""
    if trial.state == TrialState.COMPLETE:
        return trial
    completed = copy.copy(trial)
    best = find_best(trial.intermediate_values, sign)
    second = [float(trial.user_attrs[SECOND][str(best[0])])] if best and SECOND in trial.user_attrs else []
    completed.state, completed.values = TrialState.COMPLETE, [value, *second]
    return completed


def _rank_own(trials: Sequence[FrozenTrial], plan: Plan) -> list[FrozenTrial]:
    """Give complete trials of this study their ranks in it as values; those of earlier studies have theirs already."""
    own = [trial for trial in trials if trial.number < APART and trial.state == TrialState.COMPLETE]
    ranked = dict(zip((trial.number for trial in own), _by_rank(own, plan), strict=True))
    return [ranked.get(trial.number, trial) for trial in trials]


def _by_rank(trials: Sequence[FrozenTrial], plan: Plan) -> list[FrozenTrial]:
    """Return complete trials of one study with the share of the others that each beats as values, signed as before.

    Values of different tasks cannot be compared: the trials of an easier one would all be good.
    """
    signs = (plan.sign, 1 if plan.config.hyperopt.second_mode == "max" else -1)
    columns = zip(*(trial.values for trial in trials), strict=True)
    ranks = [sign * _share_beaten(sign * np.array(column)) for sign, column in zip(signs, columns, strict=False)]
    found = [copy.copy(trial) for trial in trials]
    for place, trial in enumerate(found):
        trial.values = [float(column[place]) for column in ranks]
    return found


def _share_beaten(values: Any) -> Any:
    """Return for each value the share of all that it beats, those that it equals and itself counting half."""
    ordered = np.sort(values)
    below, up_to = np.searchsorted(ordered, values), np.searchsorted(ordered, values, "right")
    return (below + up_to) / (2 * len(values))


def rank_warm_trials(
    plan: Plan, name: str, earlier: Plan, trials: Sequence[FrozenTrial], place: int
) -> list[FrozenTrial]:
    """Return the ended trials of an earlier study whose settings lie in this search's space, by their ranks there.

    Args:
        plan: this search.
        name: of the earlier study, as the config gives it.
        earlier: the plan of that study.
        trials: its trials.
        place: among the earlier studies, counted from 1.

    Raises:
        UserError: it searched for another metric.
    """
    theirs, ours = earlier.config.hyperopt, plan.config.hyperopt
    if (theirs.metric, theirs.mode) != (ours.metric, ours.mode) or theirs.second_metric != ours.second_metric:
        raise UserError(
            f"hyperopt.warm_start={name} looked for {theirs.metric} ({theirs.mode}), this search for {ours.metric} "
            f"({ours.mode}); fix: hyperopt.metric={theirs.metric} hyperopt.mode={theirs.mode}, or no warm_start"
        )
    ended = [one for one in KnownTrials().complete(list(trials), Judge(earlier)) if one.state == TrialState.COMPLETE]
    found = []
    for trial in _by_rank(ended, plan):
        values = earlier.space.decode(trial.params)
        if plan.space.holds(values):
            params = {one: values[one] for one in plan.space.names if one in values}
            found.append(_as_ours(trial, plan, params, place * APART + trial.number))
    log.info("warm start: %d of %d trials of %s lie in the search space", len(found), len(trials), name)
    return found


def _as_ours(trial: FrozenTrial, plan: Plan, values: dict[str, Any], number: int) -> FrozenTrial:
    """Return a complete trial of an earlier study with ``values`` of this search's space by parameter name."""
    params, distributions = plan.space.encode(values), plan.space.distributions()
    ours = optuna.trial.create_trial(
        values=trial.values, params=params, distributions={name: distributions[name] for name in params}
    )
    ours.number = number
    return ours
