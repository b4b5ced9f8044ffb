"""Intervals over sentences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mistral_ner.hyperopt.results.bootstrap import distinguishable, interval, is_worse, pool_variance, resample_f1


def counts(rng: np.random.Generator, sentences: int, recall: float) -> np.ndarray:
    gold = rng.integers(0, 4, sentences)
    right = rng.binomial(gold, recall)
    return np.stack([gold, right + rng.binomial(1, 0.2, sentences), right], axis=1)


def f1(gold: np.ndarray, proposed: np.ndarray, right: np.ndarray, axis: int = -1) -> np.ndarray:
    return 2 * right.sum(axis) / (gold.sum(axis) + proposed.sum(axis))


def test_the_interval_is_that_of_scipy() -> None:
    run = counts(np.random.default_rng(0), 300, 0.7)
    theirs = stats.bootstrap(
        tuple(run.T), f1, paired=True, vectorized=True, method="percentile", n_resamples=4000, rng=1
    ).confidence_interval
    ours = interval(resample_f1([run], resamples=4000))
    np.testing.assert_allclose(ours, (theirs.low, theirs.high), atol=0.004)


def test_the_mean_of_runs_is_resampled_together() -> None:
    rng = np.random.default_rng(0)
    one, other = counts(rng, 50, 0.6), counts(rng, 50, 0.8)
    both = resample_f1([one, other], seed=3)
    np.testing.assert_allclose(both, (resample_f1([one], seed=3) + resample_f1([other], seed=3)) / 2)


def test_a_setting_is_not_distinguishable_from_itself_and_a_much_worse_one_is() -> None:
    rng = np.random.default_rng(0)
    good, same, bad = counts(rng, 400, 0.9), counts(rng, 400, 0.9), counts(rng, 400, 0.3)
    assert not distinguishable([good], [good])
    assert not distinguishable([good], [same])
    assert distinguishable([good], [bad])


def test_variance_within_groups_is_pooled() -> None:
    groups = [[0.8, 0.82], [0.6, 0.64], [0.7], []]
    noise, freedom = pool_variance(groups)
    assert freedom == 2
    assert noise == pytest.approx(np.mean([np.var(group, ddof=1) for group in groups[:2]]))
    assert pool_variance([[0.8], [0.7]]) == (0.0, 0)


def test_worse_is_what_neither_sentences_nor_seeds_explain() -> None:
    rng = np.random.default_rng(0)
    good, same, bad = counts(rng, 400, 0.9), counts(rng, 400, 0.9), counts(rng, 400, 0.6)
    assert is_worse([bad], [good], noise=0.01**2, freedom=4)
    assert not is_worse([same], [good], noise=0.01**2, freedom=4)
    assert not is_worse([good], [bad], noise=0.01**2, freedom=4)
    assert not is_worse([bad], [good], noise=0.2**2, freedom=4), "seeds differ as much"
    assert not is_worse([bad], [good], noise=0.0, freedom=0), "nothing is known of seeds"


def test_equal_settings_are_rarely_taken_for_worse() -> None:
    """One-sided, at 5%: seeds move the recall, and the sentences of a dev set are drawn from all."""
    wrong = 0
    for number in range(150):
        rng = np.random.default_rng(number)
        recalls = 0.8 + 0.02 * rng.standard_normal((4, 2))
        groups = [[counts(rng, 120, recall) for recall in of_one] for of_one in recalls]
        noise, freedom = pool_variance([[f1(*run.T) for run in group] for group in groups])
        wrong += is_worse(groups[0][1:], groups[1][1:], noise, freedom)
    assert wrong <= 0.08 * 150


def test_different_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match="the same sentences"):
        resample_f1([np.ones((2, 3), dtype=int), np.ones((3, 3), dtype=int)])


def test_sentences_without_entities_score_0() -> None:
    assert interval(resample_f1([np.zeros((5, 3), dtype=int)])) == (0.0, 0.0)
