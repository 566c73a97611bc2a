"""What the first users tell: exact, so known answers and chances are held to the letter."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from hymirec.abtest.analysis import MIN_USERS, guard
from hymirec.abtest.early import nearest_within, rate_evidence, sign_evidence
from hymirec.abtest.metrics import METRICS


def on_the_average(rate, expected, null):
    """Of the factor that a yes, or a no, of one stream brings."""
    return rate * expected / null + (1 - rate) * (1 - expected) / (1 - null)


MARGINS = [(1.0, 0.0), (1.0, 0.01), (1.0, 0.2), (1.5, 0.0), (3.0, 0.0)]


@pytest.mark.parametrize(("factor", "absolute"), MARGINS)
def test_what_is_within_the_margin_never_gains_on_the_average(factor, absolute):
    """The expectation of one pair's factor, over all rates within the margin: 1 at most."""
    expected = np.linspace(0.03, 0.97, 12)
    variant, control = (grid.ravel() for grid in np.meshgrid(expected, expected))
    null_variant, null_control = nearest_within(variant, control, factor, absolute)
    assert (null_variant <= factor * null_control + absolute + 1e-9).all()
    for beside in np.linspace(0, 1, 21):
        worst = min(1.0, factor * beside + absolute)
        for rate in np.linspace(0, worst, 7):
            mean = on_the_average(rate, variant, null_variant)
            mean = mean * on_the_average(beside, control, null_control)
            assert mean.max() <= 1 + 1e-9


def test_nearest_rates_of_no_margin_are_the_mean():
    # Two streams of equal size and one rate: the nearest is half of both.
    found = nearest_within(np.array([0.9, 0.2]), np.array([0.1, 0.3]), 1.0, 0.0)
    assert found[0] == pytest.approx([0.5, 0.2])
    assert found[1] == pytest.approx([0.5, 0.3])


def test_pairs_that_say_nothing_say_nothing():
    assert (rate_evidence([0] * 30, [0] * 30, 1.0, 0.01) < 0).all()
    assert (rate_evidence([1] * 30, [1] * 30, 1.0, 0.01) < 1).all()  # both fail: not the variant
    assert (rate_evidence([0] * 30, [1] * 30, 1.0, 0.01) < 0).all()


def test_signs_are_a_mixture_of_likelihood_ratios():
    worse = [True, True, False, True]
    grid = np.linspace(0.5, 1, 200_001)
    for n in range(1, 5):
        wins = sum(worse[:n])
        ratio = binom.pmf(wins, n, grid) / binom.pmf(wins, n, 0.5)
        mean = np.trapezoid(ratio, grid) / 0.5
        assert sign_evidence(worse)[n - 1] == pytest.approx(math.log(mean), abs=1e-6)
    # All of n are slower: 2 ** (n + 1) · (1 − 2 ** −(n + 1)) / (n + 1), by hand.
    assert sign_evidence([True] * 9)[-1] == pytest.approx(math.log((2**10 - 1) / 10))
    assert beta(5, 2).sf(0.5) == pytest.approx(57 / 64)  # what betainc is there for


@pytest.mark.parametrize(("rate", "margin"), [(0.3, 0.0), (0.05, 0.1)])
def test_a_variant_within_the_margin_is_stopped_at_most_as_often_as_allowed(rate, margin):
    rng = np.random.default_rng(0)
    alarms = sum(
        rate_evidence(rng.random(30) < rate + margin, rng.random(30) < rate, 1.0, margin).max()
        >= math.log(20)
        for _ in range(200)
    )
    assert alarms / 200 <= 0.05


@pytest.fixture
def first(some_users):
    """A guardrail's state when a few users of each have come."""

    def run(metric, count, *, relative=None, absolute=None, alpha=0.025, **changes):
        rng = np.random.default_rng(3)
        users = some_users(rng, count), some_users(rng, count, "new", **changes)
        return guard(
            *users, METRICS[metric], "new", relative=relative, absolute=absolute, alpha=alpha,
            planned=2000,
        )  # fmt: skip

    return run


def test_five_users_are_enough_where_every_answer_fails(first):
    found = first("error_rate", 5, absolute=0.01, error_rate=1.0)
    assert found.state == "broken"
    assert found.treatment == 1.0
    assert "users of each, requests the model fails: 5, the control's 0" in found.note
    assert first("fallback_rate", 7, relative=0.5, error_rate=1.0).state == "broken"
    assert first("error_rate", 2, absolute=0.01, error_rate=1.0).state == "open"
    assert first("error_rate", 20, absolute=0.01, error_rate=0.6).state == "broken"
    assert first("error_rate", MIN_USERS - 1, absolute=0.01).state == "open"


def test_eleven_are_where_every_answer_is_far_too_slow(first):
    found = first("latency_ms", 11, relative=0.5, latency_ms=200.0)
    assert found.state == "broken"
    assert found.note.endswith("more than 2 times as slow as the margin allows for 11")
    assert first("latency_ms", 8, relative=0.5, latency_ms=200.0).state == "open"
    assert first("latency_ms", 25, relative=0.5, latency_ms=35.0).state == "open"


def test_one_user_who_fails_often_is_one_user(some_users):
    """Requests of a user are not independent: a thousand failures of one prove nothing."""
    rng = np.random.default_rng(4)
    control, treatment = some_users(rng, 8), some_users(rng, 8, "new")
    treatment.loc[0, ["requests", "errors", "first_error"]] = 1000, 1000, True
    found = guard(
        control, treatment, METRICS["error_rate"], "new", relative=None, absolute=0.01,
        alpha=0.025, planned=2000,
    )  # fmt: skip
    assert found.state == "open"
