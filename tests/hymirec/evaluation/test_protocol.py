"""Whole evaluations: lists, windows, splits in time, and that no metric sees the future."""

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from hymirec.errors import DataError
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import answer_cases
from hymirec.inputs import IndexedHistory
from hymirec.models.base import Recommender
from hymirec.splits import Case, GlobalTimeSplit, LeaveLastSplit


class Table(Recommender):
    """Scores that depend on the last item alone."""

    max_history = num_recent = 5

    def __init__(self, table):
        super().__init__()
        self.register_buffer("table", table)

    def score(self, inputs):
        rows = torch.arange(len(inputs["recent_items"]))
        last = inputs["recent_items"][rows, (inputs["recent_length"] - 1).clamp(min=0)]
        return self.table[last]


def history(items, times=None):
    items = np.asarray(items, dtype=np.int64)
    return IndexedHistory.of(items, times=None if times is None else np.asarray(times))


def random_histories(num_users=60, num_items=30, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 40, num_users)
    return [
        history(rng.integers(1, num_items + 1, length), np.sort(rng.integers(0, 1000, length)))
        for length in lengths
    ]


@pytest.fixture
def model():
    return Table(torch.randn(31, 31, generator=torch.Generator().manual_seed(0)))


def test_lists_are_the_best_that_may_be_listed(model):
    cases = LeaveLastSplit(random_histories()).test
    lists = answer_cases(model, cases, list_length=12, batch_size=7).lists
    for case, row in zip(cases, lists.tolist(), strict=True):
        scores = model.score(model.assemble([case.known]))[0]
        seen = set(case.known.items.tolist())
        allowed = [item for item in range(1, 31) if item not in seen]
        best = sorted(allowed, key=lambda item: -scores[item].item())[:12]
        assert row == best + [0] * (12 - len(best))


def test_metrics_agree_with_scikit_learn(model):
    cases = LeaveLastSplit(random_histories(300)).test
    ranks = answer_cases(model, cases).seen_kept
    scores = torch.cat([model.score(model.assemble([case.known]))[:, 1:] for case in cases])
    targets = np.array([case.target - 1 for case in cases])
    relevant = np.eye(30)[targets]
    found = summarise(ranks, (1, 5, 10))
    for k in (1, 5, 10):
        assert found[f"N@{k}"] == pytest.approx(ndcg_score(relevant, scores.numpy(), k=k), abs=1e-6)
        expected = top_k_accuracy_score(targets, scores.numpy(), k=k, labels=np.arange(30))
        assert found[f"R@{k}"] == pytest.approx(expected, abs=1e-6)


def test_a_window_has_a_rank_for_each_of_its_items(model):
    cases = [
        Case(history([3, 4]), 5, np.array([6, 3])),  # item 3 is known: it cannot be listed
        Case(history([7]), 8),
    ]
    ranks = answer_cases(model, cases).ranks
    alone = [
        answer_cases(model, [Case(cases[0].known, target)]).ranks.item() for target in (5, 6, 3)
    ]
    assert ranks[0].tolist() == alone
    assert alone[2] == np.inf
    assert ranks[1, 1:].isnan().all()


def test_a_models_own_scores_are_left_as_they_were(model):
    before = model.table.clone()
    model.score = lambda inputs: model.table[:1].expand(len(inputs["recent_items"]), -1)
    answer_cases(model, LeaveLastSplit(random_histories(4)).test, list_length=3)
    assert torch.equal(model.table, before)


def test_progress_counts_cases(model):
    told = []
    cases = LeaveLastSplit(random_histories(10)).test
    answer_cases(model, cases, batch_size=4, progress=lambda *counts: told.append(counts))
    assert told == [(1, 10), (5, 10), (9, 10), (10, 10)]  # the first alone: how many items?


