"""How certain an F1 is: percentile intervals from sentences resampled with replacement.

Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval); for comparing two taggers
on the same sentences, Berg-Kirkpatrick, Burkett and Klein 2012 (https://aclanthology.org/D12-1091). F1 is a ratio of
sums over sentences, so the sums of all resamples are a matrix product: how often each sentence was drawn, times its
counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from mistral_ner.metrics import IntArray

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


def resample_f1(runs: Sequence[IntArray], seed: int = 0, resamples: int = RESAMPLES) -> FloatArray:
    """Return the mean F1 of several trainings on each resample of the sentences, shape (resamples,).

    The same ``seed`` draws the same sentences, so that two calls on one split give pairs that can be compared.

    Args:
        runs: for each training the (gold, proposed, right) entities of each sentence, shape (sentences, 3).
        seed: seed of the draws.
        resamples: number of draws.

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
    for start in range(0, resamples, 100):  # 100 resamples at a time, to bound the memory
        rows = min(100, resamples - start)
        drawn = rng.multinomial(size, np.full(size, 1 / size), size=rows).astype(np.float64)
        sums = (drawn @ counts).reshape(rows, len(runs), 3)
        whole = sums[:, :, 0] + sums[:, :, 1]
        f1 = np.divide(2 * sums[:, :, 2], whole, out=np.zeros_like(whole), where=whole > 0)
        means[start : start + rows] = f1.mean(axis=1)
    return means


def interval(values: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval that holds the share ``level`` (0 to 1) of resampled values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pool_variance(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Return the variance within groups of values, pooled over the groups, and its degrees of freedom."""
    groups = [group for group in groups if group]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    return (squares / freedom if freedom else 0.0), freedom


def is_worse(
    one: Sequence[IntArray], best: Sequence[IntArray], noise: float, freedom: int, error: float = 0.05
) -> bool:
    """Whether settings have a lower F1 than the best ones: a one-sided paired test on the same sentences.

    The difference of the mean F1 varies with the sentences, which are resampled in pairs, and with the seeds. It is
    compared with Student's t of the seeds' degrees of freedom, which are the fewer.

    Args:
        one: the counts of the trainings of the settings in question, as for :func:`resample_f1`.
        best: those of the best settings.
        noise: variance of F1 between seeds of the same settings.
        freedom: degrees of freedom of ``noise``; without any, nothing is known to be worse.
        error: probability that settings which are no worse are taken for worse.
    """
    if not freedom:
        return False
    difference = resample_f1(best) - resample_f1(one)
    variance = float(difference.var()) + noise * (1 / len(best) + 1 / len(one))
    return float(difference.mean()) > float(stdtrit(freedom, 1 - error)) * math.sqrt(variance)


def distinguishable(first: Sequence[IntArray], other: Sequence[IntArray]) -> bool:
    """Whether the 95% interval of the paired difference between two settings' mean F1 excludes 0."""
    low, high = interval(resample_f1(first) - resample_f1(other))
    return low > 0 or high < 0
