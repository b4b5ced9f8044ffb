"""How many random draws should be even ones, beside those by a prior: what a right and a wrong prior then cost.

.venv/bin/python bench/even.py music --seeds 100
.venv/bin/python bench/even.py sample --seeds 100 --rules shipped "start 0.5"

Searches the tables of F1 alone (curves_NAME.csv) as ``bench/start.py --old`` does: with no prior, with that of the
table's own best fifth, and with a wrong one of the same width. Each rule says what share of the draws is even:
``start`` before there are results, ``weight`` times the log of the evidence after that, and never less than ``least``.
Writes results/even_NAME.json: the mean regret at 45, 90 and 180 reports, the standard error of the first, and the share
of random's reports until random's final mean regret.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from replay import HERE, Table
from start import BUDGET, OLD, learn, regret, spoil

from mistral_ner.hyperopt.spec.parse import parse
from mistral_ner.hyperopt.spec.priors import share_even_draws
from mistral_ner.hyperopt.study import samplers


@dataclass(frozen=True)
class Rule:
    """How many draws are even."""

    start: float = 0.2
    weight: float = 1.0
    least: float = 0.2

    def share(self, log_ratios: Sequence[float], scores: Sequence[float]) -> float:
        """Return the share of even draws, as :func:`mistral_ner.hyperopt.spec.priors.share_even_draws` does."""
        ranks = [sum((score > other) - (score < other) for other in scores) / len(scores) for score in scores]
        evidence = self.weight * sum(rank * ratio for rank, ratio in zip(ranks, log_ratios, strict=True))
        odds = (1 - self.start) / self.start * math.exp(max(-50.0, min(50.0, evidence)))
        return max(self.least, 1 / (1 + odds))


RULES = {
    "start 0.35": Rule(0.35),
    "start 0.5": Rule(0.5),
    "start 0.7": Rule(0.7),
    "start 0.5, never less": Rule(0.5, 1.0, 0.5),
    "weight 2": Rule(0.2, 2.0),
    "start 0.5, weight 2": Rule(0.5, 2.0),
    "start 0.5, weight 4": Rule(0.5, 4.0),
}


def main() -> None:
    """Search the table by every rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["music", "sample"])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--rules", nargs="*", choices=["shipped", *RULES], default=["shipped", *RULES])
    args = parser.parse_args()
    samplers.silence_optuna()
    logging.disable(logging.WARNING)
    space, _ = parse(OLD)
    table = Table(HERE / f"results/curves_{args.table}.csv", space)
    right = {name: spec for name, spec in learn(OLD, space, [table]).items() if name != "first"}
    wrong = spoil(right, space, table)
    path = HERE / f"results/even_{args.table}.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    figures |= {"seeds": args.seeds, "right": priors(right), "wrong": priors(wrong)}
    random = runs(table, OLD, "random", args.seeds)
    figures["random"] = describe(random, random)
    figures["no prior"] = describe(runs(table, OLD, "combined", args.seeds), random)
    print(json.dumps(figures, indent=1), flush=True)
    for name in args.rules:
        samplers.share_even_draws = share_even_draws if name == "shipped" else RULES[name].share
        for kind, block in (("right", right), ("wrong", wrong)):
            figures[f"{name}: {kind}"] = describe(runs(table, block, "combined", args.seeds), random)
            print(f"{name}: {kind}", json.dumps(figures[f"{name}: {kind}"]), flush=True)
            path.write_text(json.dumps(figures, indent=1) + "\n")


def priors(block: dict[str, dict[str, object]]) -> dict[str, object]:
    """Return the priors of a space's block by parameter."""
    return {name: spec["prior"] for name, spec in block.items() if "prior" in spec}


def runs(table: Table, block: dict[str, object], strategy: str, seeds: int) -> np.ndarray:
    """Return the regret of a search with each seed after each report, shape (seeds, BUDGET)."""
    return np.array([regret(table, block, strategy, seed) for seed in range(seeds)])


def describe(found: np.ndarray, random: np.ndarray) -> dict[str, float]:
    """Return the figures of some searches."""
    mean = found.mean(axis=0)
    there = np.flatnonzero(mean <= random.mean(axis=0)[-1])
    at = {f"regret_{report}": round(float(mean[report - 1]), 4) for report in (45, 90, 180)}
    error = float(found[:, 44].std(ddof=1)) / math.sqrt(len(found))
    share = round((int(there[0]) + 1) / BUDGET, 3) if len(there) else None
    return {**at, "error_45": round(error, 4), "share_of_random": share}  # type: ignore[dict-item]


if __name__ == "__main__":
    main()
