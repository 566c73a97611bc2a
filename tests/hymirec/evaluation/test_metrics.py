"""Ranks and metrics with fractions worked out by hand, and the protocol that asks for them."""

import math

import pytest
import torch

from hymirec.evaluation.metrics import ndcg_at, rank_of_target, recall_at, summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.inputs import IndexedHistory
from hymirec.models.base import Recommender
from hymirec.models.popularity import PopularityRecommender
from hymirec.splits import Case


def rank(scores, target, excluded=()):
    """Rank among items 1.. of the given scores, column 0 being padding."""
    row = torch.tensor([[99.0, *scores]])
    row[0, list(excluded)] = -math.inf
    return rank_of_target(row, torch.tensor([target])).item()


def rank_slowly(scores, target, excluded):
    """Mean rank of the target over the orders in which equal items may stand."""
    if target in excluded:
        return math.inf
    listed = [item for item in range(1, len(scores)) if item not in excluded]
    above = sum(scores[item] > scores[target] for item in listed)
    equal = sum(scores[item] == scores[target] for item in listed)
    return sum(above + place for place in range(1, equal + 1)) / equal


@pytest.mark.parametrize(
    ("scores", "target", "excluded", "expected"),
    [
        ([3.0, 1.0, 2.0], 1, (), 1),
        ([3.0, 1.0, 2.0], 3, (), 2),
        ([3.0, 1.0, 2.0], 2, (), 3),
        ([2.0, 2.0, 1.0], 1, (), 3 / 2),  # first or second
        ([2.0, 2.0, 2.0, 2.0], 3, (), 5 / 2),  # anywhere of four
        ([9.0, 2.0, 2.0, 2.0], 3, (), 3),
        ([9.0, 2.0, 2.0, 8.0], 3, (1, 4), 3 / 2),
        ([9.0, 2.0, 1.0], 3, (1, 2), 1),
        ([9.0, 2.0, 1.0], 1, (1,), math.inf),
        ([-1.0, -2.0], 2, (), 2),
        ([5.0], 1, (), 1),
    ],
)
def test_rank_by_hand(scores, target, excluded, expected):
    assert rank(scores, target, excluded) == expected


def test_ranks_are_those_of_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (200, 9), generator=generator).float()
    excluded = torch.rand(200, 9, generator=generator) < 0.3
    targets = torch.randint(1, 9, (200,), generator=generator)
    found = rank_of_target(scores.masked_fill(excluded, -math.inf), targets)
    for row in range(200):
        barred = set(excluded[row].nonzero()[:, 0].tolist())
        assert found[row] == rank_slowly(scores[row].tolist(), int(targets[row]), barred)


def test_scores_that_are_no_numbers_earn_nothing():
    assert rank([math.nan, math.nan, math.nan], 2) == math.inf
    assert rank([1.0, math.nan, 3.0], 2) == math.inf
    assert rank([1.0, math.nan, 3.0], 1) == 2
    assert summarise(torch.tensor([rank([math.nan] * 3, 1)]), (10,)) == {"R@10": 0, "N@10": 0}


def test_recall_and_ndcg_by_hand():
    ranks = torch.tensor([1.0, 2.0, 2.5, 3.0, 4.0, math.inf])
    assert recall_at(ranks, 3).tolist() == [1, 1, 1, 1, 0, 0]
    assert recall_at(ranks, 2).tolist() == [1, 1, 0, 0, 0, 0]
    expected = [1, 1 / math.log2(3), 1 / math.log2(7 / 2), 1 / 2, 0, 0]
    assert ndcg_at(ranks, 3).tolist() == pytest.approx(expected)


def test_summary_is_the_mean_over_users():
    table = summarise(torch.tensor([1.0, 3.0, 7.0, math.inf]), (1, 3, 10))
    assert table == pytest.approx(
        {
            "R@1": 1 / 4,
            "R@3": 2 / 4,
            "R@10": 3 / 4,
            "N@1": 1 / 4,
            "N@3": (1 + 1 / 2) / 4,
            "N@10": (1 + 1 / 2 + 1 / 3) / 4,
        }
    )


def test_cutoffs_beyond_the_catalogue_count_every_item_that_can_be_listed():
    ranks = torch.tensor([rank([3.0, 2.0, 1.0], 3), rank([3.0, 2.0, 1.0], 1, (1,))])
    assert summarise(ranks, (200,)) == pytest.approx({"R@200": 1 / 2, "N@200": 1 / 4})


class Favourite(Recommender):
    """Scores the item after the last one known best, then on around the catalogue."""

    max_history = 2
    num_recent = 1

    def __init__(self, num_items):
        super().__init__()
        self.num_items = num_items
        self.modes = []

    def score(self, inputs):
        self.modes.append(self.training)
        assert inputs["recent_items"].shape[1] == 1
        assert inputs["history_codes"].shape[1] <= 2
        last = inputs["recent_items"][:, 0]
        items = torch.arange(self.num_items + 1)
        return -((items - last[:, None] - 1) % self.num_items).float()


def case(known, target):
    items = torch.tensor(known, dtype=torch.int64).numpy()
    return Case(IndexedHistory.of(items, items[:, None].astype("uint8")), target)


CASES = [
    case([1, 2, 3], 4),  # the favourite
    case([5], 2),  # after 6, 1 (of 6 items): third
    case([6, 5, 4, 1], 2),
    case([2, 4, 6, 1, 3], 5),  # after 4, which was seen
    case([3, 2], 3),  # seen before
]


def test_protocol_ranks_unseen_items_in_the_order_of_the_cases():
    expected = [1, 3, 1, 1, math.inf]
    assert rank_cases(Favourite(6), CASES).tolist() == expected
    assert rank_cases(Favourite(6), CASES, batch_size=1).tolist() == expected
    assert rank_cases(Favourite(6), CASES, batch_size=2).tolist() == expected
    assert rank_cases(Favourite(6), CASES[::-1], batch_size=2).tolist() == expected[::-1]


def test_protocol_may_keep_seen_items():
    assert rank_cases(Favourite(6), CASES, exclude_seen=False).tolist() == [1, 3, 1, 2, 1]


@pytest.mark.parametrize("training", [True, False])
def test_protocol_asks_in_evaluation_mode_and_restores_the_mode(training):
    model = Favourite(6).train(training)
    rank_cases(model, CASES, batch_size=2)
    assert model.modes == [False] * 3
    assert model.training is training


def test_protocol_of_popularity_by_hand():
    model = PopularityRecommender(torch.tensor([50, 5, 3, 3, 9]))
    cases = [case([1], 4), case([4], 2), case([4, 1], 3), case([2, 3], 1)]
    # Best first: 4, 1, then 2 and 3 alike.
    assert rank_cases(model, cases).tolist() == [1, 5 / 2, 3 / 2, 2]
