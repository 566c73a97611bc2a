"""From histories to model inputs, to training examples and to splits: nothing sees its future."""

import numpy as np
import pandas as pd
import pytest
import torch

from hymirec.errors import DataError
from hymirec.examples import CutPointExamples, NextItemExamples
from hymirec.history import History
from hymirec.inputs import (
    IndexedHistory,
    index_history,
    index_interactions,
    number_items,
)
from hymirec.splits import LeaveLastSplit, asks_about, count_items
from hymirec.tensors import assemble, pad


def told_apart(length, start=1):
    """A history whose items, and whose codes, say which event they are: 1, 2, 3, …"""
    items = np.arange(start, start + length)
    codes = np.stack([items // 256, items % 256], axis=1).astype(np.uint8)
    return IndexedHistory.of(items, codes)


def events_in(codes):
    """Undo the codes of `told_apart`: int64 [..., L]."""
    return codes[..., 0].long() * 256 + codes[..., 1].long()


# Inputs


def test_items_are_numbered_from_one_in_their_order():
    assert number_items(["b", "a", "7"]) == {"b": 1, "a": 2, "7": 3}


def test_items_the_model_does_not_know_are_left_out_with_their_codes():
    codes = np.arange(10, dtype=np.uint8).reshape(5, 2)
    history = History(["a", "x", "b", "y", "a"], np.arange(5), codes, "c")
    indexed = index_history(history, number_items(["a", "b"]))
    assert indexed.items.tolist() == [1, 2, 1]
    assert indexed.items.dtype == np.int64
    assert indexed.codes.tolist() == [[0, 1], [4, 5], [8, 9]]
    unknown = index_history(history, {"z": 1})
    assert len(unknown) == 0
    assert unknown.codes.shape == (0, 2)


def test_interactions_become_one_history_a_user_in_the_tables_order():
    interactions = pd.DataFrame(
        {
            "user_id": ["v", "v", "u", "w", "w"],
            "item_id": ["a", "b", "b", "c", "a"],
            "timestamp": pd.to_datetime([3, 7, 7, 1, 1], unit="s", utc=True),
        }
    )
    histories = index_interactions(interactions, number_items(["a", "b", "c"]))
    assert [history.items.tolist() for history in histories] == [[1, 2], [2], [3, 1]]
    assert [history.codes.shape for history in histories] == [(2, 0), (1, 0), (2, 0)]
    assert [history.times.tolist() for history in histories] == [[3, 7], [7], [1, 1]]


def test_until_is_a_prefix():
    history = told_apart(5)
    for end in range(6):
        assert history.until(end).items.tolist() == list(range(1, end + 1))
        assert len(history.until(end).codes) == end


def test_inputs_keep_the_most_recent_events_oldest_first():
    inputs = assemble([told_apart(7), told_apart(2)], max_history=4, num_recent=3)
    assert events_in(inputs["history_codes"]).tolist() == [[4, 5, 6, 7], [1, 2, 0, 0]]
    assert inputs["history_length"].tolist() == [4, 2]
    assert inputs["recent_items"].tolist() == [[5, 6, 7], [1, 2, 0]]
    assert inputs["recent_length"].tolist() == [3, 2]
    assert inputs["history_codes"].dtype == torch.uint8
    for name in ("history_length", "recent_items", "recent_length"):
        assert inputs[name].dtype == torch.int64


def test_an_empty_history_has_length_zero_and_one_place_of_padding():
    inputs = assemble([told_apart(0)], max_history=4, num_recent=3)
    assert inputs["history_codes"].tolist() == [[[0, 0]]]
    assert inputs["recent_items"].tolist() == [[0]]
    assert inputs["history_length"].tolist() == inputs["recent_length"].tolist() == [0]


def test_a_batch_holds_what_each_history_alone_does():
    histories = [told_apart(length) for length in (0, 1, 9, 3, 30, 12)]
    together = assemble(histories, max_history=10, num_recent=5)
    assert together["history_codes"].shape == (6, 10, 2)
    assert together["recent_items"].shape == (6, 5)
    for row, history in enumerate(histories):
        alone = assemble([history], max_history=10, num_recent=5)
        for values, length in (
            ("history_codes", "history_length"),
            ("recent_items", "recent_length"),
        ):
            assert alone[length][0] == together[length][row]
            kept = alone[values].shape[1]
            assert torch.equal(alone[values][0], together[values][row, :kept])
            assert not together[values][row, kept:].any()


def test_sequences_are_padded_on_the_right():
    assert pad([np.array([3, 1]), np.array([], dtype=np.int64)]).tolist() == [[3, 1], [0, 0]]


# Examples


def test_next_item_examples_of_a_short_history_are_the_history():
    examples = NextItemExamples([told_apart(4), told_apart(1), told_apart(3)], num_recent=4)
    assert len(examples) == 2  # one event has no next one
    assert examples[0].items.tolist() == [1, 2, 3, 4]
    batch = examples.collate([examples[0], examples[1]])
    assert batch["items"].tolist() == [[1, 2, 3, 4], [1, 2, 3, 0]]


def test_next_item_examples_are_runs_that_reach_both_ends_of_a_long_history():
    torch.manual_seed(0)
    examples = NextItemExamples([told_apart(23)], num_recent=4)
    assert len(examples) == 6  # about once per 4 events
    ends = set()
    for _ in range(400):
        run = examples[0].items.tolist()
        assert 3 <= len(run) <= 5
        assert run == list(range(run[0], run[-1] + 1))
        assert len(run) == min(5, run[-1])
        ends.add(run[-1])
    assert ends == set(range(3, 24))


def test_long_histories_come_up_in_proportion():
    examples = NextItemExamples([told_apart(100), told_apart(10), told_apart(2)], num_recent=10)
    lengths = [len(examples._history(place)) for place in range(len(examples))]
    assert [lengths.count(length) for length in (100, 10, 2)] == [10, 1, 1]


def test_cut_points_of_a_small_history_by_hand():
    # Of 3 events the first 2 are known, so that an item follows; there are 2 places to cut.
    examples = CutPointExamples(
        [told_apart(3)], num_recent=10, max_history=10, num_cuts=3, window=2
    )
    example = examples[0]
    assert example.known.items.tolist() == [1, 2]
    rows = sorted(zip(example.cuts.tolist(), example.targets.tolist(), strict=True))
    assert rows == [(1, [2, 3]), (2, [0, 0]), (2, [3, 0])]  # a row of zeros: no third place


def test_cuts_are_counted_from_where_the_inputs_begin():
    # 9 known events, of which the inputs keep the last 4 and the last 6.
    examples = CutPointExamples([told_apart(10)], num_recent=4, max_history=6, num_cuts=9, window=3)
    torch.manual_seed(0)
    example = next(found for found in (examples[0] for _ in range(200)) if len(found.known) == 9)
    batch = examples.collate([example])
    assert batch["recent_items"].tolist() == [[6, 7, 8, 9]]
    assert events_in(batch["history_codes"]).tolist() == [[4, 5, 6, 7, 8, 9]]
    order = example.cuts[:4].argsort()
    assert example.cuts[:4][order].tolist() == [6, 7, 8, 9]
    assert batch["recent_cuts"][0, :4][order].tolist() == [1, 2, 3, 4]
    assert batch["history_cuts"][0, :4][order].tolist() == [3, 4, 5, 6]
    assert batch["targets"][0, :4][order].tolist() == [
        [7, 8, 9],
        [8, 9, 10],
        [9, 10, 0],
        [10, 0, 0],
    ]


@pytest.mark.parametrize(
    ("num_recent", "max_history", "num_cuts", "window"),
    [(5, 5, 4, 3), (8, 3, 3, 1), (3, 50, 16, 4), (50, 50, 2, 10), (1, 1, 1, 1), (4, 2, 4, 2)],
)
def test_a_cut_sees_exactly_the_end_of_its_prefix_and_asks_about_what_follows(
    num_recent, max_history, num_cuts, window
):
    lengths = [2, 3, 5, 8, 13, 40, 300]
    histories = [told_apart(length) for length in lengths]
    examples = CutPointExamples(
        histories,
        num_recent=num_recent,
        max_history=max_history,
        num_cuts=num_cuts,
        window=window,
    )
    torch.manual_seed(1)
    drawn = [examples[place % len(examples)] for place in range(300)]
    batch = examples.collate(drawn)
    codes = events_in(batch["history_codes"])
    for row, example in enumerate(drawn):
        end = len(example.known)
        assert example.known.items.tolist() == list(range(1, end + 1))
        for column in range(num_cuts):
            cut = int(example.cuts[column])
            recent_cut = int(batch["recent_cuts"][row, column])
            history_cut = int(batch["history_cuts"][row, column])
            prefix = list(range(1, cut + 1))
            recent = batch["recent_items"][row, :recent_cut].tolist()
            coarse = codes[row, :history_cut].tolist()
            # Both see the end of what lies before the cut, and the refined path at least an item.
            assert recent
            assert recent == prefix[-len(recent) :]
            assert coarse == (prefix[-len(coarse) :] if coarse else [])
            assert len(recent) == cut - max(0, end - num_recent)
            assert len(coarse) == max(0, cut - max(0, end - max_history))
            targets = [target for target in batch["targets"][row, column].tolist() if target]
            if targets:
                assert targets == list(range(cut + 1, cut + 1 + len(targets)))
        places = min(end, num_recent, num_cuts)
        assert batch["targets"][row, :places, 0].all()
        assert not batch["targets"][row, places:].any()
        assert len(set(example.cuts[:places].tolist())) == places


def test_histories_without_a_next_item_leave_nothing_to_train_on():
    histories = [told_apart(1), told_apart(0)]
    with pytest.raises(DataError, match="two events"):
        NextItemExamples(histories, num_recent=4)
    with pytest.raises(DataError, match="two events"):
        CutPointExamples(histories, num_recent=4, max_history=4, num_cuts=2, window=2)


def test_examples_are_drawn_from_torchs_global_generator():
    examples = CutPointExamples([told_apart(90)], num_recent=9, max_history=9, num_cuts=3, window=2)
    torch.manual_seed(5)
    first = [examples[0] for _ in range(4)]
    torch.manual_seed(5)
    again = [examples[0] for _ in range(4)]
    for one, other in zip(first, again, strict=True):
        assert one.cuts.tolist() == other.cuts.tolist()
        assert len(one.known) == len(other.known)
    assert len({len(example.known) for example in first}) > 1


# Splits


def test_leave_last_split_by_hand():
    histories = [told_apart(5), told_apart(2, start=10), told_apart(3, start=20)]
    split = LeaveLastSplit(histories)
    assert [history.items.tolist() for history in split.training] == [[1, 2, 3], [10, 11], [20]]
    assert [(case.known.items.tolist(), case.target) for case in split.validation] == [
        ([1, 2, 3], 4),
        ([20], 21),
    ]
    assert [(case.known.items.tolist(), case.target) for case in split.test] == [
        ([1, 2, 3, 4], 5),
        ([20, 21], 22),
    ]
    assert [asks_about(history) for history in histories] == [True, False, True]


def test_what_comes_after_a_cut_changes_nothing_before_it():
    rng = np.random.default_rng(0)
    histories = [told_apart(int(length)) for length in rng.integers(1, 30, 50)]
    changed = []
    for history in histories:
        items = history.items.copy()
        if asks_about(history):
            items[-2:] = rng.integers(1000, 2000, 2)
        changed.append(IndexedHistory.of(items, history.codes))
    split, other = LeaveLastSplit(histories), LeaveLastSplit(changed)
    for one, two in zip(split.training, other.training, strict=True):
        assert one.items.tolist() == two.items.tolist()
    for one, two in zip(split.validation, other.validation, strict=True):
        assert one.known.items.tolist() == two.known.items.tolist()
        assert two.target >= 1000
    for one, two in zip(split.test, other.test, strict=True):
        assert one.known.items.tolist()[:-1] == two.known.items.tolist()[:-1]
        assert two.known.items[-1] >= 1000


def test_nothing_asked_about_is_in_training():
    histories = [told_apart(length, start=100 * length) for length in range(1, 30)]
    split = LeaveLastSplit(histories)
    trained_on = {item for history in split.training for item in history.items.tolist()}
    asked = {case.target for case in split.validation} | {case.target for case in split.test}
    assert len(asked) == 2 * 27
    assert not trained_on & asked
    everything = {item for history in histories for item in history.items.tolist()}
    assert trained_on | asked == everything


def test_codes_are_cut_with_the_items():
    split = LeaveLastSplit([told_apart(300)])
    for history in (split.training[0], split.validation[0].known, split.test[0].known):
        assert events_in(torch.from_numpy(history.codes)).tolist() == history.items.tolist()


@pytest.mark.parametrize("lengths", [[], [0], [2, 1, 2]])
def test_data_in_which_nobody_can_be_asked_about_is_refused(lengths):
    with pytest.raises(DataError, match="no user has 3 events"):
        LeaveLastSplit([told_apart(length) for length in lengths])


def test_items_are_counted_by_index():
    counts = count_items([told_apart(3), told_apart(2), told_apart(1, start=5)], num_items=6)
    assert counts.tolist() == [0, 2, 2, 1, 0, 1, 0]
    assert counts.dtype == torch.int64
