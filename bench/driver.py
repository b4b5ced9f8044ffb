"""How light the driver is: the commands that only show something, and its processor time while trials run.

.venv/bin/python bench/driver.py  writes results/driver.json

``--help``, ``--cfg job`` and a dry run, medians of seven, wall and processor seconds, beside a bare ``python -c "import
hydra"`` and a bare ``import optuna``. Then a search of four trials that only sleep, two at once: the share of one core
that the driver needs while nothing happens.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from machine import machine

HERE = Path(__file__).parent
ROOT = HERE.parent
TIMES, SLEEP = 7, 20.0
COMMANDS = {
    "import hydra": ["-c", "import hydra"],
    "import optuna": ["-c", "import optuna"],
    "--help": ["launch.py", "--help"],
    "--cfg job": ["launch.py", "--cfg", "job", "hyperopt=combined"],
    "dry run": ["launch.py", "-m", "hyperopt=combined", "hyperopt.dry_run=true"],
}


def main() -> None:
    """Time the commands in turn, then watch a driver."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(TIMES):
        for name, command in COMMANDS.items():
            rows[name].append(timed(command))
    commands = {
        name: {
            "wall_s_median": round(statistics.median(wall for wall, _ in times), 2),
            "cpu_s_median": round(statistics.median(cpu for _, cpu in times), 2),
        }
        for name, times in rows.items()
    }
    figures = {"machine": machine(), "commands": commands, "driver_core_share_while_trials_sleep": round(asleep(), 4)}
    (HERE / "results/driver.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def timed(command: list[str]) -> tuple[float, float]:
    """Return a command's wall and processor seconds."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begun, used


def asleep() -> float:
    """Return the share of a core that a driver uses in the middle of trials that sleep."""
    from mistral_ner.hyperopt import search

    def objective(config: Any, report: Any) -> None:
        import time as time_

        time_.sleep(SLEEP)
        report(1, {"eval_f1": 0.5})

    seen: list[tuple[float, float]] = []
    over = threading.Event()

    def watch() -> None:
        process = psutil.Process(os.getpid())
        while not over.wait(0.5):
            seen.append((time.time(), sum(process.cpu_times()[:2])))

    with tempfile.TemporaryDirectory() as folder:
        config = {
            "output_dir": folder,
            "training": {"reports": 1, "threads": 1},
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}},
            "hyperopt": {
                "strategy": "combined",
                "num_trials": 4,
                "max_concurrent": 2,
                "asha_max_t": 1,
                "results_dir": folder,
                "study_name": "s",
            },
        }
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        search(config, objective)
        over.set()
        thread.join()
        from mistral_ner.hyperopt.study.opening import read_study

        begun = max(t.datetime_start.timestamp() for t in read_study(Path(folder) / "s").trials[2:] if t.datetime_start)
    # the second pair of trials: from two seconds after its start to two before its end
    inside = [(at, cpu) for at, cpu in seen if begun + 2 < at < begun + SLEEP - 2]
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


if __name__ == "__main__":
    main()
