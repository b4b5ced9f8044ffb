"""What a trial costs when its training costs nothing: this engine against bare Ray Tune, and the driver's memory.

.venv/bin/python bench/noop.py                               writes results/noop.json: five pairs of 1,000 trials
.venv/bin/python bench/noop.py --trials 5000 --pairs 1       writes results/noop_5000.json

A trial makes three reports of a value that follows from its settings; two trials at once, reused workers, ASHA with its
first rung at report 1. Ours is ``combined`` as a search from a script runs it: the study in a journal on disk, a folder
and a config for every trial, progress lines in hyperopt.log. The peer is Ray Tune alone with its OptunaSearch (TPE, an
in-memory study) and its ASHAScheduler. Each run is a process of its own, ours and the peer's in turn; Ray is started
before the clock. Trials a second are counted from the call to the end of the last trial: our tables and report.html,
which come after and which the peer does not have, are given apart.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml
from machine import machine

HERE = Path(__file__).parent
REPORTS, AT_ONCE = 3, 2
QUIET = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}  # neither side writes Ray's own logs


def main() -> None:
    """Run the pairs and write the figures, or one side of a pair (``--side``, with its folder)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--side", choices=("ours", "bare"))
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.side:
        side = ours if args.side == "ours" else bare
        print(json.dumps(side(args.folder, args.trials)))
        return
    rows = []
    for number in range(args.pairs):
        order = ("ours", "bare") if number % 2 else ("bare", "ours")
        rows.append({name: in_a_process(name, args.trials) for name in order})
        print(rows[-1], flush=True)
    figures = {
        "machine": machine(),
        "trials": args.trials,
        "trials_per_s_ours": statistics.median(row["ours"]["trials_per_s"] for row in rows),
        "trials_per_s_bare": statistics.median(row["bare"]["trials_per_s"] for row in rows),
        "ratio_median": round(
            statistics.median(row["ours"]["trials_per_s"] / row["bare"]["trials_per_s"] for row in rows), 3
        ),
        "rss_growth_mb_ours": statistics.median(row["ours"]["rss_growth_mb"] for row in rows),
        "rss_growth_mb_bare": statistics.median(row["bare"]["rss_growth_mb"] for row in rows),
        "runs": rows,
    }
    name = "noop.json" if args.trials == 1000 else f"noop_{args.trials}.json"
    (HERE / "results" / name).write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if key != "runs"}, indent=2))


def in_a_process(side: str, trials: int) -> dict[str, Any]:
    """Run one side and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--side", side, "--trials", str(trials), "--folder", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def ours(folder: Path, trials: int) -> dict[str, Any]:
    """A search through :func:`mistral_ner.hyperopt.search`, with an objective that only reports."""
    from mistral_ner.hyperopt import search
    from mistral_ner.hyperopt.study.opening import read_study

    def objective(config: Any, report: Any) -> None:
        rate = config.training.learning_rate
        for number in range(1, 4):
            if report(number, {"eval_f1": 1 - abs(math.log10(rate) + 3) / 4 + number / 100}):
                return

    config = {
        "output_dir": str(folder),
        "training": {"reports": REPORTS, "threads": 1},
        "search_space": space(),
        "hyperopt": {
            "strategy": "combined",
            "num_trials": trials,
            "max_concurrent": AT_ONCE,
            "asha_grace_period": 1,
            "asha_max_t": REPORTS,
            "results_dir": str(folder),
            "study_name": "s",
        },
    }
    start_ray()
    with Memory() as memory:
        begun = time.time()
        search(config, objective)
        whole = time.time() - begun
    found = read_study(folder / "s").trials
    figures = measured(begun, [trial.datetime_complete for trial in found], memory)
    states = [trial.state.name for trial in found]
    return {**figures, "with_tables_and_report_s": round(whole, 2), "complete": states.count("COMPLETE")}


def bare(folder: Path, trials: int) -> dict[str, Any]:
    """Ray Tune as its documentation puts these parts together."""
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune.analysis").setLevel(logging.CRITICAL)  # it misses, a line a trial, what QUIET left out

    def trial(config: dict[str, Any]) -> None:
        for number in range(1, 4):
            tune.report(
                {"eval_f1": 1 - abs(math.log10(config["learning_rate"]) + 3) / 4 + number / 100, "report": number}
            )

    start_ray()
    # The space as Optuna suggests it; OptunaSearch takes such a function as it is.
    search = OptunaSearch(suggest, metric="eval_f1", mode="max", sampler=optuna.samplers.TPESampler(seed=42))
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(search, AT_ONCE),
            scheduler=ASHAScheduler(
                time_attr="report", metric="eval_f1", mode="max", max_t=REPORTS, grace_period=1, reduction_factor=3
            ),
            num_samples=trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="s", storage_path=str(folder), verbose=0),
    )
    with Memory() as memory:
        begun = time.time()
        results = tuner.fit()
        whole = time.time() - begun
    assert len(results) == trials
    ends = [one.datetime_complete for one in search._ot_study.get_trials(deepcopy=False)]
    return {**measured(begun, ends, memory), "whole_s": round(whole, 2)}


def space() -> dict[str, Any]:
    """Return the default search space."""
    found: dict[str, Any] = yaml.safe_load((HERE.parent / "conf/search_space/lora.yaml").read_text())
    return found


def suggest(trial: Any) -> None:
    """Suggest the default search space to an Optuna trial."""
    from mistral_ner.hyperopt.spec.parse import parse

    parse(space())[0].suggest(trial)


def start_ray() -> None:
    """Start Ray as the engine does."""
    import ray

    os.environ.update(QUIET)
    ray.init(
        "local",
        num_cpus=max(AT_ONCE, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": QUIET},
    )


class Memory:
    """Writes down this process's resident memory and processor time, four times a second."""

    def __enter__(self) -> Memory:
        self.seen: list[tuple[float, int, float]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self.over.wait(0.25):
            self.seen.append((time.time(), process.memory_info().rss, sum(process.cpu_times()[:2])))

    def at(self, moment: float) -> tuple[float, float]:
        """Return the megabytes and the processor seconds at a moment."""
        _, size, seconds = min(self.seen, key=lambda seen: abs(seen[0] - moment))
        return size / 2**20, seconds


def measured(begun: float, ends: list[datetime | None], memory: Memory) -> dict[str, Any]:
    """Return the figures that both sides have, from the times at which their trials ended."""
    stamps = sorted(end.timestamp() for end in ends if end is not None)
    hundredth, last = memory.at(stamps[min(99, len(stamps) - 1)]), memory.at(stamps[-1])
    tenth = max(1, len(stamps) // 10)
    return {
        "trials": len(stamps),
        "trials_per_s": round(len(stamps) / (stamps[-1] - begun), 2),
        "trials_per_s_of_the_last_tenth": round(tenth / (stamps[-1] - stamps[-1 - tenth]), 2),
        "driver_cpu_ms_per_trial": round(1000 * (last[1] - memory.at(begun)[1]) / len(stamps), 1),
        "rss_mb_at_100": round(hundredth[0], 1),
        "rss_growth_mb": round(last[0] - hundredth[0], 1),
    }


if __name__ == "__main__":
    main()
