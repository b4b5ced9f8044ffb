"""How sure an F1 is: percentile intervals from sentences drawn again with replacement.

Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval); for comparing two taggers
on the same sentences, Berg-Kirkpatrick, Burkett and Klein 2012 (https://aclanthology.org/D12-1091). F1 is a ratio of
sums over sentences, so that a resample is a product of two matrices: how often each sentence was drawn, and its counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mistral_ner.metrics import IntArray

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


def resampled_f1(runs: Sequence[IntArray], seed: int = 0, resamples: int = RESAMPLES) -> FloatArray:
    """Return the mean F1 of several trainings on each resample of the sentences, shape (resamples,).

    The same ``seed`` draws the same sentences, so that two calls on one split can be compared pair by pair.

    Args:
        runs: for each training the (gold, proposed, right) entities of each sentence, shape (sentences, 3).
        seed: of the draws.
        resamples: how many.

    Raises:
        ValueError: there is no training, no sentence, or the trainings have different numbers of sentences.
    """
    sizes = {len(counts) for counts in runs}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"trainings must be scored on the same sentences, found {sorted(sizes)} of them")
    (size,) = sizes
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    counts = np.concatenate([np.asarray(run, dtype=np.float64) for run in runs], axis=1)
    for start in range(0, resamples, 100):  # bounded memory: 100 rows of sentences at a time
        rows = min(100, resamples - start)
        drawn = rng.multinomial(size, np.full(size, 1 / size), size=rows).astype(np.float64)
        sums = (drawn @ counts).reshape(rows, len(runs), 3)
        whole = sums[:, :, 0] + sums[:, :, 1]
        f1 = np.divide(2 * sums[:, :, 2], whole, out=np.zeros_like(whole), where=whole > 0)
        means[start : start + rows] = f1.mean(axis=1)
    return means


def interval(values: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled values that holds ``level`` (0 to 1) of them."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def distinguishable(first: Sequence[IntArray], other: Sequence[IntArray]) -> bool:
    """Whether the 95% interval of the paired difference of two settings' mean F1 leaves out 0."""
    low, high = interval(resampled_f1(first) - resampled_f1(other))
    return low > 0 or high < 0