def test_a_window_of_events_is_held_back():
    split = LeaveLastSplit([history(range(1, 10)), history([1, 2, 3, 4])], window=2)
    (case,) = split.test
    assert (case.target, case.later.tolist(), len(case.known)) == (8, [9], 7)
    (case,) = split.validation
    assert (case.target, case.later.tolist(), len(case.known)) == (6, [7], 5)
    assert [len(part) for part in split.training] == [5, 4]  # too few to ask about: all


def test_time_split_by_hand():
    histories = [
        history([1, 2, 3, 4], [0, 10, 20, 30]), history([5, 6], [1, 2]), history([7, 8], [25, 40]),
    ]  # fmt: skip
    split = GlobalTimeSplit.at(histories, validation_share=0.25, test_share=0.25)
    # Sorted: 0 1 2 10 | 20 25 | 30 40. The last user has no past to train on.
    assert [part.items.tolist() for part in split.training] == [[1, 2], [5, 6], []]
    assert [(case.user, case.target, len(case.known)) for case in split.validation] == [(0, 3, 2)]
    assert [(case.user, case.target, len(case.known)) for case in split.test] == [
        (0, 4, 3), (2, 8, 1),
    ]  # fmt: skip
    for case in [*split.validation, *split.test]:
        assert len(split.training[case.user]) <= len(case.known)


def test_nothing_trained_on_or_known_lies_after_what_is_asked():
    histories = random_histories()
    times = [one.times for one in histories]
    split = GlobalTimeSplit.at(histories)
    everything = np.sort(np.concatenate(times))
    validate, test = everything[[int(len(everything) * 0.9), int(len(everything) * 0.95)]]
    for part, own, end in zip(histories, times, split.validate_from, strict=True):
        assert (own[:end] < validate).all()
        assert (own[end:] >= validate).all()
        assert len(part) == len(own)
    for case in split.test:
        assert (times[case.user][: len(case.known)] < test).all()
        assert times[case.user][len(case.known)] >= test


def test_a_time_that_nobody_lived_through_is_refused():
    with pytest.raises(DataError, match="before and after the time of the validation"):
        GlobalTimeSplit.at([history([1, 2], [5, 5]), history([3], [5])])


def shuffled_after(histories, cuts, seed):
    rng = np.random.default_rng(seed)
    return [
        history(np.append(one.items[:cut], rng.integers(1, 31, len(one) - cut)), one.times)
        for one, cut in zip(histories, cuts, strict=True)
    ]


@pytest.mark.parametrize("window", [1, 3])
def test_what_happens_after_the_cut_changes_nothing_before_it(model, window):
    histories = [one for one in random_histories() if len(one) > 8]
    last = LeaveLastSplit(histories, window)
    in_time = GlobalTimeSplit.at(histories, window=window)
    for seed in range(5):
        ends = [len(one) - window for one in histories]
        other = LeaveLastSplit(shuffled_after(histories, ends, seed), window)
        assert_same_past(model, last.test, other.test)
        assert_same_parts(last.training, other.training)
        assert_same_answers(model, last.validation, other.validation)

        moved = shuffled_after(histories, in_time.test_from, seed)
        other = GlobalTimeSplit.at(moved, window=window)
        assert_same_past(model, in_time.test, other.test)
        assert_same_parts(in_time.training, other.training)
        assert_same_answers(model, in_time.validation, other.validation)


def assert_same_parts(first, second):
    assert [part.items.tolist() for part in first] == [part.items.tolist() for part in second]


def assert_same_past(model, first, second):
    """The lists are made before the future is known."""
    assert_same_parts([case.known for case in first], [case.known for case in second])
    lists = [answer_cases(model, cases, list_length=5).lists for cases in (first, second)]
    assert torch.equal(*lists)


def assert_same_answers(model, first, second):
    found = [answer_cases(model, cases, list_length=5) for cases in (first, second)]
    torch.testing.assert_close(found[0].ranks, found[1].ranks, equal_nan=True)
    assert torch.equal(found[0].lists, found[1].lists)
