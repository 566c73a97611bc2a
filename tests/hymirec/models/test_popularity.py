"""Popularity."""

import torch

from hymirec.models.popularity import PopularityRecommender


def test_popularity_scores_by_count():
    model = PopularityRecommender(torch.tensor([7, 0, 3, 1]))
    scores = model.score({"recent_length": torch.tensor([0, 5])})
    assert scores.tolist() == [[7, 0, 3, 1]] * 2
