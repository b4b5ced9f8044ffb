"""What a search leaves behind: best config, summary, table of trials. Reads the study and the trial folders only."""

from __future__ import annotations

import csv
import io
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from mistral_ner import files
from mistral_ner.config import UserError
from mistral_ner.hyperopt.plan import Plan, trial_name
from mistral_ner.hyperopt.study import REASON, Study
from mistral_ner.hyperopt.watch import shown

_NOT_THE_TRAINING = ("search_space", "hyperopt", "budget")


@dataclass
class Summary:
    """A search in figures; ``summary.json`` holds just this."""

    study_name: str
    strategy: str
    metric: str
    mode: str
    n_trials: int
    n_complete: int
    n_pruned: int
    n_failed: int
    best_value: float | None
    best_trial: int | None
    best_params: dict[str, Any]
    reports_run: int
    reports_full: int  # what running every trial to its end would have cost
    wall_s: float
    budget_spent: str | None  # which budget ended the search before its last trial
    failures: dict[str, int]  # reasons and how often


def finish(study: Study) -> Summary:
    """Write ``summary.json``, ``trials.csv`` and ``best_config.yaml``, print the summary, and return it.

    Raises:
        UserError: no trial completed, so there is no best config; the rest is written.
    """
    summary, folder = summarise(study), study.plan.folder
    files.write_json(folder / "summary.json", asdict(summary))
    files.write_text(folder / "trials.csv", _table(study))
    if summary.best_trial is not None:
        _write_best_config(study.plan, summary.best_trial, summary)
    _print(summary, study.plan)
    if summary.best_trial is None:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in summary.failures.items())
        raise UserError(
            f"no trial of {summary.study_name} completed "
            f"({reasons or summary.budget_spent or 'all were stopped early'}); see {folder}"
        )
    return summary


def summarise(study: Study) -> Summary:
    """Count a study's trials and find the best complete one; works on a running study too."""
    trials, hyperopt = study.trials, study.plan.config.hyperopt
    by_state = {state: [t for t in trials if t.state == state] for state in TrialState}
    complete = by_state[TrialState.COMPLETE]
    best = max(complete, key=lambda t: (study.plan.sign * float(t.value or 0.0), -t.number)) if complete else None
    failures: dict[str, int] = {}
    for trial in by_state[TrialState.FAIL]:
        reason = str(trial.user_attrs.get(REASON, "unknown"))
        failures[reason] = failures.get(reason, 0) + 1
    return Summary(
        study_name=hyperopt.study_name,
        strategy=hyperopt.strategy,
        metric=hyperopt.metric,
        mode=hyperopt.mode,
        n_trials=len(trials),
        n_complete=len(complete),
        n_pruned=len(by_state[TrialState.PRUNED]),
        n_failed=len(by_state[TrialState.FAIL]),
        best_value=best.value if best else None,
        best_trial=best.number if best else None,
        best_params=study.plan.space.decode(best.params) if best else {},
        reports_run=sum(len(t.intermediate_values) for t in trials),
        reports_full=len(trials) * study.plan.reports_per_trial,
        wall_s=round(study.seconds, 3),
        budget_spent=None if study.complete and not study.running else study.spent,
        failures=failures,
    )


def _write_best_config(plan: Plan, number: int, summary: Summary) -> None:
    """Write the winner's resolved config as a primary config of its own: training it repeats the trial."""
    config = yaml.safe_load((plan.folder / trial_name(number) / "config.yaml").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in _NOT_THE_TRAINING}
    config["tracking"] = asdict(plan.config.tracking)  # off for trials only
    # Only the folder is left to Hydra: each run gets its own. Everything else is data, `$` included.
    config = _escaped(config)
    config["output_dir"] = "${hydra:runtime.output_dir}"
    head = (
        f"# python launch.py --config-dir {plan.folder} --config-name best_config\n"
        f"# Trial {number} of {summary.study_name}: {summary.metric} {summary.best_value:.4f} at its best report.\n"
    )
    files.write_yaml(plan.folder / "best_config.yaml", config, head)


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _table(study: Study) -> str:
    names = [parameter.name for parameter in study.plan.space]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "value", "reports", "seconds", *names, "reason"])
    for trial in study.trials:
        params = study.plan.space.decode(trial.params)
        row = [trial.number, trial.state.name, _value(trial), len(trial.intermediate_values), _seconds(trial)]
        writer.writerow([*row, *(params.get(name, "") for name in names), trial.user_attrs.get(REASON, "")])
    return text.getvalue()


def _value(trial: FrozenTrial) -> float | str:
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return trial.value
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else ""


def _seconds(trial: FrozenTrial) -> float | str:
    return round(trial.duration.total_seconds(), 3) if trial.duration else ""


def _print(summary: Summary, plan: Plan) -> None:
    folder = os.path.relpath(plan.folder)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row(
        "trials", f"{summary.n_complete} completed, {summary.n_pruned} stopped early, {summary.n_failed} failed"
    )
    saved = 1 - summary.reports_run / max(1, summary.reports_full)
    table.add_row("reports", f"{summary.reports_run} of {summary.reports_full} ({saved:.0%} saved)")
    table.add_row("time", f"{summary.wall_s:.0f} s")
    if summary.budget_spent:
        table.add_row("ended early", summary.budget_spent)
    for reason, count in summary.failures.items():
        table.add_row("failed", f"{count} x {reason}")
    if summary.best_trial is not None:
        table.add_row(f"best {summary.metric}", f"[bold]{summary.best_value:.4f}[/bold] (trial {summary.best_trial})")
        for name, value in summary.best_params.items():
            table.add_row(f"  {name}", shown(value))
        table.add_row("train it", f"python launch.py --config-dir {folder} --config-name best_config")
    table.add_row("results", folder)
    title = f"{summary.strategy} search {'completed' if summary.best_trial is not None else 'found nothing'}"
    # folded lines can be copied, cut ones cannot; into a file or pipe nothing needs to be folded
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(Panel.fit(table, title=title))
