"""The share of exact lists that an index finds."""

import numpy as np
import torch

from hymirec.evaluation.retrieval import index_recall
from hymirec.inputs import IndexedHistory
from hymirec.models.base import InterestRecommender
from hymirec.retrieval import ItemIndex
from hymirec.splits import Case


class OneInterest(InterestRecommender):
    """Everybody likes the first axis."""

    max_history = num_recent = 1

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def encode_user(self, inputs):
        return torch.tensor([[[1.0, 0.0]]])

    def item_vectors(self):
        return self.vectors


def angle(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees))
    return torch.cat([torch.zeros(1, 2), torch.stack([radians.cos(), radians.sin()], dim=1)])


CASE = Case(IndexedHistory.of(np.array([1])), 2)


def test_an_exact_index_finds_everything():
    vectors = angle(0.0, 10.0, 20.0, 30.0)
    model = OneInterest(vectors)
    assert index_recall(model, ItemIndex.build(vectors.numpy()), [CASE], k=2) == 1


def test_what_another_order_lists_is_found_in_part():
    model = OneInterest(angle(0.0, 10.0, 20.0, 30.0))
    # Item 1 is seen; exact: 2 and 3. This index has 2 and 4 in front.
    other = ItemIndex.build(angle(0.0, 10.0, 80.0, 30.0).numpy())
    assert index_recall(model, other, [CASE], k=2) == 0.5


def test_a_tie_may_go_either_way():
    model = OneInterest(angle(0.0, 10.0, 10.0, 30.0))
    other = ItemIndex.build(angle(0.0, 80.0, 10.0, 30.0).numpy())
    assert index_recall(model, other, [CASE], k=1) == 1
