"""Measures of cold items, of windows and of planted interests, on models made by hand."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from hymirec.evaluation.recovery import interest_topics, recovery
from hymirec.inputs import IndexedHistory
from hymirec.models.base import InterestRecommender
from hymirec.splits import ColdItemSplit

ITEM_TOPICS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])  # of items 1 to 9


class TopicModel(InterestRecommender):
    """Items lie on the axis of their topic, the first of a topic nearest to it."""

    num_recent = 2
    max_history = 1

    def __init__(self, about):
        super().__init__()
        self.about = torch.tensor(about)  # [U, S] topics

    def item_vectors(self):
        nearness = torch.tensor([0.0, *[1.0, 0.9, 0.8] * 3])[:, None]
        topics = torch.from_numpy(np.append(0, ITEM_TOPICS))
        return one_hot(topics, 4).float() * nearness

    def encode_user(self, inputs):
        return one_hot(self.about, 4).float()


def history(*items):
    return IndexedHistory.of(np.array(items, dtype=np.int64), np.zeros((len(items), 1), np.uint8))


def test_topics_of_the_items_nearest_to_each_interest():
    model = TopicModel([[2, 0], [1, 1]])
    found = interest_topics(model, [history(1), history(2)], ITEM_TOPICS, k=3)
    assert found.tolist() == [[[2, 2, 2], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]]


def test_recovery_by_hand():
    model = TopicModel([[2, 0], [1, 1]])
    # User 0 follows 0 and 2, its last two items are of 1 and 2; user 1 follows 0, 1 and 2, of
    # which its last two items show only 0.
    histories = [history(1, 4, 7), history(4, 7, 1, 2)]
    planted = [{0, 2}, {0, 1, 2}]
    found = recovery(model, histories, planted, ITEM_TOPICS, k=3)
    assert found == pytest.approx(
        {
            "purity": 1.0,
            "precision": 1.0,
            # Topics 0 and 2 are planted in both users, topic 1 in one of two.
            "precision_by_chance": (1 + 1 + 0.5 + 0.5) / 4,
            "recall": (2 / 2 + 1 / 3) / 2,
            "several": 0.5,
            # Older: topic 0 of user 0, found; topics 1 and 2 of user 1, of which 1 is found.
            "recall_of_older": 2 / 3,
        }
    )


def test_no_older_topic_gives_no_number():
    found = recovery(TopicModel([[0, 0]]), [history(1, 4)], [{0, 1}], ITEM_TOPICS, k=3)
    assert np.isnan(found["recall_of_older"])


def test_cold_items_leave_training_and_are_asked_about_once_a_user():
    cold = np.array([False, False, True, False, True])
    histories = [history(1, 2, 3, 4, 1), history(2, 1), history(3, 1)]
    split = ColdItemSplit(histories, cold)
    assert [one.items.tolist() for one in split.training] == [[1, 3, 1], [1], [3, 1]]
    # Nothing is known before user 1's only cold item; user 2 has none.
    assert [(case.known.items.tolist(), case.target) for case in split.test] == [([1, 3], 4)]


def test_cold_items_are_drawn_by_seed_and_never_padding():
    draws = [ColdItemSplit.draw([], 1000, share=0.1, seed=seed).cold for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not any(cold[0] for cold in draws)
    assert 70 < draws[0].sum() < 130
