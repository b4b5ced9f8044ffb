"""``hyperopt.dry_run=true``: what a search would do, as text; creates nothing."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from mistral_ner.hyperopt.plan import Plan
from mistral_ner.hyperopt.samplers import remark


def describe(plan: Plan) -> None:
    """Print strategy, sampler, stopping rule, search space, budgets, and the reports to expect."""
    hyperopt, console = (
        plan.config.hyperopt,
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False),
    )
    facts = Table.grid(padding=(0, 2))
    facts.add_row("study", f"{hyperopt.study_name} in {plan.folder}")
    facts.add_row("strategy", hyperopt.strategy)
    facts.add_row("sampler", f"{hyperopt.optuna_sampler}, seed {plan.config.seed}")
    if (said := remark(plan)) is not None:
        facts.add_row("", said)
    facts.add_row("early stopping", stopping_rule(plan))
    second = f" and {hyperopt.second_metric} ({hyperopt.second_mode})" if hyperopt.second_metric else ""
    facts.add_row("metric", f"{hyperopt.metric} ({hyperopt.mode}){second}")
    facts.add_row("budget", budget(plan))
    facts.add_row("reports", expected_reports(plan))
    console.print(facts)
    space = Table("parameter", "path", "values", box=None, pad_edge=False)
    for parameter in plan.space:
        when = "".join(f" when {name}={value}" for name, value in parameter.when)
        space.add_row(parameter.name, parameter.path, f"{parameter}{when}")
    console.print()
    console.print(space)
    for number, values in enumerate(plan.enqueued):
        shown = "  ".join(f"{name}={value}" for name, value in values.items())
        console.print(f"trial {number} is given: {shown}")


def stopping_rule(plan: Plan) -> str:
    """Return how trials are stopped early, in words."""
    hyperopt = plan.config.hyperopt
    if plan.asha:
        rungs = ", ".join(str(rung) for rung in plan.rungs)
        return (
            f"ASHA ({hyperopt.asha_type}) at reports {rungs} of {plan.reports_per_trial}, one in "
            f"{hyperopt.asha_reduction_factor:g} goes on"
        )
    return "none" if hyperopt.optuna_pruner == "none" else f"Optuna's {hyperopt.optuna_pruner} pruner"


def budget(plan: Plan) -> str:
    """Return every budget that is set."""
    hyperopt = plan.config.hyperopt
    parts = [f"{hyperopt.num_trials} trials, {plan.at_once} at once"]
    limits = {"{:g} s": hyperopt.timeout, "{} reports": hyperopt.max_reports, "until {:g}": hyperopt.target}
    return ", ".join(parts + [text.format(limit) for text, limit in limits.items() if limit is not None])


def expected_reports(plan: Plan) -> str:
    """Return how many reports the search makes: all of them, or what ASHA leaves of them on average."""
    trials, whole = plan.config.hyperopt.num_trials, plan.reports_per_trial
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
