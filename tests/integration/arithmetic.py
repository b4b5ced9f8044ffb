"""An objective of arithmetic instead of a training, and searches with it; it goes on where it was cut off."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.results.summary import Summary
from mistral_ner.hyperopt.study.opening import read_study

STRATEGIES = ("combined", "asha", "optuna", "random")
REPORTS = 9
SPACE = {
    "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1},
    "lora_r": {"type": "choice", "choices": [4, 8, 16]},
    "num_epochs": {"type": "int", "low": 1, "high": 9, "when": {"lora_r": 8}},
}


def value_of(config: dict[str, Any] | Any, report: int) -> float:
    """Best at a learning rate of 1e-3; grows with the reports."""
    rate = config["learning_rate"] if isinstance(config, dict) else config.training.learning_rate
    return 1 - abs(math.log10(rate) + 3) / 4 + report / 100


def arithmetic(seconds: float = 0.0, breaks: str = "", easier: float = 0.0, waits_for: str = "/") -> Any:
    """Return an objective whose values are higher by ``easier``, and which begins when there is a file.

    It is made in a function, so that it travels to workers that know nothing of this file.
    """

    def objective(config: Any, report: Any) -> None:
        import math as math_
        import time as time_
        from pathlib import Path as Path_

        from mistral_ner.training.checkpoint import Progress, reports_on_disk

        # Ray (2.60) never gives back what a placement group held that is removed in the milliseconds of its making, as
        # Tune does when a trial ends that soon after another one was asked for (ray-project/ray#64693 is like it)
        time_.sleep(0.05)
        folder = Path_(config.output_dir)
        progress = Progress(folder, config.training.mode, "eval_f1", reports=reports_on_disk(folder))
        while not Path_(waits_for).exists():
            time_.sleep(0.05)
        for number in range(len(progress.reports) + 1, config.training.reports + 1):
            time_.sleep(seconds)
            rate = config.training.learning_rate
            value = 1 - abs(math_.log10(rate) + 3) / 4 + number / 100 + easier
            if breaks == "both ways" and 1e-2 < rate < 3e-2:
                value = float("nan")
            elif breaks and rate > 1e-2:
                raise ValueError("too high a rate")
            metrics = {"eval_f1": value, "eval_seconds": float(config.model.lora_r)}
            with (folder / "calls.txt").open("a") as calls:
                calls.write(f"{number}\n")
            progress.reports.append({"report": number, **metrics})
            progress._write()
            if report(number, metrics):
                return

    return objective


def config(folder: Path, strategy: str, **hyperopt: Any) -> dict[str, Any]:
    samples = strategy in ("combined", "optuna")
    return {
        "output_dir": str(folder),
        "training": {"reports": REPORTS, "learning_rate": 1e-3, "num_epochs": 4},
        "model": {"lora_r": 8},
        "search_space": SPACE,
        "hyperopt": {
            "strategy": strategy,
            "optuna_sampler": "TPE" if samples else "Random",
            "num_trials": 12,
            "max_concurrent": 2,
            "asha_grace_period": 1,
            "results_dir": str(folder),
            "study_name": "s",
            **hyperopt,
        },
    }


def run(folder: Path, strategy: str, objective: Any = None, **hyperopt: Any) -> tuple[Summary, list[FrozenTrial]]:
    summary = search(config(folder, strategy, **hyperopt), objective or arithmetic())
    return summary, read_study(folder / "s").trials


def states(trials: list[FrozenTrial]) -> Counter[str]:
    return Counter(trial.state.name for trial in trials)
