"""How busy the slots are: trials of 0.2 s and 4 s, mixed, 40 of them, 4 at once, as jobs of Hydra's Ray launcher.

.venv/bin/python bench/idle.py  writes results/idle.json

The composition, the sweeper, the launcher and the study are those of ``python launch.py -m hyperopt=optuna
hydra/launcher=ray``; only the training is replaced, by a sleep. The peer, for comparison: the same trials in batches of
four, each as long as its slowest, which is how Hydra's own sweeper runs them.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

import mistral_ner.hyperopt.sweepers  # noqa: F401  registers the engines with Hydra
from mistral_ner.config.schema import Config

HERE = Path(__file__).parent
TRIALS, SLOTS, SHORT, LONG = 40, 4, 0.2, 4.0


def seconds(number: int) -> float:
    """Every other trial is a long one, in an order that looks random but is always the same."""
    return LONG if (number * 7919) % 5 in (0, 2) else SHORT


def asleep(config: Config, report: Callable[[int, dict[str, float]], Any]) -> None:
    """The objective: sleeps, and writes down when."""
    folder = Path(config.output_dir)
    begun = time.time()
    time.sleep(seconds(int(folder.name.removeprefix("trial_"))))
    report(1, {"eval_f1": 0.5})
    (folder / "times.json").write_text(json.dumps([begun, time.time()]))


@hydra.main(config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> Any:
    """Run one job of the search."""
    from mistral_ner.hyperopt.engines.trial import run_job

    return run_job(cfg, asleep)


def figures(folder: Path) -> dict[str, Any]:
    """Return the share of slot time in which a trial ran."""
    times = sorted(json.loads(path.read_text()) for path in folder.glob("trial_*/times.json"))
    first, last_begun, last = times[0][0], times[-1][0], max(end for _, end in times)
    worked = sum(end - begun for begun, end in times)
    while_waiting = sum(min(end, last_begun) - begun for begun, end in times)
    lengths = [seconds(number) for number in range(TRIALS)]
    batches = sum(max(lengths[i : i + SLOTS]) for i in range(0, TRIALS, SLOTS))
    return {
        "trials": len(times),
        "slots": SLOTS,
        "wall_seconds": round(last - first, 2),
        "busy_share": round(worked / SLOTS / (last - first), 3),
        "busy_share_while_trials_wait": round(while_waiting / SLOTS / (last_begun - first), 3),
        "busy_share_of_batches_without_any_cost": round(sum(lengths) / SLOTS / batches, 3),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sys.argv[1:] = [
            *("-m", "hyperopt=optuna", "hydra/launcher=ray", "model=tiny", "training.reports=1"),
            *(f"budget.num_trials={TRIALS}", f"budget.max_concurrent={SLOTS}"),
            *(f"hyperopt.results_dir={made}", "hyperopt.study_name=s", *sys.argv[1:]),
        ]
        main()
        found = figures(Path(made) / "s")
    (HERE / "results/idle.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
