"""Optuna's samplers and pruners by the names that the config uses, seeded."""

from __future__ import annotations

import copy
import heapq
import warnings
from collections.abc import Callable, Iterable, Sequence
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
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.plan import Plan

_CANDIDATES = 8  # of which TPE takes the best: fewer explore more (Optuna has 24); bench/README.md compares
# What samplers look at in a long study: they weigh older trials less, all but the best, and their time grows with both
_LATEST, _BEST = 500, 25  # TPE takes at most 25 trials for the good ones
INFEASIBLE = "memory"  # the constraint that a trial breaks whose settings do not fit the device


def sampler(plan: Plan, trial: int, shown: Shown | None = None) -> BaseSampler:
    """Return the sampler of ``hyperopt.optuna_sampler`` for one trial.

    Its seed follows from the config's and the trial's number, so that a search that was cut off and resumed proposes
    what the unbroken one would have.

    Args:
        plan: the search.
        trial: the number of the trial to propose.
        shown: what is kept from one proposal to the next.
    """
    hyperopt, shown = plan.config.hyperopt, shown or Shown()
    seed = int(np.random.SeedSequence([plan.config.seed, trial]).generate_state(1)[0])
    startup = hyperopt.optuna_n_startup_trials
    if hyperopt.optuna_sampler == "TPE":
        # Constant liar: running trials count as poor ones, so that two workers do not get the same point.
        # Each parameter by itself: found good settings sooner here than the joint form, which is Optuna's default.
        return _TPE(
            shown,
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
            source_trials=list(shown.warm) or None,
        )
    if hyperopt.optuna_sampler == "GPSampler":
        return _GP(shown, seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    if hyperopt.optuna_sampler == "QMC":  # one sequence over all trials: its seed is the study's
        return QMCSampler(
            seed=plan.config.seed,
            scramble=True,
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )
    return RandomSampler(seed=seed)


def remark(plan: Plan) -> str | None:
    """Return what the sampler does with ``choice`` parameters, where that is not what one would expect."""
    choices = ", ".join(parameter.name for parameter in plan.space if parameter.kind == "choice")
    if not choices:
        return None
    return {
        "CMA": f"CMA-ES works on numbers: it draws {choices} at random, whatever the trials before say",
        "QMC": f"QMC works on numbers: it draws {choices} at random",
        "GPSampler": f"GPSampler takes the values of {choices} as unordered, each as far from the next as any other",
    }.get(plan.config.hyperopt.optuna_sampler)


@dataclass
class Shown:
    """What samplers are shown beside their study's own trials, and how they are shown those."""

    warm: Sequence[FrozenTrial] = ()  # ended trials of an earlier study
    _valued: dict[int, FrozenTrial] = field(default_factory=dict)  # trials that were stopped early, by number

    def valued(self, trial: FrozenTrial, direction: StudyDirection) -> FrozenTrial:
        """Show a trial that was stopped early by its best report, as one that ran to its end is.

        Optuna's TPE ranks every stopped trial below every whole one. The first to arrive at a rung always pass it,
        however poor they are, and TPE would take them for the best there is; GP would not look at a stopped trial.
        """
        if trial.state != TrialState.PRUNED or not trial.intermediate_values:
            return trial
        valued = self._valued.get(trial.number)
        if valued is None:  # what has ended does not change
            best = max if direction == StudyDirection.MAXIMIZE else min
            valued = self._valued[trial.number] = copy.copy(trial)
            valued.state, valued.value = TrialState.COMPLETE, best(trial.intermediate_values.values())
        return valued


class _Informed:
    """Shows a sampler more trials than its study has: those of an earlier study, and those that ran out of memory.

    Optuna's samplers do not look at failed trials at all; a setting that does not fit the device is worth knowing.
    """

    def __init__(self, shown: Shown, **settings: Any) -> None:
        super().__init__(**settings)
        self._shown = shown
        self._seen: _View | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._seen = None
        super().before_trial(study, trial)  # type: ignore[misc]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        return super().infer_relative_search_space(self._view(study), trial)  # type: ignore[misc]

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        return super().sample_relative(self._view(study), trial, search_space)  # type: ignore[misc]

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return super().sample_independent(self._view(study), trial, name, distribution)  # type: ignore[misc]

    def _view(self, study: Any) -> _View:
        """Return the study as it was when the proposal began: the other trials do not change meanwhile."""
        if self._seen is None:
            self._seen = study if isinstance(study, _View) else _View(study, self._shown)
        return self._seen


class _TPE(_Informed, TPESampler):
    pass


class _GP(_Informed, GPSampler):
    pass


class _View:
    """A study as the sampler sees it."""

    def __init__(self, study: Any, shown: Shown) -> None:
        self._study, self._shown = study, shown
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
        wanted = states if states is None or not finished else (*states, TrialState.PRUNED)
        trials: list[FrozenTrial] = self._study._get_trials(deepcopy=False, states=wanted)
        failed = self._study._get_trials(deepcopy=False, states=(TrialState.FAIL,)) if finished else []
        infeasible = [_as_pruned(trial) for trial in failed if INFEASIBLE in trial.constraints]
        earlier = [trial for trial in self._shown.warm if wanted is None or trial.state in wanted]
        # in front: samplers rely on their study's own trials being the last
        if len(self._study.directions) > 1:
            return [*infeasible, *earlier, *trials]
        direction = self._study.direction
        return infeasible + _fewer([self._shown.valued(trial, direction) for trial in [*earlier, *trials]], direction)


def _fewer(trials: list[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """Return the latest of very many trials, and the best of the others."""
    sign = 1 if direction == StudyDirection.MAXIMIZE else -1
    older = [trial for trial in trials[:-_LATEST] if trial.state == TrialState.COMPLETE]
    best = {id(trial) for trial in heapq.nlargest(_BEST, older, key=lambda trial: sign * (trial.value or 0.0))}
    return [trial for trial in older if id(trial) in best] + trials[-_LATEST:]


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    shown = optuna.trial.create_trial(
        state=TrialState.PRUNED,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=trial.system_attrs,
    )
    shown.number = trial.number
    return shown


def pruner(plan: Plan) -> BasePruner:
    """Return the pruner of ``hyperopt.optuna_pruner``; steps are reports."""
    hyperopt, reports = plan.config.hyperopt, plan.reports_per_trial
    startup, warmup = hyperopt.optuna_n_startup_trials, hyperopt.optuna_n_warmup_steps
    factor = max(2, round(hyperopt.asha_reduction_factor))
    made: dict[str, Callable[[], BasePruner]] = {
        "none": lambda: NopPruner(),
        "median": lambda: MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup),
        "percentile": lambda: PercentilePruner(25.0, n_startup_trials=startup, n_warmup_steps=warmup),
        "hyperband": lambda: HyperbandPruner(
            min_resource=max(1, warmup), max_resource=reports, reduction_factor=factor
        ),
        "successive_halving": lambda: SuccessiveHalvingPruner(min_resource=max(1, warmup), reduction_factor=factor),
        "wilcoxon": lambda: WilcoxonPruner(n_startup_steps=max(2, warmup)),
    }
    return made[hyperopt.optuna_pruner]()


def quiet() -> None:
    """Keep Optuna's notes about how it is used off the person's screen."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
