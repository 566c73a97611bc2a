"""Lists of unlike items, and filters that hold before the cut."""

import numpy as np
import pytest

from hymirec import retrieval
from hymirec.lookup import ItemLookup
from hymirec.query import Filters, Query
from hymirec.reranking import rerank
from hymirec.retrieval import Hit, ItemIndex


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


HITS = [Hit(1, 0.9, 0), Hit(2, 0.8, 0), Hit(3, 0.7, 1), Hit(4, 0.6, 1)]
VECTORS = unit([[1, 0], [1, 0.1], [0, 1], [1, -0.1]])


def items(hits):
    return [hit.item for hit in hits]


def test_without_diversity_the_order_stays():
    assert items(rerank(HITS, VECTORS, 3)) == [1, 2, 3]
    assert items(rerank(HITS, VECTORS, 9)) == [1, 2, 3, 4]
    assert rerank([], VECTORS[:0], 3) == []


def test_an_item_like_one_above_it_gives_way():
    # 0.5 · 0.8 − 0.5 · 0.995 < 0.5 · 0.7 − 0.5 · 0
    assert items(rerank(HITS, VECTORS, 2, diversity=0.5)) == [1, 3]
    assert items(rerank(HITS, VECTORS, 4, diversity=0.5)) == [1, 3, 2, 4]


def test_it_is_maximal_marginal_relevance():
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((30, 4)))
    scores = np.sort(rng.random(30))[::-1].tolist()
    hits = [Hit(place, score, 0) for place, score in enumerate(scores)]
    for diversity in (0.1, 0.5, 0.9, 1.0):
        chosen, left = [hits[0]], hits[1:]
        while len(chosen) < 10:
            best = max(
                left,
                key=lambda hit: (
                    (1 - diversity) * hit.score
                    - diversity
                    * max(float(vectors[hit.item] @ vectors[one.item]) for one in chosen)
                ),
            )
            chosen.append(best)
            left.remove(best)
        assert rerank(hits, vectors, 10, diversity=diversity) == chosen


def test_no_category_has_more_than_its_share():
    categories = [("a",), ("a", "b"), ("b",), ()]
    found = rerank(HITS, VECTORS, 4, categories=categories, max_per_category=1)
    assert items(found) == [1, 3, 4]  # what has no category is never too much
    found = rerank(HITS, VECTORS, 4, categories=categories, max_per_category=2)
    assert items(found) == [1, 2, 3, 4]
    twice = [("a", "a"), ("a",), ("a",), ("a",)]
    assert items(rerank(HITS, VECTORS, 4, categories=twice, max_per_category=2)) == [1, 2]


@pytest.fixture
def lookup():
    return ItemLookup(
        index={"x": 1, "y": 2, "z": 3},
        item_ids=["x", "y", "z"],
        titles=["X", "Y", "Z"],
        categories=[("Drama",), ("Drama", "War"), ()],
        by_popularity=np.array([2, 1, 3]),
        _items_of={"drama": np.array([1, 2]), "war": np.array([2])},
    )


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        ({"categories": ["DRAMA"]}, [1, 2]),
        ({"categories": ["war", "no such"]}, [2]),
        ({"categories": ["no such"]}, []),
        ({"exclude_categories": ["War"]}, [1, 3]),
        ({"exclude_items": ["x", "unknown"]}, [2, 3]),
        ({"available_items": ["z", "unknown"]}, [3]),
        ({"available_items": []}, []),
        ({"categories": ["drama"], "available_items": ["y", "z"], "exclude_items": ["z"]}, [2]),
    ],
)
def test_filters_say_what_may_be_listed(lookup, filters, passing):
    allowed = lookup.allowed(Filters(**filters))
    assert np.flatnonzero(allowed).tolist() == passing


def test_no_filter_is_no_mask(lookup):
    assert lookup.allowed(Filters()) is None


@pytest.mark.parametrize("k", [3.0, 3])
def test_a_whole_number_is_an_integer_however_it_is_written(k):
    assert Query.model_validate({"k": k}).k == 3
    for wrong in (3.5, True, "3", None):
        with pytest.raises(ValueError, match="k"):
            Query.model_validate({"k": wrong})


# A catalogue that is cut into cells


@pytest.fixture
def cells(monkeypatch):
    """4,000 items in 60 topics, and the index of them."""
    monkeypatch.setattr(retrieval, "MOST_EXACT", 500)
    rng = np.random.default_rng(0)
    topics = unit(rng.standard_normal((60, 16)))
    vectors = unit(topics[rng.integers(0, 60, 4001)] + 0.15 * rng.standard_normal((4001, 16)))
    vectors[0] = 0
    return vectors, ItemIndex.build(vectors), rng


def exact(vectors, interests, k, excluded=(), allowed=None):
    best = (vectors @ interests.T).max(axis=1)
    best[0] = -np.inf
    best[list(excluded)] = -np.inf
    if allowed is not None:
        best[~allowed] = -np.inf
    order = (-best).argsort(kind="stable")[:k].tolist()
    return [item for item in order if best[item] > -np.inf]


def test_cells_find_nearly_all_of_the_nearest(cells):
    vectors, index, rng = cells
    assert index.faiss_index.nprobe < index.faiss_index.nlist
    shared = 0
    for _ in range(50):
        interests = unit(vectors[rng.integers(1, 4001, 2)] + 0.1 * rng.standard_normal((2, 16)))
        seen = rng.integers(1, 4001, 20)
        found = items(index.search(interests, 20, excluded=seen))
        assert not set(found) & set(seen.tolist())
        shared += len(set(found) & set(exact(vectors, interests, 20, seen)))
    assert shared >= 0.98 * 50 * 20


def test_what_filters_leave_is_found_whole(cells):
    vectors, index, rng = cells
    interests = vectors[[1, 2]]
    for some in (5, 300, 3900):
        allowed = np.zeros(4001, dtype=bool)
        allowed[rng.permutation(4000)[:some] + 1] = True
        found = items(index.search(interests, 50, allowed=allowed))
        assert len(found) == min(50, some)
        assert allowed[found].all()
    every = items(index.search(interests, 4000))
    assert sorted(every) == list(range(1, 4001))


def test_items_that_change_and_come_are_found_where_they_are_now(cells):
    vectors, index, rng = cells
    new = unit(rng.standard_normal((3, 16)))
    after = np.concatenate([vectors, new[1:]])
    after[7] = new[0]
    updated = index.updated(after, [7])
    assert updated.num_items == 4002
    for item, vector in zip((7, 4001, 4002), new, strict=True):
        assert updated.search(vector[None], 1)[0][:2] == (item, pytest.approx(1.0, abs=1e-5))
    assert index.num_items == 4000
    assert index.search(vectors[[7]], 1)[0].item == 7
