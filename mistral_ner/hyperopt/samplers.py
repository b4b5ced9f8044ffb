"""Optuna's samplers and pruners by the names that the config uses, seeded."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
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

from mistral_ner.hyperopt.plan import Plan

_CANDIDATES = 8  # of which TPE takes the best: fewer explore more (Optuna has 24); bench/README.md compares
INFEASIBLE = "memory"  # the constraint that a trial breaks whose settings do not fit the device


def sampler(plan: Plan, trial: int, warm: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """Return the sampler of ``hyperopt.optuna_sampler`` for one trial.

    Its seed follows from the config's and the trial's number, so that a search that was cut off and resumed proposes
    what the unbroken one would have.

    Args:
        plan: the search.
        trial: the number of the trial to propose.
        warm: trials of an earlier study that inform the sampler.
    """
    hyperopt = plan.config.hyperopt
    seed = int(np.random.SeedSequence([plan.config.seed, trial]).generate_state(1)[0])
    startup = hyperopt.optuna_n_startup_trials
    if hyperopt.optuna_sampler == "TPE":
        # Constant liar: running trials count as poor ones, so that two workers do not get the same point.
        # Each parameter by itself: found good settings sooner here than the joint form, which is Optuna's default.
        return _TPE(
            warm,
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
            source_trials=list(warm) or None,
        )
    if hyperopt.optuna_sampler == "GPSampler":
        return _GP(warm, seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
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


class _Informed:
    """Shows a sampler more trials than its study has: those of an earlier study, and those that ran out of memory.

    Optuna's samplers do not look at failed trials at all; a setting that does not fit the device is worth knowing.
    """

    def __init__(self, warm: Sequence[FrozenTrial], **settings: Any) -> None:
        super().__init__(**settings)
        self._warm = warm

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        return super().infer_relative_search_space(_view(study, self._warm), trial)  # type: ignore[misc]

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        return super().sample_relative(_view(study, self._warm), trial, search_space)  # type: ignore[misc]

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        view = _view(study, self._warm)
        return super().sample_independent(view, trial, name, distribution)  # type: ignore[misc]


class _TPE(_Informed, TPESampler):
    pass


class _GP(_Informed, GPSampler):
    pass


def _view(study: Any, warm: Sequence[FrozenTrial]) -> Any:
    return study if isinstance(study, _View) else _View(study, warm)


class _View:
    """A study as the sampler sees it."""

    def __init__(self, study: Any, warm: Sequence[FrozenTrial]) -> None:
        self._study, self._warm = study, warm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Iterable[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, tuple(states) if states is not None else None)

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        finished = states is None or TrialState.COMPLETE in states
        wanted = states if states is None or not finished else (*states, TrialState.PRUNED)
        trials: list[FrozenTrial] = self._study._get_trials(deepcopy=deepcopy, states=wanted, use_cache=use_cache)
        failed = self._study._get_trials(deepcopy=False, states=(TrialState.FAIL,), use_cache=True) if finished else []
        infeasible = [_as_pruned(trial) for trial in failed if INFEASIBLE in trial.constraints]
        earlier = [trial for trial in self._warm if wanted is None or trial.state in wanted]
        # in front: samplers rely on their study's own trials being the last
        shown = [*earlier, *infeasible, *trials]
        return shown if len(self._study.directions) > 1 else [_valued(trial, self._study.direction) for trial in shown]


def _valued(trial: FrozenTrial, direction: optuna.study.StudyDirection) -> FrozenTrial:
    """Show a trial that was stopped early by its best report, as one that ran to its end is.

    Optuna's TPE ranks every stopped trial below every whole one. The first to arrive at a rung always pass it, however
    poor they are, and TPE would take them for the best there is; GP would not look at a stopped trial at all.
    """
    if trial.state != TrialState.PRUNED or not trial.intermediate_values:
        return trial
    best = max if direction == optuna.study.StudyDirection.MAXIMIZE else min
    valued = copy.copy(trial)
    valued.state, valued.value = TrialState.COMPLETE, best(trial.intermediate_values.values())
    return valued


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
