"""Test F1 of what a search leaves after some minutes of wall time on two cores: ours, and what one would use instead.

.venv/bin/python bench/quality.py --sets music wnut17_500 --seeds 1
.venv/bin/python bench/quality.py --minutes 2 --steps 100 --sets music --table small.csv    a small run

Sides:

- ``ours``: ``launch.py -m hyperopt=combined hyperopt.timeout=…``, one minute less than it has, because trials end at
  their next report. What a run really took is in the table.
- ``peer``: ``Trainer.hyperparameter_search(backend="ray")`` with OptunaSearch and ASHA (bench/peer.py), two at once.
- ``optuna``: ``Trainer.hyperparameter_search(backend="optuna")`` with the median pruner, on two threads.
- ``random``: the same with random settings and no pruner.
- ``default``: a plain ``launch.py`` with the default config, however long it takes.

The peers use `minilm`, LoRA on all linear layers, 1,000 steps with nine reports and the ranges of our space, so that
only the search differs. Their trials save an adapter at each report that is their best; what they leave after some
minutes is the best that was there by then, at no cost: so one long run is looked at after each number of minutes.
Test is scored afterwards, for the peers as for us, on all words.

Each row goes to results/quality.csv at once; rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recipe import SETS, files_of
from tables import append_row, read_rows

HERE = Path(__file__).parent
ROOT = HERE.parent
TABLE = HERE / "results/quality.csv"
COLUMNS = ("set", "side", "minutes", "seed", "test_f1", "dev_f1", "wall_s", "trials")
SIDES = ("ours", "default", "peer", "optuna", "random")
PEERS = SIDES[2:]
AT_ONCE, STEPS, REPORTS = 2, 1000, 9
AROUND = 60.0  # seconds before a search's clock begins, from its end to the next reports, and for the scores
SAID = {"HF_HUB_OFFLINE": "1", "RAY_worker_niceness": "0", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def main() -> None:
    """Make the rows that the table lacks; or, with ``--peer``, one run of a peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--minutes", nargs="+", type=float, default=[3.0, 6.0, 12.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=1000, help="of a training; fewer for a small run")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        from quality_peers import search

        search(args.peer, files_of(args.data, args.sets[0]), args.folder, args.minutes[0], args.seeds[0], args.steps)
        return
    for seed in args.seeds:
        for name in args.sets:
            for side in args.sides:
                _fill(args, name, side, seed)
    print_table(args.table)


def _fill(args: argparse.Namespace, name: str, side: str, seed: int) -> None:
    """Make the missing rows of one side on one set with one seed."""
    done = {(row["set"], row["side"], float(row["minutes"]), int(row["seed"])) for row in read_rows(args.table)}
    wanted = [0.0] if side == "default" else sorted(args.minutes)
    missing = [minutes for minutes in wanted if (name, side, minutes, seed) not in done]
    if not missing:
        return
    read = files_of(args.data, name)
    if side not in PEERS:
        for minutes in missing:
            found = by_us(args, read, minutes, seed) if minutes else by_default(args, read, seed)
            append_row(args.table, COLUMNS, [name, side, minutes, seed, *found])
        return
    for minutes, found in by_peer(args, name, side, missing, seed).items():
        append_row(args.table, COLUMNS, [name, side, minutes, seed, *found])


def _launch(args: argparse.Namespace, overrides: list[str], read: dict[str, Any], folder: Path) -> float:
    """Run launch.py with an empty cache; return the seconds of its wall time."""
    named = ["data=files", *(f"data.{key}={value}" for key, value in read.items())] if read else []
    named.append(f"training.min_steps={args.steps}")
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "launch.py", *overrides, *named],
        cwd=ROOT,
        env={**os.environ, **SAID, "MISTRAL_NER_CACHE": str(folder / "cache")},
        check=False,  # a search that was too short for a single report fails
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def by_us(args: argparse.Namespace, read: dict[str, Any], minutes: float, seed: int) -> list[Any]:
    """Search with ``combined`` so that all is over after ``minutes``, final trainings included."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = [
            *("-m", "hyperopt=combined", f"hyperopt.max_concurrent={AT_ONCE}", "hyperopt.num_trials=1000"),
            *(f"hyperopt.timeout={60 * minutes - AROUND:.0f}", f"seed={seed}"),
            *(f"hyperopt.results_dir={folder}", "hyperopt.study_name=s"),
        ]
        wall = _launch(args, overrides, read, folder)
        summary = json.loads((folder / "s/summary.json").read_text())
        if not (folder / "s/final/metrics.json").exists():
            return [0.0, 0.0, wall, summary["n_trials"]]
        metrics = json.loads((folder / "s/final/metrics.json").read_text())
    return [metrics["test"]["f1"], metrics["dev"]["f1"], wall, summary["n_trials"]]


def by_default(args: argparse.Namespace, read: dict[str, Any], seed: int) -> list[Any]:
    """Train the default config once, on both cores."""
    from mistral_ner.hyperopt.spec.plan import read_saved_config
    from mistral_ner.training.evaluate import score

    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        wall = _launch(args, [f"seed={seed}", f"hydra.run.dir={run}"], read, Path(name))
        config = read_saved_config(run / "config.yaml")
        found = [score(config, run / "adapter", split) for split in ("test", "dev")]
    return [*(one.metrics["f1"] if one else 0.0 for one in found), wall, 1]


def by_peer(args: argparse.Namespace, name: str, side: str, minutes: list[float], seed: int) -> dict[float, list[Any]]:
    """Let a peer search for the most minutes, in a process of its own; return what it had found after each number."""
    from quality_peers import left_after, score_adapter

    with tempfile.TemporaryDirectory() as folder:
        given = {"peer": side, "folder": folder, "data": args.data, "minutes": max(minutes), "seeds": seed}
        given["steps"] = args.steps
        command = [sys.executable, __file__, *(f"--{key}={value}" for key, value in given.items()), "--sets", name]
        begun = time.perf_counter()
        done = subprocess.run(command, env={**os.environ, **SAID}, check=False, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - begun
        if done.returncode and wall < 60 * max(minutes):  # later a search may fail for want of a whole trial
            raise SystemExit(f"{side} failed on {name}; its output is above")
        found, read = {}, files_of(args.data, name)
        for one in minutes:
            adapter, dev_f1, trials = left_after(Path(folder), 60 * one)
            test_f1 = score_adapter(adapter, read) if adapter else 0.0  # it has left nothing yet
            found[one] = [test_f1, dev_f1, min(wall, 60 * one), trials]
    return found


def print_table(table: Path) -> None:
    """Print the mean test F1 over seeds of every set, side and number of minutes."""
    found: dict[tuple[str, str, float], list[float]] = {}
    for row in read_rows(table):
        found.setdefault((row["set"], row["side"], float(row["minutes"])), []).append(float(row["test_f1"]))
    for (name, side, minutes), values in sorted(found.items()):
        print(f"{name:12} {side:8} {minutes:5g} min  test F1 {statistics.mean(values):.3f}  seeds {len(values)}")


if __name__ == "__main__":
    main()
