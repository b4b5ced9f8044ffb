"""Where a search should begin: priors and first settings, learnt from recorded curves and judged on other data sets.

.venv/bin/python bench/start.py            writes results/start.json
.venv/bin/python bench/start.py --learn    only prints what all tables together say, for conf/search_space/lora.yaml
.venv/bin/python bench/start.py --old      the cost of a wrong prior on curves_music.csv, which holds F1 alone

A table (signals_NAME.csv of record_curves.py) holds random settings of the space ``lora``, the same ones in each table.
What is learnt:

- ``first``: the settings that, tried one after the other beside the default config, leave the least regret in the mean
  over tables, chosen greedily. The regret of a table is its best F1 less the best of those tried.
- ``prior``: of a number the mean and the standard deviation over the best fifth of each table, if that is narrower than
  even draws would be; of choices how often they are among the best fifth.

Each table is then searched with what the others say (leave one data set out): ``combined`` at four slots, a proposal
being answered with the nearest recorded setting (replay.py). Also with a wrong prior, whose centre is at the end of the
range where the table's worst fifth lies. The figure is the share of the reports that random search needs until its mean
regret at the end of BUDGET reports is reached.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
from typing import Any

import numpy as np
import yaml
from replay import HERE, REPORTS, Table, replay

from mistral_ner.hyperopt.sampling.samplers import silence_optuna
from mistral_ner.hyperopt.spec.parse import parse
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.spec.space import Parameter, SearchSpace

SLOTS, TRIALS = 4, 20
BUDGET = TRIALS * REPORTS
FIRST, BEST = 3, 0.2  # settings to try first; the share of a table that counts as good
NARROW = 0.8  # a prior must be narrower than even draws by this
WIDER = 1.5  # than the good settings of the other tables, for a table that differs
DEFAULT = {"learning_rate": 1e-3, "lora_r": 16, "per_device_train_batch_size": 4, "warmup_ratio": 0.1}
DEFAULT["weight_decay"] = 0.01
VARIANTS = ("nothing", "first", "prior", "prior and first", "wrong prior", "wrong prior and first")


def main() -> None:
    """Learn and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--old", action="store_true")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--least", type=int, default=40, help="settings that a table must hold")
    parser.add_argument("--tables", nargs="*", help="names; left out, all that were recorded")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    args = parser.parse_args()
    silence_optuna()
    logging.disable(logging.WARNING)  # of the trials that the end of a replay cuts off
    if args.old:
        figures = judge_old(args.seeds)
        (HERE / "results/start_old.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps(figures, indent=1))
        return
    block = load_block()
    space, _ = parse(block)
    tables = load_tables(space, args.tables, args.least)
    learnt = learn(block, space, list(tables.values()))
    print(yaml.safe_dump({"first": learnt["first"], **{n: b.get("prior") for n, b in learnt.items() if n != "first"}}))
    if not args.learn:
        figures = {"seeds": args.seeds, "budget_reports": BUDGET, "tables": {}}
        for name in tables:
            figures["tables"][name] = judge(block, space, tables, name, args.seeds, args.variants)
            print(name, json.dumps(figures["tables"][name]), flush=True)
        figures["median"] = medians(figures["tables"])
        print(json.dumps(figures["median"], indent=1))
        (HERE / "results/start.json").write_text(json.dumps(figures, indent=1) + "\n")


def load_block() -> dict[str, Any]:
    """Return the space ``lora`` without priors and first settings."""
    block = yaml.safe_load((HERE.parent / "conf/search_space/lora.yaml").read_text())
    return {
        name: {key: value for key, value in spec.items() if key != "prior"}
        for name, spec in block.items()
        if name != "first"
    }


def load_tables(space: SearchSpace, names: list[str] | None, least: int) -> dict[str, Table]:
    """Return the tables with enough settings, by name."""
    paths = sorted((HERE / "results").glob("signals_*.csv"))
    found = {path.stem.removeprefix("signals_"): Table(path, space) for path in paths}
    return {name: t for name, t in found.items() if len(t.curves) >= least and (not names or name in names)}


def learn(block: dict[str, Any], space: SearchSpace, tables: list[Table]) -> dict[str, Any]:
    """Return the space's block with the priors and the first settings that some tables suggest."""
    learnt: dict[str, Any] = {name: dict(spec) for name, spec in block.items()}
    for number, parameter in enumerate(space):
        good = np.concatenate([table.points[best_of(table), number] for table in tables])
        if (prior := prior_of(parameter, good)) is not None:
            learnt[parameter.name]["prior"] = prior
    learnt["first"] = first_of(space, tables)
    return learnt


def best_of(table: Table, share: float = BEST) -> np.ndarray:
    """Return the numbers of the best settings of a table."""
    order = np.argsort(-table.curves.max(axis=1))
    return order[: math.ceil(share * len(order))]


def prior_of(parameter: Parameter, good: np.ndarray) -> dict[str, float] | None:
    """Return the prior of a parameter whose good settings lie at these places, 0 to 1; None if they say nothing."""
    if parameter.kind == "choice":
        ranks = np.round(good * (len(parameter.choices) - 1)).astype(int)
        counts = np.bincount(ranks, minlength=len(parameter.choices)) + 0.1 * len(good)  # no choice is ruled out
        return {str(c): round(float(n / counts.mean()), 2) for c, n in zip(parameter.choices, counts, strict=True)}
    centre, width = float(good.mean()), WIDER * float(good.std())
    if float(good.std()) > NARROW * math.sqrt(1 / 12):
        return None
    value = parameter.at(centre)
    if parameter.kind.startswith("log"):
        width = math.exp(width * math.log(parameter.high / parameter.low))
    else:
        width *= parameter.high - parameter.low
    return {"center": float(f"{value:.2g}"), "width": float(f"{width:.2g}")}


def first_of(space: SearchSpace, tables: list[Table]) -> list[dict[str, Any]]:
    """Return the settings that leave the least regret in the mean over tables, tried beside the default config."""
    count = min(len(table.curves) for table in tables)
    regrets = np.array([table.best - table.curves.max(axis=1)[:count] for table in tables])
    tried = [table.nearest(DEFAULT) for table in tables]
    reached = np.array([table.best - table.curves.max(axis=1)[one] for table, one in zip(tables, tried, strict=True)])
    chosen: list[int] = []
    for _ in range(FIRST):
        one = int(np.minimum(regrets, reached[:, None]).mean(axis=0).argmin())
        reached = np.minimum(reached, regrets[:, one])
        chosen.append(one)
    return [settings_at(space, tables[0].points[one]) for one in chosen]


def settings_at(space: SearchSpace, point: np.ndarray) -> dict[str, Any]:
    """Return the settings at a point of the unit cube, rounded."""
    found = {}
    for parameter, place in zip(space, point, strict=True):
        if parameter.kind == "choice":
            found[parameter.name] = parameter.choices[round(place * (len(parameter.choices) - 1))]
        else:
            found[parameter.name] = float(f"{parameter.at(float(place)):.3g}")
    return found


def spoil(block: dict[str, Any], space: SearchSpace, table: Table) -> dict[str, Any]:
    """Return a block whose priors point to where the table's worst settings lie, as narrow as the right ones are."""
    order = np.argsort(table.curves.max(axis=1))
    bad = table.points[order[: math.ceil(BEST * len(order))]]
    wrong = {name: dict(spec) for name, spec in block.items()}
    for number, parameter in enumerate(space):
        if (prior := wrong[parameter.name].get("prior")) is None:
            continue
        if parameter.kind == "choice":
            wrong[parameter.name]["prior"] = prior_of(parameter, bad[:, number])
        else:
            wrong[parameter.name]["prior"] = {**prior, "center": parameter.at(float(bad[:, number].mean() > 0.5))}
    return wrong


def judge(
    block: dict[str, Any], space: SearchSpace, tables: dict[str, Table], name: str, seeds: int, variants: list[str]
) -> dict[str, Any]:
    """Return for each way to begin what share of random's reports it needs on a table that it has not seen."""
    others = [table for other, table in tables.items() if other != name]
    learnt, table = learn(block, space, others), tables[name]
    priors = {key: spec for key, spec in learnt.items() if key != "first"}
    wrong, first = spoil(priors, space, table), {"first": learnt["first"]}
    blocks = {
        "nothing": block,
        "first": block | first,
        "prior": priors,
        "prior and first": priors | first,
        "wrong prior": wrong,
        "wrong prior and first": wrong | first,
    }
    random = np.array([regret(table, block, "random", seed) for seed in range(seeds)]).mean(axis=0)
    found: dict[str, Any] = {"settings": len(table.curves), "random_final_regret": round(float(random[-1]), 4)}
    for variant in variants:
        found[variant] = compare(table, blocks[variant], random, seeds)
    return found


# the space that curves_music.csv was recorded in
OLD = {
    "learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2},
    "lora_r": {"type": "choice", "choices": [4, 8, 16, 32]},
    "per_device_train_batch_size": {"type": "choice", "choices": [4, 8, 16]},
    "warmup_ratio": {"type": "uniform", "low": 0.0, "high": 0.2},
    "weight_decay": {"type": "loguniform", "low": 1e-4, "high": 1e-1},
}


def judge_old(seeds: int) -> dict[str, Any]:
    """Return the share of random's reports without a prior, with that of the table itself, and with a wrong one."""
    space, _ = parse(OLD)
    table = Table(HERE / "results/curves_music.csv", space)
    right = {name: spec for name, spec in learn(OLD, space, [table]).items() if name != "first"}
    blocks = {"nothing": OLD, "prior": right, "wrong prior": spoil(right, space, table)}
    random = np.array([regret(table, OLD, "random", seed) for seed in range(seeds)]).mean(axis=0)
    return {name: compare(table, block, random, seeds) for name, block in blocks.items()}


def compare(table: Table, block: dict[str, Any], random: np.ndarray, seeds: int) -> dict[str, float]:
    """Return the share of random's reports that a search needs until random's final regret, and its own."""
    mean = np.array([regret(table, block, "combined", seed) for seed in range(seeds)]).mean(axis=0)
    there = np.flatnonzero(mean <= random[-1])
    needed = int(there[0]) + 1 if len(there) else BUDGET
    return {"share_of_random": round(needed / BUDGET, 3), "final_regret": round(float(mean[-1]), 4)}


def regret(table: Table, block: dict[str, Any], strategy: str, seed: int) -> np.ndarray:
    """Run one search and return the regret after each report, shape (BUDGET,)."""
    plan = Plan.of(
        {
            "output_dir": ".",
            "seed": seed,
            "search_space": block,
            "training": {"reports": REPORTS, "threads": 1, **{k: DEFAULT[k] for k in DEFAULT if k != "lora_r"}},
            "model": {"lora_r": DEFAULT["lora_r"]},
            "hyperopt": {
                "strategy": strategy,
                "optuna_sampler": "TPE" if strategy == "combined" else "Random",
                "num_trials": BUDGET,
                "max_concurrent": SLOTS,
                "results_dir": tempfile.mkdtemp(),
                "enqueue_default": strategy == "combined",
                **({"judge": "metric"} if "eval_loss" not in table.metrics else {}),
            },
        }
    )
    _, scores = replay(plan, table.near, BUDGET)
    return table.best - np.maximum.accumulate([0.0, *scores])[1:]


def medians(tables: dict[str, Any]) -> dict[str, float]:
    """Return the median share of random's reports of each way to begin."""
    variants = [name for name in VARIANTS if all(name in found for found in tables.values())]
    return {name: float(np.median([found[name]["share_of_random"] for found in tables.values()])) for name in variants}


if __name__ == "__main__":
    main()
