import random
from collections import Counter

import numpy as np
import pytest

from hymirec.abtest.analysis import estimate
from hymirec.abtest.interleaving import CONTROL, TREATMENT, preference, team_draft
from hymirec.abtest.metrics import METRICS

LEFT = list("abcdefghij")
RIGHT = list("cxaybzdwev")


def test_every_item_comes_once_and_from_the_team_that_picked_it():
    for seed in range(200):
        drafted = team_draft(LEFT, RIGHT, 10, random.Random(seed))
        items = [item for item, _ in drafted]
        assert len(items) == len(set(items)) == 10
        for item, team in drafted:
            assert item in (LEFT, RIGHT)[team]
        teams = Counter(team for _, team in drafted)
        assert teams[CONTROL] == teams[TREATMENT] == 5
        # Whatever is drafted, each team's picks are in that team's own order.
        for team, ranked in ((CONTROL, LEFT), (TREATMENT, RIGHT)):
            picks = [ranked.index(item) for item, which in drafted if which == team]
            assert picks == sorted(picks)


def test_no_team_comes_first_more_often():
    first = Counter(team_draft(LEFT, RIGHT, 4, random.Random(seed))[0][1] for seed in range(2000))
    assert first[CONTROL] == pytest.approx(1000, abs=100)


def test_short_lists_and_odd_lengths():
    rng = random.Random(0)
    assert team_draft([], [], 5, rng) == []
    assert team_draft(["a"], [], 5, rng) == [("a", CONTROL)]
    assert team_draft([], ["a", "b"], 5, rng) == [("a", TREATMENT), ("b", TREATMENT)]
    assert len(team_draft(LEFT, RIGHT, 3, rng)) == 3
    assert len(team_draft(LEFT, LEFT, 100, rng)) == 10
    assert team_draft(LEFT, RIGHT, 0, rng) == []


def test_preference_says_which():
    rng = np.random.default_rng(0)
    control, treatment = rng.poisson(1.0, 500).astype(float), rng.poisson(1.6, 500).astype(float)
    found = preference(control, treatment, alpha=0.05, planned=500)
    assert found.num_users == ((control + treatment) > 0).sum()
    assert found.interval[0] > 0
    assert found.p_value < 0.05
    turned = preference(treatment, control, alpha=0.05, planned=500)
    assert turned.preference == pytest.approx(-found.preference)
    assert turned.wins == found.wins[::-1]
    assert preference(control[:20], treatment[:20], alpha=0.05, planned=500) is None
    assert preference(np.zeros(99), np.zeros(99), alpha=0.05, planned=500) is None


def test_equal_versions_are_preferred_at_most_as_often_as_allowed():
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(400):
        clicks = rng.poisson(rng.gamma(1.0, 1.0, (2, 600)))
        teams = rng.binomial(clicks, 0.5)
        control, treatment = teams.sum(axis=0), (clicks - teams).sum(axis=0)
        alarms += any(
            found is not None and found.p_value < 0.05
            for found in (
                preference(control[:n].astype(float), treatment[:n].astype(float),
                           alpha=0.05, planned=600)
                for n in (100, 200, 400, 600)
            )
        )  # fmt: skip
    assert alarms / 400 <= 0.05


CATALOGUE, POSITIONS = 300, 10


def lists_of(rng, appeal, noise):
    """Two rankings by what a user likes, the second seen through less noise."""
    return [
        np.argsort(-(appeal + rng.normal(0, level, CATALOGUE)))[:POSITIONS].tolist()
        for level in noise
    ]


def clicks_on(rng, appeal, items, scale):
    """Attention falls with the position; who is active clicks more of what he likes."""
    attention = 1 / np.log2(np.arange(len(items)) + 2)
    chance = scale * attention * np.exp(appeal[items]) / 40
    return rng.random(len(items)) < np.minimum(chance, 1)


def users_needed(rng, kind, step=50, most=40_000):
    """How many users it takes until the better ranking is surely better."""
    import pandas as pd

    noise = (1.0, 0.75)
    sides = [[], []]
    for user in range(most):
        appeal = rng.normal(0, 1, CATALOGUE)
        scale = rng.gamma(0.7, 1 / 0.7)
        lists = lists_of(rng, appeal, noise)
        if kind == "interleaving":
            drafted = team_draft(*lists, POSITIONS, random.Random(user))
            clicked = clicks_on(rng, appeal, [item for item, _ in drafted], scale)
            teams = np.array([team for _, team in drafted])
            for team, side in zip((CONTROL, TREATMENT), sides, strict=True):
                side.append(clicked[teams == team].sum())
        else:
            which = user % 2
            sides[which].append(clicks_on(rng, appeal, lists[which], scale).sum())
        if user % step or user < 200:
            continue
        if kind == "interleaving":
            found = preference(*(np.array(side, dtype=float) for side in sides),
                               alpha=0.05, planned=500)  # fmt: skip
        else:
            tables = [pd.DataFrame({"clicks": side, "clicks_before": 0}) for side in sides]
            found = estimate(*tables, METRICS["clicks_per_user"], "new", alpha=0.05, planned=10_000)
        if found is not None and found.p_value < 0.05:
            assert (found.preference if kind == "interleaving" else found.difference) > 0
            return user
    return most


@pytest.mark.slow
def test_the_same_is_found_with_a_fifth_of_the_users():
    needed = {
        kind: np.median([users_needed(np.random.default_rng(seed), kind) for seed in range(5)])
        for kind in ("interleaving", "ab")
    }
    assert needed["ab"] >= 5 * needed["interleaving"]
