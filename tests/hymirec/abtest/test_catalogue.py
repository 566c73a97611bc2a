import numpy as np
import pytest
from scipy.sparse import csr_array

from hymirec.abtest.catalogue import NewItems, compare_items

ITEMS, USERS = 200, 150


def shown(rng, reach, users=USERS):
    """Ten items for each user out of the first `reach`."""
    table = np.zeros((users, ITEMS))
    for row in table:
        row[rng.choice(reach, 10, replace=False)] = 1
    return csr_array(table)


def by_name(estimates):
    return {one.metric: one for one in estimates}


def test_a_variant_that_reaches_more_of_the_catalogue_covers_more():
    rng = np.random.default_rng(0)
    found = by_name(compare_items(shown(rng, 100), shown(rng, 180), "new", new=None))["coverage"]
    assert (found.control, found.treatment) == (pytest.approx(0.5), pytest.approx(0.9, abs=0.01))
    assert found.interval[0] > 0.3


def test_more_users_are_no_more_coverage():
    rng = np.random.default_rng(1)
    found = by_name(compare_items(shown(rng, 200, 20), shown(rng, 200, 400), "new", new=None))
    low, high = found["coverage"].interval
    assert low < 0 < high


def test_new_items_that_become_known():
    rng = np.random.default_rng(2)
    control, treatment = shown(rng, 100), shown(rng, 200)
    new = NewItems(np.arange(ITEMS) >= 150, needed=3, publisher=np.arange(ITEMS) // 10)
    found = by_name(compare_items(control, treatment, "new", new=new))
    assert found["item_cold_start"].control == 0
    assert found["item_cold_start"].treatment > 0.8
    assert found["active_publishers"].treatment == 5
    assert found["item_cold_start"].interval[0] > 0.5


def test_nothing_of_nobody():
    rng = np.random.default_rng(3)
    assert compare_items(shown(rng, 100, 0), shown(rng, 100), "new", new=None) == []
    one = compare_items(shown(rng, 100), shown(rng, 100), "new",
                        new=NewItems(np.zeros(ITEMS, dtype=bool), needed=3))  # fmt: skip
    assert [found.metric for found in one] == ["coverage"]
