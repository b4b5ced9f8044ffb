"""How much too good the best single trial of a search looks: simulated searches, their best settings trained again.

.venv/bin/python bench/optimism.py --data FOLDER   FOLDER holds crossner/music

Each search is one of bench/regret.py: ``combined`` on the recorded curves of 150 settings, one seed each. Its best
value is that of a setting; the settings that win are trained again with other seeds, which no search has seen. The
optimism of a search is its best value less the mean of that setting trained again: nothing is assumed about the noise.
Trainings go to results/curves_music_again.csv and are not made twice; the figures to results/optimism.json.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from record_curves import curve, load_space, settings
from regret import HERE, REPORTS, SLOTS, Table, band, make_plan

from mistral_ner.hyperopt.asha import StudyASHA
from mistral_ner.hyperopt.samplers import quiet, sampler
from mistral_ner.hyperopt.study import Study

AGAIN = HERE / "results/curves_music_again.csv"


def main() -> None:
    """Simulate, train the winners again, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data")
    parser.add_argument("--searches", type=int, default=30)
    parser.add_argument("--trials", type=int, default=20, help="of a search; what make dev runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[43])
    args = parser.parse_args()
    quiet()
    block = yaml.safe_load((HERE.parent / "conf/search_space/lora.yaml").read_text())
    table: Table | None = None
    winners = []
    for seed in range(args.searches):
        plan = make_plan("combined", block, seed)
        table = table or Table(HERE / "results/curves_music.csv", plan.space)
        winners.append(winner(plan, table, args.trials))
    assert table is not None
    print("settings that win, and how often:", Counter(winners), flush=True)
    again = trained_again(args, sorted(set(winners)))
    write(args, table, winners, again)


def winner(plan: Any, table: Table, trials: int) -> int:
    """Run one search and return the recorded setting of its best complete trial."""
    study = Study(plan, optuna.create_study(direction="maximize", sampler=sampler(plan, 0)))
    asha = StudyASHA(study, None, None)  # type: ignore[arg-type]
    slots: list[tuple[int, int, int]] = []
    best: tuple[float, int] | None = None
    asked = 0
    while slots or asked < trials:
        while len(slots) < SLOTS and asked < trials:
            trial = study.ask()
            asked += 1
            slots.append((trial.number, table.nearest(trial.values), 0))
        number, setting, made = slots.pop(0)
        report, value = made + 1, float(table.curves[setting][made])
        study.report(number, report, {"eval_f1": value})
        if report == REPORTS:
            study.end(number)
            top = (float(table.curves[setting].max()), setting)
            best = top if best is None or top[0] > best[0] else best
        elif asha.judge(number, report, value):
            study.end(number, stopped=True)
        else:
            slots.append((number, setting, report))
    assert best is not None
    return best[1]


def trained_again(args: argparse.Namespace, wanted: list[int]) -> dict[int, list[float]]:
    """Return the best report of each setting trained with each of the other seeds."""
    rows = list(csv.reader(AGAIN.open())) if AGAIN.exists() else []
    known = {(int(row[0]), int(row[1])): float(row[2]) for row in rows[1:]}
    space = load_space("lora")
    drawn = settings(space, 150, 0)
    for seed in args.seeds:
        for setting in wanted:
            if (setting, seed) in known:
                continue
            known[setting, seed] = max(curve("music", space.by_path(drawn[setting]), args.data / "crossner", seed))
            print(setting, seed, known[setting, seed], flush=True)
            lines = [["setting", "seed", "best_f1"], *([*key, f"{f1:.4f}"] for key, f1 in sorted(known.items()))]
            with AGAIN.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(lines)
    return {setting: [known[setting, seed] for seed in args.seeds] for setting in wanted}


def write(args: argparse.Namespace, table: Table, winners: list[int], again: dict[int, list[float]]) -> None:
    """Write the figures."""
    found = np.array([float(table.curves[setting].max()) for setting in winners])
    later = np.array([np.mean(again[setting]) for setting in winners])
    mean, half = band(found - later)
    figures = {
        "searches": len(winners),
        "trials": args.trials,
        "seeds_of_the_trainings": args.seeds,
        "best_single_value_mean": round(float(found.mean()), 4),
        "trained_again_mean": round(float(later.mean()), 4),
        "optimism_mean": round(mean, 4),
        "optimism_interval_over_searches": [round(mean - half, 4), round(mean + half, 4)],
        "searches_with_optimism_above_0": int((found > later).sum()),
        "winners": {
            str(setting): {
                "searches": count,
                "value": round(float(table.curves[setting].max()), 4),
                "again": again[setting],
            }
            for setting, count in Counter(winners).most_common()
        },
    }
    (HERE / "results/optimism.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
