"""Optuna's samplers and pruners by the names that the config uses, seeded."""

from __future__ import annotations

import warnings
from collections.abc import Callable

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

from mistral_ner.hyperopt.plan import Plan


def sampler(plan: Plan) -> BaseSampler:
    """Return the sampler of ``hyperopt.optuna_sampler``.

    CMA and QMC work on numbers only and draw choices at random; GPSampler encodes choices itself.
    """
    hyperopt, seed = plan.config.hyperopt, plan.config.seed
    startup = hyperopt.optuna_n_startup_trials
    if hyperopt.optuna_sampler == "TPE":
        # Constant liar: running trials count as poor ones, so that two workers do not get the same point.
        # Groups: with conditional parameters, trials are compared within those that share their parameters.
        group = plan.space.conditional
        return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=group, constant_liar=True)
    if hyperopt.optuna_sampler == "CMA":
        rest = RandomSampler(seed=seed)
        return CmaEsSampler(
            seed=seed, n_startup_trials=max(1, startup), independent_sampler=rest, warn_independent_sampling=False
        )
    if hyperopt.optuna_sampler == "GPSampler":
        return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    if hyperopt.optuna_sampler == "QMC":
        return QMCSampler(
            seed=seed, scramble=True, independent_sampler=RandomSampler(seed=seed), warn_independent_sampling=False
        )
    return RandomSampler(seed=seed)


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
