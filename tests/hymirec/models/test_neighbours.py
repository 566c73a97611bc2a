"""Neighbour models, by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from hymirec.inputs import IndexedHistory
from hymirec.models.base import TrainingData
from hymirec.models.cooccurrence import CoOccurrenceConfig, CoOccurrenceRecommender
from hymirec.models.neighbours import LastItemConfig, LastItemNeighbours


def history(*items):
    return IndexedHistory.of(np.array(items, np.int64))


def score(model, *items):
    return model.score(model.assemble([history(*items)]))[0].tolist()


@pytest.fixture
def data(tmp_path):
    items = pd.DataFrame({"item_id": list("abcd"), "title": list("abcd")})
    return TrainingData(items, [history(1, 2, 2, 3), history(1, 2), history(2)], tmp_path)


def test_cooccurrence_is_the_cosine_of_the_sets_of_users(data):
    model = CoOccurrenceRecommender.build(data, CoOccurrenceConfig(shrinkage=0, decay=1))
    # Users of item 1: two; of 2: three; of 3: one; of 4: none. Both 1 and 2: two.
    both = {(1, 2): 2 / 6**0.5, (1, 3): 1 / 2**0.5, (2, 3): 1 / 3**0.5}
    assert score(model, 1) == pytest.approx([0, 0, both[1, 2], both[1, 3], 0])
    assert score(model, 1, 2) == pytest.approx(
        [0, both[1, 2], both[1, 2], both[1, 3] + both[2, 3], 0]
    )
    assert score(model, 4) == [0] * 5


def test_older_events_weigh_less_and_rare_pairs_shrink(data):
    model = CoOccurrenceRecommender.build(data, CoOccurrenceConfig(shrinkage=2, decay=0.5))
    one_two = 2 / (6**0.5 + 2)
    assert score(model, 1, 4)[2] == pytest.approx(one_two / 2)
    assert score(model, 1)[2] == pytest.approx(one_two)


def test_only_the_strongest_neighbours_are_kept(data):
    model = CoOccurrenceRecommender.build(data, CoOccurrenceConfig(num_neighbours=1, shrinkage=0))
    assert score(model, 1)[3] == 0
    assert score(model, 1)[2] > 0


def test_what_followed_sooner_counts_more(data):
    model = LastItemNeighbours.build(data, LastItemConfig(max_distance=2))
    # After 1 came 2 at once, twice, and once two later; after 2, itself apart, 3 at one and two.
    assert score(model, 1) == pytest.approx([0, 0, 2.5, 0, 0])
    assert score(model, 2) == pytest.approx([0, 0, 0, 1.5, 0])
    assert score(model, 3) == [0] * 5


def test_only_the_last_item_is_read(data):
    model = LastItemNeighbours.build(data, LastItemConfig())
    assert score(model, 3, 1) == score(model, 1)


def test_many_items_are_counted_block_by_block(data, monkeypatch):
    whole = [
        CoOccurrenceRecommender.build(data, CoOccurrenceConfig()),
        LastItemNeighbours.build(data, LastItemConfig()),
    ]
    monkeypatch.setattr("hymirec.models.neighbours.NUMBERS_AT_ONCE", 11)  # two rows of five
    parts = [
        CoOccurrenceRecommender.build(data, CoOccurrenceConfig()),
        LastItemNeighbours.build(data, LastItemConfig()),
    ]
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.neighbours, other.neighbours)
        assert torch.equal(one.weights, other.weights)
