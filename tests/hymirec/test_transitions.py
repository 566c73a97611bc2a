"""What follows what: the table against a plain count, and lists against the scores of all items."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hymirec import fitting
from hymirec.additions import Additions
from hymirec.batch import recommend_many
from hymirec.errors import DataError
from hymirec.evaluation.protocol import rank_by_scale, rank_cases
from hymirec.evaluation.retrieval import index_recall
from hymirec.fitting import fit_transitions
from hymirec.inputs import IndexedHistory, index_history
from hymirec.package import RecommenderPackage
from hymirec.query import Filters, Query
from hymirec.retrieval import Hit, ItemIndex, lifted
from hymirec.splits import Case, LeaveLastSplit
from hymirec.transitions import Lift, TransitionConfig, Transitions

NUM_ITEMS = 40
ITEM_IDS = [f"item {number}" for number in range(1, NUM_ITEMS + 1)]
SETTINGS = TransitionConfig(num_last=4, smoothing=2.0, floor=1e-2)


def histories_of(*rows):
    return [IndexedHistory.of(np.array(row, dtype=np.int64)) for row in rows]


def random_rows(rng, num_users=30, longest=25):
    lengths = rng.integers(0, longest, num_users)
    return [rng.integers(1, NUM_ITEMS + 1, length).tolist() for length in lengths]


# The table


def shares_plainly(rows, settings):
    """By item: the shares of its followers, the largest kept."""
    counts = defaultdict(lambda: defaultdict(float))
    for row in rows:
        for place, after in enumerate(row):
            for gap in range(1, settings.max_gap + 1):
                if place >= gap:
                    counts[row[place - gap]][after] += 1 / gap
    table = {}
    for item, followers in counts.items():
        total = sum(followers.values()) + settings.smoothing
        ranked = sorted(followers.items(), key=lambda one: (-round(one[1], 9), one[0]))
        table[item] = {i: n / total for i, n in ranked[: settings.num_neighbours]}
    return table


def lift_plainly(items, rows, settings, scale, num_items=NUM_ITEMS):
    """Of one user, by item index."""
    table, lift = shares_plainly(rows, settings), np.zeros(num_items + 1)
    for ago, item in enumerate(reversed(items[-settings.num_last :])):
        for follower, share in table.get(item, {}).items():
            lift[follower] += settings.decay**ago * share
    return scale * np.log1p(lift / settings.floor)


@pytest.mark.parametrize("max_gap", [1, 3])
@pytest.mark.parametrize("num_neighbours", [3, 1000])
def test_lifts_are_those_of_a_plain_count(max_gap, num_neighbours):
    settings = SETTINGS.model_copy(
        update={"max_gap": max_gap, "num_neighbours": num_neighbours, "decay": 0.7}
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = [*random_rows(rng), [], [7], [5, 5, 5, 5]]
        table = Transitions.count(histories_of(*rows), NUM_ITEMS, settings).scaled(0.3)
        users = random_rows(rng, 8, 12)
        found = table.lifts([np.array(user, dtype=np.int64) for user in users]).toarray()
        for row, user in zip(found, users, strict=True):
            expected = lift_plainly(user, rows, settings, 0.3)
            assert row.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


def test_one_pair_by_hand():
    # 1 is followed by 2 (at once), then by 3 (one between): 1 and 1/2, of 3/2 and 2 more.
    table = Transitions.count(histories_of([1, 2, 3]), 3, SETTINGS).scaled(1.0)
    lift = table.lift(np.array([1]))
    assert lift.items.tolist() == [2, 3]
    assert lift.values.tolist() == pytest.approx([math.log1p(100 * s / 3.5) for s in (1, 0.5)])
    assert len(table.lift(np.array([3])).items) == 0
    assert len(table.lift(np.array([], dtype=np.int64)).items) == 0


def test_users_do_not_run_into_each_other():
    table = Transitions.count(histories_of([1], [2], [], [3]), 3, SETTINGS)
    assert table.shares.nnz == 0


def test_of_no_events_nothing_follows():
    table = Transitions.count(histories_of([], []), 3, SETTINGS)
    assert table.lifts([np.array([2])]).toarray().tolist() == [[0] * 4]


def test_a_saved_table_is_the_same(tmp_path):
    rows = random_rows(np.random.default_rng(1))
    table = Transitions.count(histories_of(*rows), NUM_ITEMS, SETTINGS).scaled(0.056)
    table.save(tmp_path / "table")
    again = Transitions.load(tmp_path / "table")
    assert (again.settings, again.scale) == (table.settings, table.scale)
    users = [np.array(row, dtype=np.int64) for row in rows]
    assert (again.lifts(users) != table.lifts(users)).nnz == 0


# Lists


def search_slowly(vectors, interests, k, lift, excluded, allowed):
    cosines = vectors @ interests.T
    hits = []
    for item in range(1, len(vectors)):
        if item not in excluded and (allowed is None or allowed[item]):
            score = cosines[item].max() + lift[item]
            hits.append((item, float(score), int(cosines[item].argmax())))
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]


@pytest.mark.parametrize("k", [1, 5, 60, 1000])
def test_lifted_lists_are_brute_force(k):
    rng = np.random.default_rng(0)
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        vectors = normalize(torch.randn(61, 8, generator=generator), dim=1).numpy()
        vectors[0] = 0
        interests = normalize(torch.randn(3, 8, generator=generator), dim=1).numpy()
        dense = np.where(rng.random(61) < rng.random(), rng.random(61) * rng.random(), 0)
        dense[0] = 0.5  # padding is never listed
        dense = dense.astype(np.float32)
        items = np.flatnonzero(dense)
        excluded = rng.integers(1, 61, rng.integers(0, 40)).tolist()
        for allowed in (None, rng.random(61) < 0.5):
            nearest = ItemIndex.build(vectors).search(interests, k, excluded, allowed)
            hits = lifted(
                nearest, Lift(items, dense[items]), vectors, interests, k, excluded, allowed
            )
            expected = search_slowly(vectors, interests, k, dense, excluded, allowed)
            assert [hit.item for hit in hits] == [item for item, _, _ in expected]
            assert [hit.interest for hit in hits] == [interest for _, _, interest in expected]
            assert [hit.score for hit in hits] == pytest.approx(
                [s for _, s, _ in expected], abs=1e-6
            )


def test_an_item_far_from_all_interests_can_be_lifted_to_the_top():
    vectors = np.array([[0, 0], [1, 0], [0.8, 0.6], [-1, 0]], dtype=np.float32)
    interests = np.array([[1, 0]], dtype=np.float32)
    nearest = ItemIndex.build(vectors).search(interests, 1)
    lift = Lift(np.array([3]), np.array([2.5], dtype=np.float32))
    assert lifted(nearest, lift, vectors, interests, 1) == [Hit(3, 1.5, 0)]
    assert lifted(nearest, lift, vectors, interests, 1, [3]) == nearest


# The model and what is served of it


@pytest.fixture(scope="module")
def table(some_histories):
    """Weighing about as much as the cosines of random vectors."""
    rows = random_rows(np.random.default_rng(3), num_users=60)
    return Transitions.count(histories_of(*rows), NUM_ITEMS, SETTINGS).scaled(0.1)


@pytest.fixture
def with_table(package, table):
    """The package whose model has transitions."""
    model = package.model.with_catalogue(package.model.item_vectors(), package.model.codebook)
    model.transitions = table
    return replace(package, model=model)


def scores_of(package, history):
    """Of all items, and the history."""
    known = index_history(history, package.item_index)
    return package.model.score(package.model.assemble([known]))[0].numpy(), known


def expected_list(package, history, k, exclude_seen=True, allowed=None):
    scores, known = scores_of(package, history)
    scores = scores.copy()
    scores[0] = -np.inf
    if exclude_seen:
        scores[known.items] = -np.inf
    if allowed is not None:
        scores[~allowed] = -np.inf
    order = np.lexsort((np.arange(len(scores)), -scores))
    ids = ["", *package.items["item_id"]]
    return [(ids[i], float(scores[i])) for i in order[:k] if scores[i] > -np.inf]


def assert_lists(found, expected):
    assert [one.item_id for one in found] == [item for item, _ in expected]
    assert [one.score for one in found] == pytest.approx([s for _, s in expected], abs=1e-6)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [3, 10, 1000])
def test_what_is_listed_is_what_is_ranked(exclude_seen, k, with_table, package, some_histories):
    moved = 0
    for history in some_histories():
        found, served_by = with_table.recommend(history, k, exclude_seen=exclude_seen)
        assert served_by == "full"
        assert_lists(found, expected_list(with_table, history, k, exclude_seen))
        plain, _ = package.recommend(history, k, exclude_seen=exclude_seen)
        moved += [one.item_id for one in plain] != [one.item_id for one in found]
    assert moved > 6


def test_an_item_goes_by_the_interest_nearest_to_it(with_table, some_histories):
    for history in some_histories():
        _, known = scores_of(with_table, history)
        interests = with_table.interests([known])[0]
        for one in with_table.recommend(history, 10)[0]:
            vector = with_table.model.item_vectors()[with_table.item_index[one.item_id]].numpy()
            assert one.interest == (interests @ vector).argmax() + 1
            assert one.because


def test_filters_hold(with_table, some_histories):
    filters = Filters(available_items=ITEM_IDS[5:25], exclude_items=ITEM_IDS[8:12])
    allowed = np.zeros(NUM_ITEMS + 1, dtype=bool)
    allowed[6:26] = True
    allowed[9:13] = False
    for history in some_histories():
        known, _ = with_table.events(history)
        found = with_table.choose(
            Query(k=7, filters=filters), known, with_table.interests([known])[0]
        )
        assert_lists(found, expected_list(with_table, history, 7, allowed=allowed))


def test_unlike_items_and_categories_are_chosen_from_the_lifted(with_table, make_history):
    known, _ = with_table.events(make_history([3, 9, 12, 5]))
    interests = with_table.interests([known])[0]
    best, varied, few = (
        with_table.choose(Query(k=10, **settings), known, interests)
        for settings in ({}, {"diversity": 0.7}, {"max_per_category": 2})
    )
    assert best[0] == varied[0]
    assert {one.item_id for one in varied} != {one.item_id for one in best}
    assert few == best[:2]  # all are of one category


def test_items_of_the_request_are_the_last(with_table, make_history):
    """What was looked at with the request is asked what follows it, before what is stored."""
    stored = make_history([3, 9])
    joined, _ = with_table.events(stored, ["item 12", "item 5"])
    whole, _ = with_table.events(make_history([3, 9, 12, 5]))
    lift, expected = (with_table.model.transitions.lift(one.items) for one in (joined, whole))
    np.testing.assert_array_equal(lift.values, expected.values)
    assert joined.items.tolist() == [3, 9, 12, 5]


def test_many_at_once_are_each_alone(with_table, some_histories, make_history):
    histories = [None, *some_histories(), make_history([]), make_history([4])]
    lists = recommend_many(with_table, histories, 10)
    for row, history in enumerate(histories):
        found, _ = with_table.recommend(history, 10)
        ids = [with_table.item_index[one.item_id] for one in found]
        assert lists.items[row].tolist()[: len(ids)] == ids
        assert lists.interests[row].tolist()[: len(ids)] == [one.interest for one in found]


def test_the_index_finds_the_lists_of_exact_scores(with_table, random_histories):
    cases = [Case(history, 1) for history in random_histories([5, 1, 30, 12])]
    assert index_recall(with_table.model, with_table.index, cases, k=10) == 1
    without = replace(with_table.model.transitions, scale=0.0)
    scores = with_table.model.score(with_table.model.assemble([cases[0].known]))
    with_table.model.transitions = without
    assert not torch.equal(
        scores, with_table.model.score(with_table.model.assemble([cases[0].known]))
    )


def test_new_items_keep_their_cosine(with_table, package, make_history, items):
    vectors = normalize(items[[4, 9]] + 0.2, dim=1).numpy()
    codes = with_table.model.codebook.encode(torch.from_numpy(vectors)).numpy()
    new = Additions(["new 1", "new 2"], ["New 1", "New 2"], ["", ""], vectors, codes)
    more, plain = with_table.extended(new), package.extended(new)
    history = make_history([3, 9, 12])
    found, _ = scores_of(more, history)
    cosines, _ = scores_of(plain, history)
    assert found[41:].tolist() == cosines[41:].tolist()
    assert (found[:41] > cosines[:41]).any()
    assert_lists(more.recommend(history, 42)[0], expected_list(more, history, 42))
    # In a history it is passed over, and what came before it counts as longer ago.
    known, _ = more.events(make_history([3, 9]), ["new 1"])
    later = with_table.model.transitions.lifts([np.array([3, 9])]).toarray()
    moved = more.model.transitions.lifts([known.items]).toarray()[:, :41]
    assert 0 < moved.sum() < later.sum()
    assert len(more.choose(Query(k=42), known, more.interests([known])[0])) == 39
    assert with_table.model.transitions.shares.shape == (41, 41)


def test_it_is_kept_with_the_package_and_read_without_where_there_is_none(
    with_table, package, some_histories, tmp_path
):
    with_table.save(tmp_path / "with")
    package.save(tmp_path / "without")
    loaded, plain = (RecommenderPackage.load(tmp_path / name) for name in ("with", "without"))
    for history in some_histories():
        assert loaded.recommend(history, 20) == with_table.recommend(history, 20)
        assert plain.recommend(history, 20) == package.recommend(history, 20)
    assert plain.model.transitions is None
    assert not list((tmp_path / "without").rglob("transitions*"))
    path = tmp_path / "with" / "recommender" / "transitions.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"transitions\.safetensors is not the file"):
        RecommenderPackage.load(tmp_path / "with")
    (tmp_path / "with" / "digests.json").unlink()
    with pytest.raises(DataError, match="SafetensorError"):
        RecommenderPackage.load(tmp_path / "with")


# The weight


@pytest.fixture
def following(history_of):
    """Users in whose histories the number after each comes next, from anywhere, and one short."""
    rng = np.random.default_rng(0)
    starts = rng.integers(1, 30, 60)
    return LeaveLastSplit([history_of(range(start, start + 9)) for start in starts])


def test_ranks_by_scale_are_those_of_a_model_with_the_table(model, table, random_histories):
    cases = [
        Case(history, place % 40 + 1)
        for place, history in enumerate(random_histories([5, 1, 40, 13]))
    ]
    found = rank_by_scale(model, table, [0.0, 0.05, 0.4], cases, batch_size=3)
    other = model.with_catalogue(model.item_vectors(), model.codebook)
    for row, scale in zip(found, (0.0, 0.05, 0.4), strict=True):
        other.transitions = table.scaled(scale)
        assert row.tolist() == rank_cases(other, cases).tolist()
    assert found[0].tolist() == rank_cases(model, cases).tolist()


def test_validation_chooses_the_weight(model, following):
    logged = {}
    found = fit_transitions(
        model, following, TransitionConfig(smoothing=1.0), temperature=0.5,
        log_metrics=lambda metrics, step: logged.update(metrics, step=step),
    )  # fmt: skip
    # What follows is all there is to know here: the model's weights are random.
    assert logged["transitions/weight"] > 0
    assert logged["transitions/validation_N@10"] > 0.5
    assert logged["step"] == 0
    assert found.scale == pytest.approx(0.5 * logged["transitions/weight"])
    assert found.settings.num_last == model.num_recent
    assert model.transitions is None


@pytest.mark.parametrize(
    ("ranks", "weight"),
    [((1, 20, 20, 3), 0.0), ((1, 1, 1, 3), 1.0), ((20, 20, 20, 1), 0.0)],
    ids=["by luck", "surely", "not at all"],
)
def test_a_weight_has_to_gain_more_than_luck_would(ranks, weight, model, following, monkeypatch):
    """Four users, of whom the last one's item alone is found without transitions."""
    found = torch.tensor([(20.0, 20, 20, 1), ranks])
    monkeypatch.setattr(fitting, "rank_by_scale", lambda *_: found)
    logged = {}
    table = fit_transitions(
        model, following, TransitionConfig(num_weights=1), temperature=0.5,
        log_metrics=lambda metrics, step: logged.update(metrics),
    )  # fmt: skip
    assert logged["transitions/weight"] == weight
    assert (table is not None) == (weight > 0)
    assert logged["transitions/validation_N@10_without"] == 0.25


