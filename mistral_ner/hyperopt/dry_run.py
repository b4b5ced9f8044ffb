"""``hyperopt.dry_run=true``: prints what a search would do, and creates nothing."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from mistral_ner.config.schema import TrainingConfig
from mistral_ner.data.overview import describe as describe_splits
from mistral_ner.data.read import load_splits
from mistral_ner.hyperopt.sampling.samplers import explain_choices
from mistral_ner.hyperopt.spec.needs import describe_needs
from mistral_ner.hyperopt.spec.plan import Plan

_LABELS = 9  # CoNLL's, where the data is not read


def describe(plan: Plan) -> None:
    """Print strategy, sampler, stopping rule, space, budgets, reports to expect, files read, memory and disk.

    Raises:
        UserError: a file of the data cannot be read.
    """
    splits = load_splits(plan.config.data) if plan.config.data.source == "files" else None
    hyperopt, console = (
        plan.config.hyperopt,
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False),
    )
    facts = Table.grid(padding=(0, 2))
    facts.add_row("study", f"{hyperopt.study_name} in {plan.folder}")
    if hyperopt.mirror is not None:
        facts.add_row("mirror", f"{hyperopt.mirror}/{hyperopt.study_name}")
    if hyperopt.ray_address is not None:
        facts.add_row("cluster", f"{hyperopt.ray_address}, which is not asked now: the search does so before it starts")
    facts.add_row("strategy", hyperopt.strategy)
    facts.add_row("sampler", f"{hyperopt.optuna_sampler}, seed {plan.config.seed}")
    if (said := explain_choices(plan)) is not None:
        facts.add_row("", said)
    facts.add_row("early stopping", stopping_rule(plan))
    second = f" and {hyperopt.second_metric} ({hyperopt.second_mode})" if hyperopt.second_metric else ""
    facts.add_row("metric", f"{hyperopt.metric} ({hyperopt.mode}){second}")
    facts.add_row("budget", budget(plan))
    for constraint in plan.constraints:
        facts.add_row("constraint", constraint.text)
    facts.add_row("reports", expected_reports(plan))
    facts.add_row("training", length(plan.config.training))
    facts.add_row("final", final_trainings(plan))
    console.print(facts)
    space = Table("parameter", "path", "values", box=None, pad_edge=False)
    for parameter in plan.space:
        when = "".join(f" when {name}={value}" for name, value in parameter.when)
        prior = "" if parameter.prior is None else f" {parameter.prior}"
        space.add_row(parameter.name, parameter.path, f"{parameter}{when}{prior}")
    console.print()
    console.print(space)
    for number, values in enumerate(plan.enqueued):
        shown = "  ".join(f"{name}={value}" for name, value in values.items())
        console.print(f"trial {number} is given: {shown}")
    if splits is not None:
        console.print(f"\nwhat was read:\n{describe_splits(splits)}", markup=False, soft_wrap=True)
    sys.stdout.flush()
    needs = Table.grid(padding=(0, 2))  # last: it takes torch, which takes seconds to import
    for name, words in describe_needs(plan, _LABELS if splits is None else len(splits.labels)):
        needs.add_row(name, words)
    console.print()
    console.print(needs)


def stopping_rule(plan: Plan) -> str:
    """Return how trials are stopped early, in words."""
    hyperopt = plan.config.hyperopt
    if plan.asha and not plan.rungs:
        return f"none: ASHA compares trials before their last report, and a trial makes {plan.reports_per_trial}"
    if plan.asha:
        rungs = ", ".join(str(rung) for rung in plan.rungs)
        return (
            f"ASHA ({hyperopt.asha_type}) at reports {rungs} of {plan.reports_per_trial}, one in "
            f"{hyperopt.asha_reduction_factor:g} goes on, judged by "
            f"{'eval_loss at first' if plan.loss_may_judge else hyperopt.metric}"
        )
    patience = plan.config.training.patience
    rules = [] if hyperopt.optuna_pruner == "none" else [f"Optuna's {hyperopt.optuna_pruner} pruner"]
    rules += [] if patience is None else [f"{patience} reports without a better one (training.patience)"]
    return ", or ".join(rules) or "none"


def budget(plan: Plan) -> str:
    """Return every budget that is set."""
    hyperopt = plan.config.hyperopt
    at_once = "as many at once as the cluster has room for" if plan.grows else f"{plan.at_once} at once"
    parts = [f"{hyperopt.num_trials} trials, {at_once}"]
    if hyperopt.trials_per_pass > 1:
        parts.append(f"{hyperopt.trials_per_pass} in a pass")
    if plan.settings is not None and len(plan.settings) < hyperopt.num_trials:
        parts.append(f"ending after {len(plan.settings)}, since the search space holds no more settings")
    seconds = "{:g} s, final trainings included" if hyperopt.final.enabled else "{:g} s"
    limits = {seconds: hyperopt.timeout, "{} reports": hyperopt.max_reports, "until {:g}": hyperopt.target}
    return ", ".join(parts + [text.format(limit) for text, limit in limits.items() if limit is not None])


def length(training: TrainingConfig) -> str:
    """Return how long a trial's training is."""
    if training.num_epochs is not None:
        return f"{training.num_epochs:g} epochs"
    return f"{training.min_steps} optimiser steps, within {training.min_epochs:g} to {training.max_epochs:g} epochs"


def final_trainings(plan: Plan) -> str:
    """Return what races for the final model."""
    final = plan.config.hyperopt.final
    if not final.enabled:
        return "the best single trial (hyperopt.final.enabled=false)"
    limit = "without a limit of time" if final.share is None else f"in at most {final.share:g} of the search's time"
    return f"the {final.top_k} best settings and the default config, up to {final.seeds} seeds each, {limit}"


def expected_reports(plan: Plan) -> str:
    """Return how many reports the search makes: all of them, or what ASHA leaves of them on average."""
    whole = plan.reports_per_trial
    trials = plan.config.hyperopt.num_trials
    if plan.settings is not None:
        trials = min(trials, len(plan.settings))
    most = plan.config.hyperopt.max_reports
    if not plan.asha:
        paid = trials if most is None else min(trials, most // whole)
        pruned = "without a pruner" if plan.config.hyperopt.optuna_pruner == "none" else "or less, by the pruner"
        return f"{paid * whole}, {pruned}" + (f" ({paid} whole trials)" if paid < trials else "")
    factor, spent, before, share = plan.config.hyperopt.asha_reduction_factor, 0.0, 0, 1.0
    for rung in [*plan.rungs, whole]:
        spent, before = spent + share * (rung - before), rung
        share /= factor
    if most is not None and most < trials * spent:
        return f"{most} at most, where {trials} trials would take about {round(trials * spent)}"
    return f"about {round(trials * spent)} of {trials * whole} that running every trial to its end would take"
