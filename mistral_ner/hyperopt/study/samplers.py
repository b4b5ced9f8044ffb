"""Optuna's samplers and pruners by the names that the config uses, seeded."""

from __future__ import annotations

import copy
import heapq
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.promise import Judge, best_value, estimate
from mistral_ner.hyperopt.study.proposals import CheckedSampler
from mistral_ner.hyperopt.study.running import SECOND
from mistral_ner.training.checkpoint import find_best

_CANDIDATES = 8  # TPE proposes the best of these; fewer explore more (Optuna: 24), see bench/README.md
# The trials of a long study that samplers see. The time of a proposal grows with them, and older trials that are not
# among the best weigh little.
_LATEST, _BEST = 500, 25  # TPE counts at most 25 trials as good
INFEASIBLE = "memory"  # the constraint that a trial breaks if its settings do not fit the device's memory


def build_sampler(plan: Plan, trial: int, known: KnownTrials | None = None) -> BaseSampler:
    """Return the sampler of ``hyperopt.optuna_sampler`` for one trial; it obeys constraints and repeats nothing.

    Its seed is derived from the config's seed and the trial's number, so that a resumed search proposes what an
    unbroken one would have.

    Args:
        plan: the search.
        trial: the number of the trial to propose.
        known: trials that are kept from one proposal to the next.
    """
    seed = int(np.random.SeedSequence([plan.config.seed, trial]).generate_state(1)[0])
    sampler = _build_own(plan, seed, known or KnownTrials())
    return CheckedSampler(plan, sampler, seed) if plan.restricts or plan.settings is not None else sampler


def _build_own(plan: Plan, seed: int, known: KnownTrials) -> BaseSampler:
    hyperopt = plan.config.hyperopt
    startup = hyperopt.optuna_n_startup_trials
    if hyperopt.optuna_sampler == "TPE":
        # constant_liar counts running trials as poor, so that two workers do not get the same point. Sampling each
        # parameter by itself found good settings sooner here than sampling them jointly.
        return _TPE(
            known,
            Judge(plan),
            seed=seed,
            n_startup_trials=startup,
            n_ei_candidates=_CANDIDATES,
            multivariate=False,
            constant_liar=True,
        )
    if hyperopt.optuna_sampler == "CMA":
        return CmaEsSampler(
            seed=seed,
            n_startup_trials=max(1, startup),
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
            source_trials=list(known.warm) or None,
        )
    if hyperopt.optuna_sampler == "GPSampler":
        return _GP(known, Judge(plan), seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    if hyperopt.optuna_sampler == "QMC":  # one sequence over all trials, so its seed must not change
        return QMCSampler(
            seed=plan.config.seed,
            scramble=True,
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )
    return RandomSampler(seed=seed)


def explain_choices(plan: Plan) -> str | None:
    """Return a warning if the sampler treats ``choice`` parameters in an unexpected way, else None."""
    choices = ", ".join(parameter.name for parameter in plan.space if parameter.kind == "choice")
    if not choices:
        return None
    return {
        "CMA": f"CMA-ES works on numbers: it draws {choices} at random, whatever the trials before say",
        "QMC": f"QMC works on numbers: it draws {choices} at random",
        "GPSampler": f"GPSampler takes the values of {choices} as unordered, each as far from the next as any other",
    }.get(plan.config.hyperopt.optuna_sampler)


@dataclass
class KnownTrials:
    """Trials that samplers see in another form than the study holds them, or that it does not hold."""

    warm: Sequence[FrozenTrial] = ()  # ended trials of an earlier study
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
        of_an_earlier_study = {trial.number for trial in self.warm}  # its losses may be of other data
        known = [t for t in kept if t.number in values and t.number not in of_an_earlier_study]
        values |= estimate(judge, known)
        return [t if t.number not in values else _as_complete(t, values[t.number], judge.plan.sign) for t in kept]

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


class _InformedSampler:
    """Shows a sampler more trials than Optuna would: those of an earlier study, and those that ran out of memory.

    Optuna's samplers ignore failed trials, but they should avoid settings that do not fit the device.
    """

    def __init__(self, known: KnownTrials, judge: Judge, **settings: Any) -> None:
        super().__init__(**settings)
        self._known, self._judge = known, judge
        self._view: _KnownStudy | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._view = None
        super().before_trial(study, trial)  # type: ignore[misc]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        return super().infer_relative_search_space(self._open_view(study), trial)  # type: ignore[misc]

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        return super().sample_relative(self._open_view(study), trial, search_space)  # type: ignore[misc]

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return super().sample_independent(self._open_view(study), trial, name, distribution)  # type: ignore[misc]

    def _open_view(self, study: Any) -> _KnownStudy:
        """Return the study as it was when the proposal began, so that all parameters see the same trials."""
        if self._view is None:
            self._view = study if isinstance(study, _KnownStudy) else _KnownStudy(study, self._known, self._judge)
        return self._view


class _TPE(_InformedSampler, TPESampler):
    pass


class _GP(_InformedSampler, GPSampler):
    pass


class _KnownStudy:
    """A study as a sampler sees it.

    Optuna's samplers read trials with ``Study._get_trials``, so a study that shows them other trials must have it.
    """

    def __init__(self, study: Any, known: KnownTrials, judge: Judge) -> None:
        self._study, self._known, self._judge = study, known, judge
        self._trials: dict[tuple[TrialState, ...] | None, list[FrozenTrial]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Iterable[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, tuple(states) if states is not None else None)

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        wanted = tuple(states) if states is not None else None
        if wanted not in self._trials:
            self._trials[wanted] = self._read(wanted)
        return copy.deepcopy(self._trials[wanted]) if deepcopy else self._trials[wanted]

    def _read(self, states: tuple[TrialState, ...] | None) -> list[FrozenTrial]:
        finished = states is None or TrialState.COMPLETE in states
        failed = self._study._get_trials(deepcopy=False, states=(TrialState.FAIL,)) if finished else []
        infeasible = [_as_pruned(trial) for trial in failed if INFEASIBLE in trial.constraints]
        # in front, because samplers rely on the study's own trials being the last
        trials = [*self._known.warm, *self._study._get_trials(deepcopy=False)]
        trials = self._known.complete(trials, self._judge)
        return infeasible + [trial for trial in trials if states is None or trial.state in states]


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    pruned = optuna.trial.create_trial(
        state=TrialState.PRUNED,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=trial.system_attrs,
    )
    pruned.number = trial.number
    return pruned


def build_pruner(plan: Plan) -> BasePruner:
    """Return the pruner of ``hyperopt.optuna_pruner``; its steps are reports."""
    hyperopt, reports = plan.config.hyperopt, plan.reports_per_trial
    startup, warmup = hyperopt.optuna_n_startup_trials, hyperopt.optuna_n_warmup_steps
    factor = max(2, round(hyperopt.asha_reduction_factor))
    builders: dict[str, Callable[[], BasePruner]] = {
        "none": lambda: NopPruner(),
        "median": lambda: MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup),
        "percentile": lambda: PercentilePruner(25.0, n_startup_trials=startup, n_warmup_steps=warmup),
        "hyperband": lambda: HyperbandPruner(
            min_resource=max(1, warmup), max_resource=reports, reduction_factor=factor
        ),
        "successive_halving": lambda: SuccessiveHalvingPruner(min_resource=max(1, warmup), reduction_factor=factor),
        "wilcoxon": lambda: WilcoxonPruner(n_startup_steps=max(2, warmup)),
    }
    return builders[hyperopt.optuna_pruner]()


def silence_optuna() -> None:
    """Hide Optuna's log lines below WARNING and its warnings about experimental features."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
