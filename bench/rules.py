"""What it costs to compare trials early, and what it loses: rules and judges, replayed on recorded curves.

.venv/bin/python bench/rules.py  writes results/rules.json

Each search runs twenty of the settings of a table with losses (signals_NAME.csv, made by record_curves.py) in a random
order, at four slots; every rule gets the same orders. Its regret is the best F1 of the twenty less the best of the
trials that it ran to their end. The rules were chosen by music and the sample; the other tables judge the choice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import numpy as np
from replay import HERE, REPORTS, Table, replay
from scipy.stats import spearmanr

from mistral_ner.hyperopt.sampling.samplers import silence_optuna
from mistral_ner.hyperopt.spec.plan import Plan

TRIALS, SLOTS = 20, 4
_ONE, _THREE = {"asha_grace_period": 1}, {"asha_grace_period": 3}
RULES: dict[str, dict[str, Any]] = {
    "stopping at 3 by F1 (until now)": {"asha_type": "stopping", "judge": "metric", **_THREE},
    "stopping at 1, 3 by F1": {"asha_type": "stopping", "judge": "metric", **_ONE},
    "stopping at 1, 3 by loss": {"asha_type": "stopping", "judge": "eval_loss", **_ONE},
    "stopping at 1, 3, auto": {"asha_type": "stopping", **_ONE},
    "promotion at 3 by F1": {"asha_type": "promotion", "judge": "metric", **_THREE},
    "promotion at 1, 3 by F1": {"asha_type": "promotion", "judge": "metric", **_ONE},
    "promotion at 1, 3 by loss": {"asha_type": "promotion", "judge": "eval_loss", **_ONE},
    "promotion at 1, 3, auto": {"asha_type": "promotion", **_ONE},
    "promotion at 1, 2, 4, 8 (one in two), auto": {"asha_type": "promotion", "asha_reduction_factor": 2, **_ONE},
    "promotion at 2, 6, auto": {"asha_type": "promotion", "asha_grace_period": 2},
}


def main() -> None:
    """Replay every rule on every table; write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("tables", nargs="*", help="names; left out, all that were recorded")
    args = parser.parse_args()
    silence_optuna()
    found = sorted(path.stem.removeprefix("signals_") for path in (HERE / "results").glob("signals_*.csv"))
    figures: dict[str, Any] = {"orders": args.orders, "trials": TRIALS, "slots": SLOTS, "tables": {}}
    for name in args.tables or found:
        table = Table(HERE / f"results/signals_{name}.csv")
        rules = {rule: replay_rule(settings, table, args.orders) for rule, settings in RULES.items()}
        figures["tables"][name] = {"settings": len(table.curves), "spearman": correlations(table), "rules": rules}
        print(name, json.dumps(figures["tables"][name], indent=1), flush=True)
    (HERE / "results/rules.json").write_text(json.dumps(figures, indent=2) + "\n")


def correlations(table: Table) -> dict[str, list[float]]:
    """Return the rank correlation of what is seen at each report with the best F1 of the whole training."""
    final = table.curves.max(axis=1)
    losses = table.metrics["eval_loss"]
    seen = {
        "eval_f1": table.curves,
        "best eval_f1 so far": np.maximum.accumulate(table.curves, axis=1),
        "minus eval_loss": -losses,
        "minus lowest eval_loss so far": -np.minimum.accumulate(losses, axis=1),
        "minus train_loss": -table.metrics["train_loss"],
    }
    return {
        name: [round(float(np.nan_to_num(spearmanr(values[:, k], final).statistic)), 2) for k in range(REPORTS)]
        for name, values in seen.items()
    }


def replay_rule(settings: dict[str, Any], table: Table, orders: int) -> dict[str, float]:
    """Return the mean share of reports that a rule spends, its mean and worst regret, and its first rung's insight."""
    shares, regrets = [], []
    for order in range(orders):
        drawn = np.random.default_rng(order).permutation(len(table.curves))[:TRIALS]
        study, scores = replay(make_plan(settings, [int(setting) for setting in drawn]), lambda v: table.at(v["seed"]))
        shares.append(len(scores) / (len(drawn) * REPORTS))
        best = float(table.curves[drawn].max())
        regrets.append(best - float(study.optuna.best_value))
    return {
        "share_of_reports": round(float(np.mean(shares)), 3),
        "regret_mean": round(float(np.mean(regrets)), 4),
        "regret_90_percent": round(float(np.quantile(regrets, 0.9)), 4),
        "found_the_best": round(float(np.mean(np.array(regrets) == 0)), 2),
    }


def make_plan(settings: dict[str, Any], drawn: list[int]) -> Plan:
    """Return the plan of a search that tries the recorded settings ``drawn``, which stand for seeds."""
    return Plan.of(
        {
            "output_dir": ".",
            "search_space": {"seed": {"type": "int", "low": 0, "high": max(drawn) + 1}},
            "training": {"reports": REPORTS, "threads": 1},
            "hyperopt": {
                "strategy": "asha",
                "optuna_sampler": "Random",
                "num_trials": len(drawn),
                "max_concurrent": SLOTS,
                "enqueue_default": False,
                "enqueue": [{"seed": setting} for setting in drawn],
                "results_dir": tempfile.mkdtemp(),
                **settings,
            },
        }
    )


if __name__ == "__main__":
    main()
