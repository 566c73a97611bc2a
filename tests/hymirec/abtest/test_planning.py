import math

import numpy as np
import pytest

from hymirec.abtest.planning import plan
from hymirec.abtest.sequential import half_width, mixing


def test_users_at_one_look_are_those_of_statsmodels():
    # statsmodels 0.15.0: NormalIndPower().solve_power(0.05 * 0.1 / 0.3, alpha=0.05, power=0.8).
    found = plan(0.1, 0.3, 0.05).users_at_one_look
    assert found == pytest.approx(math.ceil(56511.79566715043), abs=1)


def test_looking_all_the_time_costs_users():
    found = plan(0.1, 0.3, 0.05, users_per_day=10_000)
    assert 1.5 < found.users_per_variant / found.users_at_one_look < 2.5
    assert found.days == pytest.approx(2 * found.users_per_variant / 10_000, rel=1e-4)
    assert plan(0.1, 0.3, 0.05).days is None


@pytest.mark.parametrize(
    ("users_per_day", "ends"), [(None, "variant"), (100, " days"), (1e9, ", less than a day")]
)
def test_how_long_it_takes_is_said_as_far_as_it_is_known(an_experiment, users_per_day, ends):
    needs = plan(0.1, 0.3, 0.05, users_per_day=users_per_day).needs(an_experiment())
    assert needs.startswith("to see 5.0% in click_through it needs ")
    assert needs.endswith(ends)


def test_smaller_effects_and_more_power_need_more():
    base = plan(0.1, 0.3, 0.05).users_per_variant
    assert plan(0.1, 0.3, 0.1).users_per_variant == pytest.approx(base / 4, rel=0.01)
    assert plan(0.1, 0.3, 0.05, power=0.9).users_per_variant > base
    assert plan(-0.1, 0.3, -0.05).users_per_variant == base


def test_the_power_is_what_was_planned_for():
    """With the users planned, an effect of the planned size is seen at the last look alone."""
    needed = plan(1.0, 2.0, 0.2)
    rng = np.random.default_rng(0)
    error = math.sqrt(2 * 4.0 / needed.users_per_variant)
    z = (0.2 + rng.normal(0, error, 4000)) / error
    users = 2 * needed.users_per_variant
    width = half_width(users, mixing(users, 0.05), 0.05)
    assert (z > width).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 0.1), (1.0, 0.0, 0.1), (1.0, 1.0, 0.0)])
def test_nothing_can_be_planned_of_nothing(arguments):
    with pytest.raises(ValueError, match="a plan needs"):
        plan(*arguments)
