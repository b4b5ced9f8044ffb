"""How stable two kinds of parameter importance are: ranks over bootstrap resamples of recorded settings.

.venv/bin/python bench/importance.py
"""

from __future__ import annotations

import csv
import itertools
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from scipy.stats import spearmanr

RESULTS = Path(__file__).parent / "results"
LOG_SCALE = {"learning_rate", "weight_decay"}
CHOICES = {"lora_r", "per_device_train_batch_size"}
NAMES = sorted(LOG_SCALE | CHOICES | {"warmup_ratio"})
RESAMPLES = 20


def main() -> None:
    """Print the mean rank correlation between resamples and how often they agree on the most important parameter."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    for path in sorted(RESULTS.glob("curves_*.csv")):
        rows = list(csv.DictReader(path.open()))
        for kind, evaluator in (("fANOVA", FanovaImportanceEvaluator(seed=0)), ("PED", PedAnovaImportanceEvaluator())):
            rng, began = np.random.default_rng(0), time.monotonic()
            drawn = [rng.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES)]
            found = [get_param_importances(_study(rows, rows_of), evaluator=evaluator) for rows_of in drawn]
            shares = [[one[name] for name in NAMES] for one in found]
            rho = np.mean([spearmanr(one, other)[0] for one, other in itertools.combinations(shares, 2)])
            name, count = Counter(max(one, key=lambda key: one[key]) for one in found).most_common(1)[0]
            seconds = (time.monotonic() - began) / RESAMPLES
            print(f"{path.stem} {len(rows)} {kind}: ranks {rho:.3f}, first {name} {count}/{RESAMPLES}, {seconds:.2f} s")


def _study(rows: list[dict[str, str]], drawn: np.ndarray) -> optuna.Study:
    ranges = {name: _range(name, [float(row[name]) for row in rows]) for name in NAMES}
    study = optuna.create_study(direction="maximize")
    for row in (rows[place] for place in drawn):
        value = max(float(row[key]) for key in row if key.startswith("f1_"))
        params = {name: float(row[name]) for name in NAMES}
        study.add_trial(optuna.create_trial(params=params, distributions=ranges, value=value))
    return study


def _range(name: str, values: list[float]) -> BaseDistribution:
    if name in CHOICES:
        return CategoricalDistribution(sorted(set(values)))
    return FloatDistribution(min(values), max(values), log=name in LOG_SCALE)


if __name__ == "__main__":
    main()
