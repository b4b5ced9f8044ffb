"""What a proposal of TPE and a report cost with 10, 1,000 and 10,000 finished trials in the study's journal.

.venv/bin/python bench/ask_time.py  writes results/ask_time.json
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import yaml

from mistral_ner.hyperopt.sampling.samplers import build_sampler, silence_optuna
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.storage import open_storage
from mistral_ner.hyperopt.study.study import Study

HERE = Path(__file__).parent
SIZES = (10, 1_000, 10_000)
REPORTS = 9
PAIRS = 7


def main() -> None:
    """Fill journals, time what a search does with them, write the figures."""
    silence_optuna()
    figures = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            figures[str(size)] = timed(Path(folder), size)
        print(size, figures[str(size)], flush=True)
    (HERE / "results/ask_time.json").write_text(json.dumps(figures, indent=2) + "\n")


def timed(folder: Path, size: int) -> dict[str, float]:
    """Return median seconds of each operation in a study of ``size`` finished trials, and the journal's size."""
    plan = make_plan(folder)
    folder.joinpath("s").mkdir()
    storage = open_storage(plan.folder, None)
    made = optuna.create_study(study_name="s", storage=storage, direction="maximize", sampler=build_sampler(plan, 0))
    fill(made, plan, size)
    journal = next(plan.folder.glob("*.journal")).stat().st_size
    opening = once(lambda: optuna.load_study(study_name="s", storage=open_storage(plan.folder, None)).get_trials())
    study = Study(plan, made, storage)
    asks, reports, ends = [], [], []
    for _ in range(PAIRS):
        number: list[int] = []
        asks.append(once(lambda number=number: number.append(study.ask().number)))
        reports.append(once(lambda number=number: study.report(number[0], 1, {"eval_f1": 0.5})))
        ends.append(once(lambda number=number: study.end(number[0], stopped=True)))
    return {
        "ask_seconds": round(statistics.median(asks), 5),
        "report_seconds": round(statistics.median(reports), 5),
        "end_seconds": round(statistics.median(ends), 5),
        "open_seconds": round(opening, 3),
        "journal_bytes_per_trial": round(journal / size),
    }


def once(work: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def make_plan(folder: Path) -> Plan:
    """Return a TPE search over the default space."""
    return Plan.of(
        {
            "output_dir": ".",
            "search_space": yaml.safe_load((HERE.parent / "conf/search_space/lora.yaml").read_text()),
            "training": {"reports": REPORTS, "threads": 1},
            "hyperopt": {
                "strategy": "combined",
                "num_trials": 2 * max(SIZES),
                "max_concurrent": 4,
                "enqueue_default": False,
                "results_dir": str(folder),
                "study_name": "s",
            },
        }
    )


def fill(made: optuna.Study, plan: Plan, size: int) -> None:
    """Add random trials: a third run to the end, the rest stopped at a rung."""
    random.seed(0)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(size):
        trial = drawn.ask()
        plan.space.suggest(trial)
        frozen = drawn._storage.get_trial(trial._trial_id)
        reports = random.choice([3, 3, REPORTS])
        values = {k: random.random() for k in range(1, reports + 1)}
        drawn.tell(trial, 0.0)
        complete = reports == REPORTS
        state = optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED
        made.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=max(values.values()) if complete else None,
                params=frozen.params,
                distributions=frozen.distributions,
                intermediate_values=values,
            )
        )
        if number % 1000 == 999:
            print(f"{number + 1} trials added", flush=True)


if __name__ == "__main__":
    main()
