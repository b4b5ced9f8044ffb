"""How fast each strategy finds good settings: recorded learning curves, replayed through the real study and rungs.

.venv/bin/python bench/regret.py  writes results/regret.csv, results/regret.json, results/regret.svg

A proposal is answered with the curve of the nearest of the 150 recorded settings (curves_music.csv; distance in the
unit cube of the space, choices by rank). That table holds no losses, so that F1 judges at the rungs; bench/rules.py
compares ways to judge. replay.py says what of a search is real here.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
from typing import Any

import numpy as np
import yaml
from replay import HERE, REPORTS, Table, replay

from mistral_ner.hyperopt.sampling.samplers import silence_optuna
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.study import Study

SLOTS = 4
BUDGET = 50 * REPORTS
STRATEGIES = (
    "random",
    "asha",
    "optuna",
    "combined, stopped trials told COMPLETE",
    "combined",
    "combined, promotion",
)


def main() -> None:
    """Replay every strategy with every seed; write the table, the figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    args = parser.parse_args()
    silence_optuna()
    block = yaml.safe_load((HERE.parent / "conf/search_space/lora.yaml").read_text())
    regrets: dict[str, np.ndarray] = {}
    table = None
    for strategy in STRATEGIES:
        runs = []
        for seed in range(args.seeds):
            plan = make_plan(strategy, block, seed)
            table = table or Table(HERE / "results/curves_music.csv", plan.space)
            runs.append(regret(plan, table, told_complete="COMPLETE" in strategy))
        regrets[strategy] = np.array(runs)
        print(strategy, np.round(regrets[strategy].mean(axis=0)[[44, 134, 224, 449]], 4), flush=True)
    write(regrets)


def make_plan(strategy: str, block: dict[str, Any], seed: int) -> Plan:
    """Return the plan of a search of one strategy."""
    name = strategy.partition(",")[0]
    return Plan.of(
        {
            "output_dir": ".",
            "seed": seed,
            "search_space": block,
            "training": {"reports": REPORTS, "threads": 1},
            "hyperopt": {
                "strategy": name,
                "optuna_sampler": "TPE" if name in ("combined", "optuna") else "Random",
                "num_trials": BUDGET,
                "max_concurrent": SLOTS,
                **({"judge": "metric"} if name in ("combined", "asha") else {}),
                **({"asha_type": "promotion"} if "promotion" in strategy else {}),
                "enqueue_default": False,
                "results_dir": tempfile.mkdtemp(),
            },
        }
    )


def regret(plan: Plan, table: Table, told_complete: bool) -> np.ndarray:
    """Run one search and return the regret after each report, shape (BUDGET,)."""
    _, scores = replay(plan, table.near, BUDGET, tell_complete if told_complete else None)
    return table.best - np.maximum.accumulate([0.0, *scores])[1:]


def tell_complete(study: Study, number: int) -> None:
    """End a trial as Ray's own bridge to Optuna does: COMPLETE with its last value, wherever it was stopped."""
    values = study.reports_of(number)
    study.optuna.tell(study._running.pop(number).trial, values[max(values)])


def write(regrets: dict[str, np.ndarray]) -> None:
    """Write the curves with their bands, the figures, and the picture."""
    steps = range(9, BUDGET + 1, 9)
    with (HERE / "results/regret.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["reports", *(f"{s} {what}" for s in regrets for what in ("mean", "low95", "high95"))])
        for step in steps:
            row: list[Any] = [step]
            for runs in regrets.values():
                mean, half = band(runs[:, step - 1])
                row += [f"{mean:.4f}", f"{mean - half:.4f}", f"{mean + half:.4f}"]
            writer.writerow(row)
    goal = regrets["random"].mean(axis=0)[-1]
    figures: dict[str, Any] = {
        "seeds": len(regrets["random"]),
        "budget_reports": BUDGET,
        "random_final_regret": round(goal, 4),
    }
    for strategy, runs in regrets.items():
        mean = runs.mean(axis=0)
        there = np.flatnonzero(mean <= goal)
        figures[strategy] = {
            "final_regret": round(float(mean[-1]), 4),
            "reports_to_random_final": int(there[0]) + 1 if len(there) else None,
            "share_of_random": round((int(there[0]) + 1) / BUDGET, 3) if len(there) else None,
        }
    (HERE / "results/regret.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    draw(regrets)


def band(values: np.ndarray) -> tuple[float, float]:
    """Return mean and half width of the normal 95% interval of the mean."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / math.sqrt(len(values)))


def draw(regrets: dict[str, np.ndarray]) -> None:
    """Draw regret against reports, with bands."""
    width, height, left, top = 760, 420, 60, 20
    colours = ["#888888", "#e69f00", "#56b4e9", "#cc79a7", "#0072b2", "#009e73"]
    highest = max(runs.mean(axis=0)[8] for runs in regrets.values())

    def point(step: int, value: float) -> str:
        x = left + (width - left - 20) * step / BUDGET
        y = top + (height - top - 50) * (1 - min(value, highest) / highest)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for (strategy, runs), colour in zip(regrets.items(), colours, strict=True):
        steps = range(9, BUDGET + 1, 3)
        bands = [band(runs[:, step - 1]) for step in steps]
        upper = [point(s, m + h) for s, (m, h) in zip(steps, bands, strict=True)]
        lower = [point(s, max(0.0, m - h)) for s, (m, h) in zip(steps, bands, strict=True)]
        parts.append(f'<polygon points="{" ".join(upper + lower[::-1])}" fill="{colour}" opacity="0.15"/>')
        line = " ".join(point(s, m) for s, (m, _) in zip(steps, bands, strict=True))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = top + 14 + 18 * list(regrets).index(strategy)
        parts.append(f'<text x="{width - 330}" y="{y}" fill="{colour}">{strategy}</text>')
    for tick in range(0, BUDGET + 1, 90):
        x = point(tick, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{height - 28}" text-anchor="middle">{tick}</text>')
    for tick in np.linspace(0, highest, 5):
        y = point(0, float(tick)).split(",")[1]
        parts.append(f'<text x="{left - 8}" y="{y}" text-anchor="end">{tick:.3f}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">reports spent</text>')
    parts.append(f'<text x="8" y="{top - 6}">regret (dev F1)</text>')
    box = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    body = "\n".join(parts)
    white = f'<rect width="{width}" height="{height}" fill="white"/>'
    (HERE / "results/regret.svg").write_text(f"{head}\n{white}\n{body}\n</svg>\n")


if __name__ == "__main__":
    main()