def test_where_it_does_not_help_scores_stay_to_the_bit(model, history_of, random_histories):
    # Nobody's item is followed by what comes next: training says 2, validation 30, test 20.
    split = LeaveLastSplit([history_of([1, 2, 1, 2, 1, 30, 20]) for _ in range(9)])
    assert fit_transitions(model, split, SETTINGS, temperature=0.5) is None
    off = TransitionConfig(max_weight=0.0)
    assert off.weights == [0.0]
    assert fit_transitions(model, split, off, temperature=0.5) is None
    inputs = model.assemble(random_histories([4, 9]))
    assert torch.equal(
        model.score(inputs),
        (model.encode_user(inputs) @ model.item_vectors().T).amax(dim=1),
    )


def test_nothing_of_validation_or_test_enters(model, following, monkeypatch):
    """With other events there, the table is the same to the bit."""
    tables = []
    count = Transitions.count
    monkeypatch.setattr(
        Transitions, "count", lambda *args: tables.append(count(*args)) or tables[-1]
    )
    rng = np.random.default_rng(1)
    other = LeaveLastSplit(
        [
            replace(one, items=np.append(one.items[:-2], rng.integers(1, 41, 2)))
            for one in following.histories
        ]
    )
    for split in (following, other):
        fit_transitions(model, split, SETTINGS, temperature=0.5)
    first, second = (table.shares for table in tables)
    np.testing.assert_array_equal(first.toarray(), second.toarray())
    assert first.nnz
