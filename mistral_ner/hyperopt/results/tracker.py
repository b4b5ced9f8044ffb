"""The search as a run in a tracker: the best value over the reports, the table of trials, the best config."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistral_ner.config.schema import to_container
from mistral_ner.hyperopt.results import best_config
from mistral_ner.hyperopt.results.report.rows import read_rows
from mistral_ner.hyperopt.study.study import Study
from mistral_ner.training.tracking import tracker_run

TRIALS = "trials.csv"


def track_search(study: Study, summary: Mapping[str, Any]) -> None:
    """Write the search as a run with the study's name, if ``tracking`` names a tracker.

    Args:
        study: the search, whose files are in its folder already.
        summary: the fields of :class:`mistral_ner.hyperopt.results.summary.Summary`.
    """
    plan = study.plan
    tracking, name, folder = plan.config.tracking, plan.config.hyperopt.study_name, plan.folder
    container = to_container(plan.config)
    container["hyperopt"].pop("storage_url")  # it may hold a password
    with tracker_run(tracking, folder, name, name, container) as run:
        if run is not None:
            write = {"wandb": _write_wandb, "mlflow": _write_mlflow, "tensorboard": _write_tensorboard}[
                tracking.report_to
            ]
            write(run, folder, read_rows(study, summary).best_so_far(), _collect_numbers(summary))


def _collect_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of the summary and of the winner of the final trainings, by name."""
    numbers = {key: value for key, value in summary.items() if _is_number(value)}
    if summary["final"] is not None:
        winner = summary["final"]["settings"][0]
        numbers |= {
            f"winner_{key}": winner[key] for key in ("dev_mean", "dev_f1", "test_f1") if _is_number(winner[key])
        }
    return numbers


def _read_table(folder: Path) -> list[list[str]]:
    with (folder / TRIALS).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _write_wandb(run: Any, folder: Path, so_far: list[tuple[int, float]], numbers: dict[str, float]) -> None:
    import wandb

    run.define_metric("search/*", step_metric="search/reports")
    for spent, value in so_far:
        run.log({"search/reports": spent, "search/best_so_far": value})
    head, *rows = _read_table(folder)
    run.log({"search/trials": wandb.Table(columns=list(head), data=rows)})
    run.summary.update({f"search/{key}": value for key, value in numbers.items()})
    if (folder / best_config.NAME).exists():
        artifact = wandb.Artifact(f"{run.name}-best_config", type="config")
        artifact.add_file(str(folder / best_config.NAME))
        run.log_artifact(artifact)


def _write_mlflow(run: Any, folder: Path, so_far: list[tuple[int, float]], numbers: dict[str, float]) -> None:
    import mlflow

    for spent, value in so_far:
        mlflow.log_metric("search/best_so_far", value, step=spent)
    mlflow.log_metrics({f"search/{key}": float(value) for key, value in numbers.items()})
    for name in (TRIALS, best_config.NAME):
        if (folder / name).exists():
            mlflow.log_artifact(str(folder / name))


def _write_tensorboard(run: Path, folder: Path, so_far: list[tuple[int, float]], numbers: dict[str, float]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run)) as writer:
        for spent, value in so_far:
            writer.add_scalar("search/best_so_far", value, spent)
        head, *rows = _read_table(folder)
        lines = [head, ["---"] * len(head), *rows]
        writer.add_text("search/trials", "\n".join(f"| {' | '.join(line)} |" for line in lines))
        writer.add_text("search/summary", f"```\n{json.dumps(numbers, indent=2)}\n```")
        if (folder / best_config.NAME).exists():
            text = (folder / best_config.NAME).read_text(encoding="utf-8")
            writer.add_text("search/best_config", f"```\n{text}\n```")
