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

from mistral_ner.hyperopt.sampling.known import APART, KnownTrials
from mistral_ner.hyperopt.sampling.promise import Judge
from mistral_ner.hyperopt.sampling.proposals import CheckedSampler
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.spec.priors import share_even_draws
from mistral_ner.hyperopt.spec.space import Parameter

_TRUST = 5.0  # how many trials weigh as much as a prior in TPE's choice among candidates, see bench/README.md
_CANDIDATES = 8  # TPE proposes the best of these; fewer explore more (Optuna: 24), see bench/README.md
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
    startup, start = hyperopt.optuna_n_startup_trials, _build_random(plan, seed, known)
    if hyperopt.optuna_sampler == "TPE":
        # constant_liar counts running trials as poor, so that two workers do not get the same point. Sampling each
        # parameter by itself found good settings sooner here than sampling them jointly.
        return _TPE(
            known,
            Judge(plan),
            start,
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
            independent_sampler=start,
            warn_independent_sampling=False,
            source_trials=list(known.warm) or None,
        )
    if hyperopt.optuna_sampler == "GPSampler":
        return _GP(
            known,
            Judge(plan),
            seed=seed,
            n_startup_trials=startup,
            independent_sampler=start,
            warn_independent_sampling=False,
        )
    if hyperopt.optuna_sampler == "QMC":  # one sequence over all trials, so its seed must not change
        return QMCSampler(
            seed=plan.config.seed,
            scramble=True,
            independent_sampler=start,
            warn_independent_sampling=False,
        )
    return start


def _build_random(plan: Plan, seed: int, known: KnownTrials) -> RandomSampler:
    believed = [parameter for parameter in plan.space if parameter.prior is not None]
    return _Believer(plan, believed, seed, known) if believed else RandomSampler(seed=seed)


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


class _Believer(RandomSampler):
    """Draws at random: parameters with a prior mostly by it, the others evenly.

    It draws the trials with which a sampler begins, what that sampler cannot model, and all of a random search.
    """

    def __init__(self, plan: Plan, believed: Iterable[Parameter], seed: int, known: KnownTrials) -> None:
        super().__init__(seed=seed)
        self._own = np.random.default_rng(seed)
        self._plan, self._believed, self._known = plan, {one.name: one for one in believed}, known
        self._even: dict[str, float] = {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        parameter = self._believed.get(param_name)
        if parameter is None or parameter.belief is None:
            return super().sample_independent(study, trial, param_name, param_distribution)
        coin, place = self._own.random(2).tolist()
        if coin >= self.share_even_draws(study, parameter):
            place = parameter.belief.quantile(place)
        return self._plan.space.encode({param_name: parameter.at(place)})[param_name]

    def share_even_draws(self, study: Any, parameter: Parameter) -> float:
        """Return the share of even draws of a parameter, the same all through a proposal."""
        if not self._even:
            view = study if isinstance(study, _KnownStudy) else _KnownStudy(study, self._known, Judge(self._plan))
            shown = view.get_trials(False, (TrialState.COMPLETE,))  # those that ran out of memory have no value
            trials = [one for one in shown if one.number < APART and one.values]
            for name, one in self._believed.items():
                seen = [trial for trial in trials if name in trial.params]
                ratios = [_log_ratio(one, one.decode(trial.params[name])) for trial in seen]
                self._even[name] = share_even_draws(ratios, [self._plan.sign * trial.values[0] for trial in seen])
        return self._even[parameter.name]

    def decode(self, name: str, values: Any) -> list[Any]:
        """Return what the config gets for numbers that stand for values in Optuna's samplers."""
        parameter = self._believed.get(name)
        if parameter is None:
            return []
        distribution = parameter.distribution()
        return [parameter.decode(distribution.to_external_repr(float(value))) for value in values]

    def weigh(self, study: Any, name: str, values: Sequence[Any]) -> Any:
        """Return what the prior adds to the log score of proposed values of a parameter, in the form of the config.

        As in πBO it fades with the number of trials (https://arxiv.org/abs/2204.11051, equation 6), and with the share
        of even draws.
        """
        parameter = self._believed.get(name)
        if parameter is None:
            return 0.0
        ended = len(study.get_trials(False, (TrialState.COMPLETE, TrialState.PRUNED)))
        trust = (1 - self.share_even_draws(study, parameter)) * _TRUST / max(1, ended)
        return trust * np.array([_log_ratio(parameter, value) for value in values])


def _log_ratio(parameter: Parameter, value: Any) -> float:
    return 0.0 if parameter.belief is None else parameter.belief.log_ratio(parameter.place(value))


class _InformedSampler:
    """Shows a sampler more trials than Optuna would: those of an earlier study, and those that ran out of memory.

    Optuna's samplers ignore failed trials, but they should avoid settings that do not fit the device.

    Args:
        known: the trials to show.
        judge: of trials that were stopped early.
        settings: of Optuna's sampler.
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
    """Optuna's TPE; its first trials are drawn by ``start``, which Optuna's does not let one choose."""

    def __init__(self, known: KnownTrials, judge: Judge, start: RandomSampler, **settings: Any) -> None:
        super().__init__(known, judge, **settings)
        self._start, self._startup = start, int(settings["n_startup_trials"])

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        view: Any = self._open_view(study)
        if len(view.get_trials(False, (TrialState.COMPLETE, TrialState.PRUNED))) < self._startup:
            return self._start.sample_independent(view, trial, name, distribution)
        return super().sample_independent(view, trial, name, distribution)

    def _compute_acquisition_func(self, samples: dict[str, Any], mpe_below: Any, mpe_above: Any) -> Any:
        """Return the score of each candidate, weighed by the priors; Optuna's own name (5.0), which is not public."""
        scores = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        if isinstance(self._start, _Believer):
            for name, values in samples.items():
                scores = scores + self._start.weigh(self._view, name, self._start.decode(name, values))
        return scores


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
