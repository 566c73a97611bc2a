"""Measures of lists, by hand."""

import numpy as np
import pandas as pd
import pytest

from hymirec.evaluation.lists import item_categories, item_words, list_measures
from hymirec.inputs import IndexedHistory

ITEMS = pd.DataFrame(
    {
        "item_id": list("abcd"),
        "title": ["red river", "red river", "blue moon", None],
        "genres": ["War, Drama", "war", "Comedy|Drama", ""],
    }
)


def history(*items):
    return IndexedHistory.of(np.array(items, np.int64))


def measure(lists, histories, occurrences=(0, 8, 4, 2, 0)):
    return list_measures(
        np.array(lists), histories, np.array(occurrences), item_words(ITEMS), item_categories(ITEMS)
    )


def test_categories_share_an_item():
    table = item_categories(ITEMS.assign(note="long text that says something " + ITEMS.item_id))
    # Columns in order of name: comedy, drama, war.
    assert table.toarray().tolist() == [
        [0, 0, 0], [0, 0.5, 0.5], [0, 0, 1], [0.5, 0.5, 0], [0, 0, 0],
    ]  # fmt: skip


def test_a_catalogue_without_categories_has_no_calibration():
    plain = ITEMS.drop(columns="genres")
    assert item_categories(plain) is None
    lists, occurrences = np.array([[1]]), np.array([0, 1, 1, 1, 1])
    found = list_measures(lists, [history(2)], occurrences, item_words(plain), None)
    assert "calibration" not in found


def test_words_have_unit_length_and_alike_texts_are_one():
    words = item_words(ITEMS.drop(columns="genres")).toarray()
    assert not words[0].any()
    assert not words[4].any()
    assert np.linalg.norm(words[1:4], axis=1) == pytest.approx([1, 1, 1])
    assert words[1] @ words[2] == pytest.approx(1)
    assert words[1] @ words[3] == 0


def test_coverage_short_lists_and_repeats():
    found = measure([[1, 2], [1, 0], [3, 3]], [history(1)] * 3)
    assert found["coverage"] == 3 / 4
    assert found["short_lists"] == pytest.approx(1 / 3)
    assert found["repeats"] == pytest.approx(1 / 3)


def test_novelty_in_bits():
    # Counts and one each: 9, 5, 3, 1 of 18.
    found = measure([[1, 4]], [history(1)])
    assert found["novelty"] == pytest.approx((np.log2(18 / 9) + np.log2(18)) / 2)


def test_popularity_lift():
    # Listed 8 and 4, had 2 and 4: twice the mean; the list without items does not count.
    assert measure([[1, 2], [0, 0]], [history(3, 2), history(1)])["popularity_lift"] == 1


def test_diversity_is_that_of_pairs():
    assert measure([[1, 2]], [history(1)])["diversity"] == pytest.approx(
        1 - (item_words(ITEMS)[[1]] @ item_words(ITEMS)[[2]].T).toarray().item()
    )
    assert measure([[1, 4]], [history(1)])["diversity"] == 1  # nothing is known of the fourth


def test_calibration_is_zero_for_the_same_mix_and_by_hand_for_another():
    assert measure([[1]], [history(1, 1)])["calibration"] == pytest.approx(0)
    # Had war alone; listed half comedy, half drama: all but the smoothing is missing.
    assert measure([[3]], [history(2)])["calibration"] == pytest.approx(np.log(1 / 0.01))
