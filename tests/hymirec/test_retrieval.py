"""Search against brute force, and the package that answers for a trained model."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hymirec.codebook import ResidualCodebook
from hymirec.errors import VersionError
from hymirec.inputs import index_history
from hymirec.package import RecommenderPackage
from hymirec.retrieval import ItemIndex
from hymirec.tensors import assemble

NUM_ITEMS = 40
ITEM_IDS = [f"item {number}" for number in range(1, NUM_ITEMS + 1)]


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1).numpy()


def search_slowly(vectors, interests, k, excluded=()):
    """Every item by its best cosine; the item, the cosine and the interest that has it."""
    found = []
    for item in range(1, len(vectors)):
        if item in excluded:
            continue
        cosines = [float(vectors[item] @ interest) for interest in interests]
        found.append((item, max(cosines), cosines.index(max(cosines))))
    return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k]


def assert_same_hits(hits, expected):
    assert [(hit.item, hit.interest) for hit in hits] == [(item, i) for item, _, i in expected]
    assert [hit.score for hit in hits] == pytest.approx([s for _, s, _ in expected], abs=1e-6)


# Search


@pytest.mark.parametrize("num_interests", [1, 2, 4])
@pytest.mark.parametrize("k", [1, 10, 60, 1000])
def test_search_is_brute_force(num_interests, k):
    vectors = unit(61, 8)
    vectors[0] = 0
    index = ItemIndex.build(vectors)
    assert index.num_items == 60
    rng = np.random.default_rng(0)
    for seed in range(20):
        interests = unit(num_interests, 8, seed=seed + 1)
        excluded = rng.integers(1, 61, rng.integers(0, 59)).tolist()  # with repetitions
        for barred in ((), excluded):
            hits = index.search(interests, k, excluded=barred)
            assert_same_hits(hits, search_slowly(vectors, interests, k, barred))
            assert len(hits) == min(k, 60 - len(set(barred)))


def test_padding_is_never_found_though_every_item_is_opposite():
    vectors = np.array([[0, 0], [-1, 0], [-1, 0.0]], dtype=np.float32)
    hits = ItemIndex.build(vectors).search(np.array([[1, 0]], dtype=np.float32), 3)
    assert [hit.item for hit in hits] == [1, 2]


def test_nothing_is_found_where_nothing_may_be():
    index = ItemIndex.build(unit(4, 2))
    assert index.search(unit(1, 2), 5, excluded=[1, 2, 3]) == []
    assert len(index.search(unit(1, 2), 5, excluded=[1, 70])) == 2  # of which there is none
    assert index.search(unit(1, 2), 0) == []


def test_ties_are_listed_in_the_order_of_items():
    vectors = np.tile(np.array([[1.0, 0]], dtype=np.float32), (12, 1))
    hits = ItemIndex.build(vectors).search(np.array([[1, 0], [1, 0]], dtype=np.float32), 5, [2])
    assert [hit.item for hit in hits] == [1, 3, 4, 5, 6]
    assert {hit.interest for hit in hits} == {0}


# The package


def best_by_score(model, history, k, exclude_seen):
    """Item ids of the top k of `model.score`, which knows nothing of FAISS."""
    index = {item: number for number, item in enumerate(ITEM_IDS, start=1)}
    known = index_history(history, index)
    inputs = assemble([known], max_history=model.max_history, num_recent=model.num_recent)
    scores = model.score(inputs)[0].clone()
    scores[0] = -np.inf
    if exclude_seen:
        scores[known.items] = -np.inf
    best = [item for item in scores.argsort(descending=True).tolist() if scores[item] > -np.inf]
    cosines = model.item_vectors() @ model.encode_user(inputs)[0].T
    return [
        (ITEM_IDS[item - 1], scores[item].item(), cosines[item].argmax().item() + 1)
        for item in best[:k]
    ]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [10, 1000])
def test_recommendations_are_the_best_by_score_each_with_its_interest(
    exclude_seen, k, package, model, some_histories
):
    interests = set()
    for history in some_histories():
        found, served_by = package.recommend(history, k, exclude_seen=exclude_seen)
        assert served_by == "full"
        expected = best_by_score(model, history, k, exclude_seen)
        assert [(one.item_id, one.interest) for one in found] == [(i, n) for i, _, n in expected]
        assert [one.score for one in found] == pytest.approx([s for _, s, _ in expected], abs=1e-6)
        interests |= {one.interest for one in found}
    assert interests == {1, 2, 3}


def test_recommendations_name_the_items_of_the_history_nearest_to_their_interest(
    package, model, some_histories
):
    for history in some_histories():
        known = index_history(history, {item: n for n, item in enumerate(ITEM_IDS, start=1)})
        inputs = assemble([known], max_history=model.max_history, num_recent=model.num_recent)
        interests = model.encode_user(inputs)[0]
        for one in package.recommend(history, 10)[0]:
            cosine = {
                ITEM_IDS[item - 1]: (
                    model.item_vectors()[item] @ interests[one.interest - 1]
                ).item()
                for item in set(known.items.tolist())
            }
            nearest = sorted(cosine, key=cosine.__getitem__, reverse=True)[:3]
            assert [item.item_id for item in one.because] == nearest
            assert [item.title for item in one.because] == package.titles(nearest)
            assert json.loads(json.dumps(one.to_json()))["because"][0]["item_id"] == nearest[0]
    assert all(one.because == () for one in package.recommend(None, 3)[0])


def test_seen_items_are_left_out_and_as_many_come_back(package, make_history):
    history = make_history([*range(1, 31), 77])
    found, _ = package.recommend(history, 10)
    assert {one.item_id for one in found} == {f"item {number}" for number in range(31, 41)}
    assert len(package.recommend(history, 10, exclude_seen=False)[0]) == 10
    everything = make_history(list(range(1, 41)))
    assert package.recommend(everything, 10) == ([], "full")


def test_recommendations_carry_titles(package, make_history):
    found, _ = package.recommend(make_history([1]), 40)
    titles = {one.item_id: one.title for one in found}
    assert titles["item 7"] == "Title item 7"
    assert titles["item 5"] == ""  # it has none
    assert package.titles(["item 40", "unheard of"]) == ["Title item 40", "unheard of"]


@pytest.mark.parametrize("numbers", [None, [], [41, 77]], ids=["no user", "no event", "unknown"])
def test_without_a_known_event_the_most_popular_items_are_the_answer(
    numbers, package, make_history
):
    history = None if numbers is None else make_history(numbers)
    found, served_by = package.recommend(history, 3)
    assert served_by == "popular"
    assert [(one.item_id, one.score, one.interest) for one in found] == [
        ("item 40", 0.0, 0),
        ("item 39", 0.0, 0),
        ("item 38", 0.0, 0),
    ]
    assert len(package.recommend(history, 1000)[0]) == NUM_ITEMS


def test_a_history_of_one_event_is_answered_by_the_model(package, make_history):
    found, served_by = package.recommend(make_history([3]), 5)
    assert served_by == "full"
    assert len(found) == 5


def test_unknown_items_of_a_history_change_nothing(package, make_history):
    plain, _ = package.recommend(make_history([1, 2, 3]), 10)
    mixed, _ = package.recommend(make_history([99, 1, 2, 50, 3, 41]), 10)
    assert mixed == plain


def test_codes_of_another_codebook_are_refused(package, codebook, make_history):
    history = make_history([1, 2], codebook_id="0123456789ab")
    with pytest.raises(VersionError) as caught:
        package.recommend(history, 5)
    assert str(caught.value) == (
        f"history codes are of codebook 0123456789ab, this model reads codebook {codebook.id}"
    )


def test_a_model_and_a_package_of_different_codebooks_are_refused(package, codebook, tmp_path):
    package.save(tmp_path / "package")
    path = tmp_path / "package" / "package.json"
    info = json.loads(path.read_text())
    assert info == {
        "codebook_id": codebook.id, "recipe": "tiny", "data_digest": "d" * 16,
        "text_columns": ["genre"], "category_column": "genre",
    }  # fmt: skip
    path.write_text(json.dumps({**info, "codebook_id": "0123456789ab"}))
    path.with_name("digests.json").unlink()  # which would find the change first
    with pytest.raises(VersionError, match=f"{codebook.id}.* 0123456789ab"):
        RecommenderPackage.load(tmp_path / "package")


def test_a_saved_package_gives_the_same_answers(package, some_histories, tmp_path):
    package.save(tmp_path / "package")
    loaded = RecommenderPackage.load(tmp_path / "package")
    assert loaded.info == package.info
    for history in [None, *some_histories()]:
        assert loaded.recommend(history, 20) == package.recommend(history, 20)
    with pytest.raises(FileExistsError):
        package.save(tmp_path / "package")
    assert not list((tmp_path / "package").rglob("*.pkl"))


def test_a_package_answers_in_evaluation_mode(model, package, make_history):
    assert not model.training
    history = make_history([5, 9, 30])
    assert package.recommend(history, 10) == package.recommend(history, 10)


def test_four_threads_give_the_answers_of_one(package, some_histories):
    histories = some_histories(count=40)
    alone = [package.recommend(history, 10) for history in histories]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = list(pool.map(lambda history: package.recommend(history, 10), histories))
            assert together == alone


def test_codebook_of_a_loaded_package_decodes_alike(package, codebook, items, tmp_path):
    package.save(tmp_path / "package")
    loaded = RecommenderPackage.load(tmp_path / "package").model.codebook
    assert isinstance(loaded, ResidualCodebook)
    assert loaded.id == codebook.id
    packed = codebook.encode(items)
    assert torch.equal(loaded.decode(packed), codebook.decode(packed))
