"""Online rows, training sets, tensors and scores agree at any moment; what does not is found."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import publishing
import pytest
import torch

from features import online
from features.logs.event_log import Event, EventLog
from features.parity import Mismatch, ParityCheck, difference
from features.training_sets import training_set
from features.updates import CONSUMER, EventConsumer
from hymirec import additions
from hymirec.codebook import ResidualCodebook, ResidualConfig
from hymirec.history import History
from hymirec.home import Home
from hymirec.inputs import index_history, number_items
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig

ITEMS = [f"i{n}" for n in range(40)]
INDEX = number_items(ITEMS)


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(41, 16, generator=generator), dim=1)
    vectors[0] = 0
    book = ResidualCodebook.fit(vectors[1:], ResidualConfig(num_layers=2, num_entries=8))
    torch.manual_seed(0)
    config = HyMiRecConfig(
        num_interests=2, num_coarse=2, max_history=20, num_recent=6, coarse_layers=1,
        backbone=BackboneConfig(num_layers=1, num_heads=2),
    )  # fmt: skip
    return HyMiRec(vectors, book, config).eval()


@pytest.fixture(scope="module")
def codes(model):
    return model.codebook.encode(model.item_vectors()[1:]).numpy()


def publish(home, codebook_id, codes, events):
    users, items, times = zip(*events, strict=True)
    times = pd.to_datetime(times, unit="s", utc=True)
    interactions = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
    now = datetime.now(UTC)
    publishing.publish(home, codebook_id, interactions, ITEMS, codes, now)


def clicks(*events, first=0):
    return [
        Event(f"e{n}", user, item, "click", t) for n, (user, item, t) in enumerate(events, first)
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_row_online_at_a_time_is_the_training_set_of_that_time(tmp_path, model, codes):
    """Users drawn at random, asked at random times while clicks come in."""
    rng = np.random.default_rng(0)
    home, book = Home.at(tmp_path).create(), model.codebook.id
    users = [f"u{n}" for n in range(12)]
    publish(
        home, book, codes,
        [(str(rng.choice(users[:9])), str(rng.choice(ITEMS)), int(rng.integers(100)))
         for _ in range(150)],
    )  # fmt: skip
    stream = sorted(
        ((str(rng.choice(users)), str(rng.choice(ITEMS)), int(rng.integers(100, 200)))
         for _ in range(150)),
        key=lambda event: event[2],
    )  # fmt: skip
    consumer, reader = EventConsumer(home), online.FeatureReader(home, book)
    seen, taken = [], 0
    for now in sorted(rng.choice(np.arange(100, 200), 8, replace=False).tolist()):
        new = [event for event in stream[taken:] if event[2] <= now]
        consumer.event_log.append(clicks(*new, first=taken))
        taken += len(new)
        consumer.catch_up()
        for user in rng.choice(users, 5, replace=False).tolist():
            row = reader.read_user(user)
            seen.append((user, now, None if row is None else row.history))
    consumer.event_log.append(clicks(*stream[taken:], first=taken))  # what nobody knew by then
    consumer.catch_up()

    asked = pd.DataFrame(
        {
            "user_id": [user for user, _, _ in seen],
            "event_timestamp": pd.to_datetime([now for _, now, _ in seen], unit="s", utc=True),
        }
    )
    found = training_set(home, book, asked)
    trained_on = found.indexed(INDEX)
    assert sum(served is not None for _, _, served in seen) > 25
    for row, (_, _, served) in enumerate(seen):
        known = found.history(row)
        if served is None:
            assert known is None
            continue
        assert list(served.item_ids) == list(known.item_ids)
        np.testing.assert_array_equal(served.times, known.times)
        np.testing.assert_array_equal(served.codes, known.codes)
        inputs = [model.assemble([one]) for one in (trained_on[row], index_history(served, INDEX))]
        for name, tensor in inputs[0].items():
            assert torch.equal(tensor, inputs[1][name]), name
        with torch.no_grad():
            scores = [model.score(one) for one in inputs]
        assert torch.equal(*scores)
        assert scores[0].std() > 0
    report = ParityCheck(consumer.event_log, book).check(users)
    assert (report.compared, report.mismatches, report.waiting) == (len(users), (), 0)


BOOK = "0123456789ab"


@pytest.fixture
def home(tmp_path, codes):
    home = Home.at(tmp_path).create()
    publish(home, BOOK, codes, [("u1", "i1", 10), ("u1", "i2", 20), ("u2", "i3", 30)])
    return home


def write(home, user, codes, *events):
    """Put a row online as nothing accounts for."""
    rows = np.array([codes[INDEX[item] - 1] for item, _ in events])
    times = np.array([t for _, t in events], dtype=np.int64)
    history = History([item for item, _ in events], times, rows, BOOK)
    online.FeatureWriter(home, BOOK).write_histories({user: history})


def test_rows_that_differ_are_found_with_what_differs(home, codes):
    log = EventLog(home)
    check = ParityCheck(log, BOOK)
    clean = check.check(["u1", "u2", "u2", "nobody"])
    assert (clean.compared, clean.unknown, clean.mismatches) == (2, ("nobody",), ())
    write(home, "u1", codes, ("i1", 10), ("i9", 20))
    write(home, "nobody", codes, ("i4", 1))
    report = check.check(["u1", "u2", "nobody"])
    assert report.mismatches == (
        Mismatch("u1", missing=(("i2", 20),), extra=(("i9", 20),)),
        Mismatch("nobody", extra=(("i4", 1),)),
    )
    assert report.rate == 2 / 3
    write(home, "u2", codes[::-1], ("i3", 30))
    assert check.check(["u2"]).mismatches == (Mismatch("u2", other_codes=("i3",)),)
    assert check.check([]).rate == 0
    assert report.mismatches[0].to_json()["missing"] == [("i2", 20)]


def test_the_order_within_a_second_counts():
    codes = np.zeros((2, 3), dtype=np.uint8)
    one = History(["a", "b"], np.array([5, 5], dtype=np.int64), codes, BOOK)
    assert difference("u", replace(one, item_ids=["b", "a"]), one) == Mismatch("u", order=True)
    assert len(difference("u", one, one)) == 0


def test_clicks_that_wait_are_no_mismatch_and_lost_ones_are(home, codes):
    log = EventLog(home)
    check = ParityCheck(log, BOOK)
    taken_in = check.taken_in()
    assert taken_in == 0
    log.append(clicks(("u1", "i5", 15), ("u1", "i6", 40), ("u1", "uncoded", 41)))
    report = check.check(["u1"])
    assert (report.mismatches, report.waiting) == ((), 3)
    write(home, "u1", codes, ("i1", 10), ("i5", 15), ("i2", 20))  # ahead of the consumer's mark
    assert check.check(["u1"]).mismatches == ()
    write(home, "u1", codes, ("i1", 10), ("i2", 20), ("i6", 40))  # the second without the first
    assert len(check.check(["u1"]).mismatches) == 1
    write(home, "u1", codes, ("i1", 10), ("i2", 20))
    log.advance(CONSUMER, log.end)  # as a consumer that lost them would
    report = check.check(["u1"])
    assert report.mismatches == (Mismatch("u1", missing=(("i5", 15), ("i6", 40))),)
    assert report.waiting == 0


def test_a_row_of_a_request_is_judged_by_what_was_known_when_it_was_read(home):
    log = EventLog(home)
    check = ParityCheck(log, BOOK)
    taken_in = check.taken_in()
    row = online.FeatureReader(home, BOOK).read_user("u1").history
    log.append(clicks(("u1", "i5", 15)))
    EventConsumer(home).catch_up()
    assert check.compare({"u1": row}, ["u1"], taken_in).mismatches == ()
    assert len(check.compare({"u1": row}, ["u1"], check.taken_in()).mismatches) == 1


def test_a_changed_items_older_code_is_no_mismatch_and_training_sets_know_new_items(tmp_path):
    home, codes = Home.at(tmp_path).create(), np.arange(40 * 3, dtype=np.uint8).reshape(40, 3)
    publish(home, BOOK, codes, [("u1", "i0", 1), ("u1", "i3", 2)])
    log = EventLog(home)
    log.append([Event("e1", "u1", "i5", "click", 3), Event("e2", "u1", "new", "click", 4)])
    EventConsumer(home).catch_up()
    changed = np.array([[9, 9, 9], [8, 8, 8]], np.uint8)
    ids = ["i5", "new"]
    additions.publish(
        home.catalogue / BOOK,
        additions.Additions(ids, ids, ids, np.eye(2, 4, dtype=np.float32), changed),
    )
    online.FeatureWriter(home, BOOK).write_item_codes(ids, changed)
    log.append([Event("e3", "u1", "i3", "click", 5)])  # brings the click that waited in as well
    EventConsumer(home).catch_up()
    report = ParityCheck(log, BOOK).check(["u1"])
    assert (report.compared, report.mismatches) == (1, ())
    at = pd.DataFrame(
        {"user_id": ["u1"], "event_timestamp": pd.to_datetime([9], unit="s", utc=True)}
    )
    found = training_set(home, BOOK, at).history(0)
    assert list(found.item_ids) == ["i0", "i3", "i5", "new", "i3"]
    log.close()
