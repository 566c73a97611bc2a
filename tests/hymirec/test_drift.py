"""Drift statistics against values worked out by hand, and on samples of one distribution."""

import numpy as np
import pytest

from hymirec import drift


def test_stability_is_what_the_formula_says():
    # Shares with the prior: (2.5, 1.5) / 4 and (1.5, 2.5) / 4.
    expected = 2 * (0.625 - 0.375) * np.log(0.625 / 0.375)
    assert drift.population_stability([2, 1], [1, 2]) == pytest.approx(expected)
    assert drift.population_stability([5, 0, 3], [5, 0, 3]) == 0
    assert np.isfinite(drift.population_stability([10, 0], [0, 10]))


@pytest.mark.parametrize("sizes", [(5000, 500), (1000, 1000)])
def test_stability_of_one_distribution_is_about_its_noise(sizes):
    rng = np.random.default_rng(0)
    found = [
        drift.population_stability(*(rng.multinomial(n, np.full(10, 0.1)) for n in sizes))
        for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(9 * sum(1 / n for n in sizes), rel=0.1)


def test_the_largest_gap_is_between_distribution_functions():
    assert drift.largest_gap([1, 2, 3, 4], [3, 4, 5, 6]) == pytest.approx(0.5)
    assert drift.largest_gap([1, 2], []) == 0


def test_entries_in_use_count_what_is_used_evenly():
    assert drift.entries_in_use(np.array([0, 1, 2, 3]), 8) == pytest.approx(4)
    assert drift.entries_in_use(np.array([5, 5, 5]), 8) == pytest.approx(1)


def test_bands_share_the_events():
    #                       padding 1   2  3  4  5  6
    occurrences = np.array([99, 50, 20, 20, 5, 5, 0])
    # All events: 199, half of them padding's, which is no item's.
    bands = drift.popularity_bands(np.where(np.arange(7) == 0, 0, occurrences), 2)
    assert bands.tolist() == [2, 0, 1, 1, 1, 1, 2]
    rng = np.random.default_rng(0)
    many = np.append(0, rng.zipf(1.5, 5000).clip(max=200))
    shares = np.bincount(drift.popularity_bands(many), weights=many, minlength=11) / many.sum()
    assert shares[:10] == pytest.approx(np.full(10, 0.1), abs=0.01)
    assert shares[10] == 0


def test_a_trend_compares_what_is_with_what_was():
    assert drift.trend([0.4, 0.4, 0.2, 0.2], 2) == pytest.approx(0.5)
    assert drift.trend([0.9, 0.4, 0.2], 1) == pytest.approx(0.5)
    assert drift.trend([0.4, 0.2, 0.2], 2) is None
    assert drift.trend([0.0, 0.0, 0.2, 0.2], 2) is None
