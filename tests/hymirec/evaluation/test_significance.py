"""Paired comparisons, against SciPy's general ones and against chance."""

import numpy as np
import pytest
from scipy import stats

from hymirec.evaluation.significance import compare, holm


def hits(chance, num_users, seed):
    return (np.random.default_rng(seed).random(num_users) < chance).astype(float)


def test_alike_models_differ_by_nothing():
    same = hits(0.3, 50, 0)
    assert compare(same, same) == pytest.approx(compare(same, same.copy()))
    found = compare(same, same)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_interval_and_p_value_agree_with_scipy(seed):
    first, second = hits(0.25, 400, seed), hits(0.32, 400, seed + 100)
    found = compare(first, second, seed=seed)
    difference = second - first
    interval = stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=10_000, rng=seed
    ).confidence_interval
    permuted = stats.permutation_test(
        (second, first), lambda a, b: np.mean(a - b), permutation_type="samples",
        n_resamples=10_000, rng=seed,
    )  # fmt: skip
    assert found.difference == pytest.approx(difference.mean())
    assert found.low == pytest.approx(interval.low, abs=0.006)
    assert found.high == pytest.approx(interval.high, abs=0.006)
    assert found.p_value == pytest.approx(permuted.pvalue, abs=0.02)


def test_a_difference_is_called_real_by_chance_about_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    trials, covered, alarms = 200, 0, 0
    for seed in range(trials):
        first, second = rng.random((2, 120)) < 0.3
        found = compare(first.astype(float), second.astype(float), num_resamples=500, seed=seed)
        covered += found.low <= 0 <= found.high
        alarms += found.p_value <= 0.05
    assert 0.90 <= covered / trials <= 0.99
    assert alarms / trials <= 0.09


def test_the_sign_follows_the_order():
    worse, better = hits(0.2, 500, 0), hits(0.5, 500, 1)
    assert compare(worse, better).low > 0
    assert compare(better, worse).high < 0
    assert compare(worse, better).p_value < 0.001


@pytest.mark.parametrize("shapes", [(3, 4), (0, 0)])
def test_what_cannot_be_paired_is_refused(shapes):
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(*(np.zeros(shape) for shape in shapes))


def test_holm_by_hand():
    # Sorted 0.01 · 4, 0.02 · 3, 0.03 · 2 (not below the one before), 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
