"""Lists of many users at once are those that each would be given alone."""

import numpy as np
import pytest

from hymirec import batch
from hymirec.batch import LISTS_SCHEMA, recommend_many
from hymirec.errors import VersionError


def rows(package, histories, k, **settings):
    """Per user: items with their interests, scores, and which way they were found."""
    lists = recommend_many(package, histories, k, **settings)
    users = [f"user {place}" for place in range(len(histories))]
    table = lists.table(users, package.items["item_id"].to_numpy(dtype=object))
    assert table.schema == LISTS_SCHEMA
    assert table["user_id"].to_pylist() == users
    return table.to_pylist()


@pytest.mark.parametrize("at_once", [1, 2**24])
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_a_batch_is_each_user_alone(
    k, exclude_seen, at_once, package, some_histories, make_history, monkeypatch
):
    monkeypatch.setattr(batch, "SCORES_AT_ONCE", at_once)
    everything, unknown = make_history(list(range(1, 41))), make_history([41, 77])
    histories = [None, *some_histories(), unknown, everything, make_history([]), make_history([3])]
    for history, row in zip(
        histories, rows(package, histories, k, exclude_seen=exclude_seen), strict=True
    ):
        found, served_by = package.recommend(history, k, exclude_seen=exclude_seen)
        assert row["served_by"] == served_by
        assert row["item_id"] == [one.item_id for one in found]
        assert row["interest"] == [one.interest for one in found]
        assert row["score"] == pytest.approx([one.score for one in found], abs=1e-6)


def test_nobody_is_answered_with_nothing(package):
    assert rows(package, [], 10) == []


def test_items_of_one_score_stand_in_the_order_of_the_catalogue(package, make_history, monkeypatch):
    vectors = package.model.item_vectors()
    twins = vectors.clone()
    twins[10:20] = vectors[7]
    monkeypatch.setattr(package.model, "item_vectors", lambda: twins)
    (row,) = rows(package, [make_history([1, 2])], 40)
    places = [row["item_id"].index(f"item {number}") for number in [7, *range(10, 20)]]
    assert places == list(range(places[0], places[0] + 11))
    assert np.diff(row["score"]).max() <= 0


def test_codes_of_another_codebook_are_refused(package, make_history):
    with pytest.raises(VersionError, match="codebook 0123456789ab, this model reads codebook"):
        recommend_many(package, [make_history([1], codebook_id="0123456789ab")], 5)
