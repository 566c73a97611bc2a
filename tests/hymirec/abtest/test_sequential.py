"""The intervals hold at every look: against two independent tools, and in simulated A/A tests."""

import math

import numpy as np
import pytest
from ville import AsymptoticCS

from hymirec.abtest.sequential import half_width, mismatch_p_value, mixing, p_value

NUM_EXPERIMENTS = 1000
LOOKS, USERS_A_LOOK = 25, 80
ALPHA = 0.05


def test_the_width_is_that_of_another_library():
    values = np.random.default_rng(0).exponential(2.0, 900)
    other = AsymptoticCS(alpha=0.05, t_opt=500)
    other.fit(values)
    for looked in (100, 500, 900):
        seen = values[:looked]
        error = seen.std(ddof=1) / math.sqrt(looked)
        # The same sequence at the other's own mixing: where it is narrowest is a matter of taste.
        width = error * half_width(looked, 1 / other.rho_, 0.05)
        assert seen.mean() - width == pytest.approx(other.lower_[looked - 1], rel=1e-9)
        assert seen.mean() + width == pytest.approx(other.upper_[looked - 1], rel=1e-9)


def test_intervals_are_narrowest_near_where_they_were_planned():
    planned = 10_000
    rho2 = mixing(planned, ALPHA)
    at = {n: half_width(n, rho2, ALPHA) / math.sqrt(n) for n in (1000, planned, 100_000)}
    for other in (2000, 50_000):
        there = half_width(planned, mixing(other, ALPHA), ALPHA) / math.sqrt(planned)
        assert at[planned] <= there
    assert half_width(planned, rho2, ALPHA) == pytest.approx(3.035, abs=1e-3)


def test_the_p_value_is_where_the_interval_meets_zero():
    rho2 = mixing(5000, ALPHA)
    for num_users in (300, 5000, 80_000):
        width = half_width(num_users, rho2, ALPHA)
        assert p_value(width, num_users, rho2) == pytest.approx(ALPHA, rel=1e-9)
        assert p_value(-width, num_users, rho2) == pytest.approx(ALPHA, rel=1e-9)
    assert p_value(0.0, 5000, rho2) == 1.0
    assert p_value(60.0, 5000, rho2) < 1e-300


def z_of_ratios(rng, planted=0.0):
    """Click-through of two variants at each look, in standard errors: [experiments, looks]."""
    moments = []
    for lift in (0.0, planted):
        # Users differ in what they click and in how much they are shown.
        shape = (NUM_EXPERIMENTS, LOOKS * USERS_A_LOOK)
        shown = rng.poisson(8, shape) + 1.0
        rate = rng.beta(1.6, 18.4, shape) * (1 + lift)
        clicks = rng.binomial(shown.astype(int), np.minimum(rate, 1)).astype(float)
        sums = [
            np.cumsum(one, axis=1)[:, USERS_A_LOOK - 1 :: USERS_A_LOOK]
            for one in (clicks, shown, clicks**2, shown**2, clicks * shown)
        ]
        count = np.arange(1, LOOKS + 1) * USERS_A_LOOK
        x, y, xx, yy, xy = (one / count for one in sums)
        ratio = x / y
        spread = (xx - x * x) - 2 * ratio * (xy - x * y) + ratio**2 * (yy - y * y)
        moments.append((ratio, spread / y**2 / count))
    (first, first_var), (second, second_var) = moments
    return (second - first) / np.sqrt(first_var + second_var)


@pytest.fixture(scope="module")
def aa():
    return np.abs(z_of_ratios(np.random.default_rng(1)))


def test_looking_all_the_time_raises_false_alarms_at_most_as_often_as_allowed(aa):
    users = 2 * USERS_A_LOOK * np.arange(1, LOOKS + 1)
    rho2 = mixing(users[-1], ALPHA)
    widths = np.array([half_width(count, rho2, ALPHA) for count in users])
    alarms = (aa > widths).any(axis=1).mean()
    assert alarms <= ALPHA
    # The usual test, looked at as often, is what this is needed for.
    assert (aa > 1.96).any(axis=1).mean() > 4 * ALPHA
    assert (aa[:, -1] > 1.96).mean() == pytest.approx(ALPHA, abs=0.02)


def test_a_difference_that_is_there_is_found():
    z = z_of_ratios(np.random.default_rng(2), planted=0.25)
    users = 2 * USERS_A_LOOK * np.arange(1, LOOKS + 1)
    rho2 = mixing(users[-1], ALPHA)
    widths = np.array([half_width(count, rho2, ALPHA) for count in users])
    assert (z > widths).any(axis=1).mean() > 0.8


def test_a_sound_splitter_is_never_called_broken_however_often_one_looks():
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.binomial(50, 0.5, (NUM_EXPERIMENTS, 40)), axis=1)
    users = 50 * np.arange(1, 41)
    false = sum(
        any(mismatch_p_value([seen, total - seen], [0.5, 0.5]) < 0.01
            for seen, total in zip(one[::2], users[::2], strict=True))
        for one in arrivals[:400]
    )  # fmt: skip
    assert false / 400 <= 0.01


@pytest.mark.parametrize(
    ("counts", "weights"), [([900, 1300], [0.5, 0.5]), ([300, 400, 500], [0.25, 0.25, 0.5])]
)
def test_a_broken_splitter_is_called_broken(counts, weights):
    assert mismatch_p_value(counts, weights) < 1e-3


def test_users_in_the_ratio_they_should_have_are_no_mismatch():
    assert mismatch_p_value([1000, 1000], [0.5, 0.5]) == 1.0
    assert mismatch_p_value([0, 0], [0.5, 0.5]) == 1.0
