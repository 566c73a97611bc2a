"""Clicks in the log become history: in order of time, each once, however often they are brought."""

import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import publishing
import pytest

from features import offline, online, publication, updates
from features.logs.event_log import Event, EventLog
from features.updates import EventConsumer, HistoryUpdater, with_clicks
from hymirec.history import History
from hymirec.home import Home

CODEBOOK, NEXT = "0123456789ab", "ba9876543210"
ITEMS = [f"i{n}" for n in range(20)]
WIDTHS = {CODEBOOK: 9, NEXT: 3}


def codes_of(codebook_id):
    rng = np.random.default_rng(len(codebook_id) + WIDTHS[codebook_id])
    return rng.integers(0, 256, (len(ITEMS), WIDTHS[codebook_id])).astype(np.uint8)


CODES = dict(zip(ITEMS, codes_of(CODEBOOK), strict=True))


def history(*events):
    codes = np.array([CODES[item] for item, _ in events], dtype=np.uint8).reshape(-1, 9)
    return History(
        [item for item, _ in events], np.array([t for _, t in events], np.int64), codes, CODEBOOK
    )


def clicks(*events, user="u"):
    return [Event(f"{user}-{n}", user, item, "click", t) for n, (item, t) in enumerate(events)]


def events_of(row):
    for item, code in zip(row.item_ids, row.codes, strict=True):
        np.testing.assert_array_equal(code, CODES[item])
    return list(zip(row.item_ids, row.times.tolist(), strict=True))


def test_clicks_land_where_their_time_puts_them():
    before = history(("i1", 10), ("i2", 20), ("i3", 20))
    after = with_clicks(before, clicks(("i4", 5), ("i5", 20), ("i6", 99)), CODES)
    assert events_of(after) == [
        ("i4", 5), ("i1", 10), ("i2", 20), ("i3", 20), ("i5", 20), ("i6", 99),
    ]  # fmt: skip


def test_adding_again_adds_nothing():
    before = history(("i1", 10))
    new = clicks(("i2", 9), ("i2", 9), ("i1", 11))  # twice in one second is twice
    after = with_clicks(before, new, CODES)
    assert events_of(after) == [("i2", 9), ("i2", 9), ("i1", 10), ("i1", 11)]
    assert with_clicks(after, new, CODES) is after


def test_what_the_published_data_already_holds_is_not_doubled():
    before = history(("i1", 10), ("i2", 11))
    assert with_clicks(before, clicks(("i2", 11)), CODES) is before
    after = with_clicks(before, clicks(("i2", 11), ("i2", 11)), CODES)
    assert events_of(after) == [("i1", 10), ("i2", 11), ("i2", 11)]


def test_an_item_without_a_code_waits():
    before = history(("i1", 10))
    new = clicks(("new", 5), ("i2", 20))
    after = with_clicks(before, new, CODES)
    assert events_of(after) == [("i1", 10), ("i2", 20)]
    known = CODES | {"new": np.arange(9, dtype=np.uint8)}
    assert list(with_clicks(after, new, known).item_ids) == ["new", "i1", "i2"]


def test_a_full_row_keeps_the_latest(monkeypatch):
    monkeypatch.setattr(updates, "MAX_EVENTS", 3)
    new = clicks(("i1", 1), ("i2", 2), ("i3", 3), ("i4", 4))
    row = with_clicks(history(), new, CODES)
    assert events_of(row) == [("i2", 2), ("i3", 3), ("i4", 4)]
    assert with_clicks(row, new, CODES) is row  # the first is not brought back


def test_any_order_and_any_number_of_tries_come_to_the_same():
    rng = np.random.default_rng(0)
    for _ in range(300):
        base = sorted(
            ((f"i{rng.integers(4)}", int(rng.integers(5))) for _ in range(rng.integers(6))),
            key=lambda event: event[1],
        )
        new = clicks(*((f"i{rng.integers(4)}", int(rng.integers(5))) for _ in range(6)))
        whole = with_clicks(history(*base), new, CODES)
        step = history(*base)
        for _ in range(4):
            known = [new[place] for place in sorted(rng.choice(6, rng.integers(7), replace=False))]
            step = with_clicks(step, known, CODES)
        step = with_clicks(step, new, CODES)
        assert events_of(step) == events_of(whole)
        assert (np.diff(step.times) >= 0).all()


def test_within_a_second_a_click_that_waited_stands_where_it_came():
    before = history(("i1", 10), ("i2", 20))
    new = clicks(("new", 20), ("i3", 20), ("i4", 30))
    row = with_clicks(before, new, CODES)
    assert events_of(row) == [("i1", 10), ("i2", 20), ("i3", 20), ("i4", 30)]
    known = CODES | {"new": np.arange(9, dtype=np.uint8)}
    assert list(with_clicks(row, new, known).item_ids) == ["i1", "i2", "new", "i3", "i4"]
    assert with_clicks(row, new, known).item_ids == with_clicks(before, new, known).item_ids


def test_within_a_second_what_the_data_alone_holds_comes_first():
    before = history(("i1", 10), ("i2", 10), ("i1", 10), ("i3", 10))
    row = with_clicks(before, clicks(("i3", 10), ("i1", 10), ("i4", 10)), CODES)
    assert [item for item, _ in events_of(row)] == ["i1", "i2", "i3", "i1", "i4"]


@pytest.fixture
def home(tmp_path, stores):
    home = Home.at(tmp_path).create()
    for codebook_id in (CODEBOOK, NEXT):
        publish(home, codebook_id)
    return home


def publish(home, codebook_id, items=ITEMS):
    interactions = pd.DataFrame(
        {
            "user_id": ["u1", "u1", "u2"],
            "item_id": ["i1", "i2", "i3"],
            "timestamp": pd.to_datetime([100, 200, 300], unit="s", utc=True),
        }
    )
    codes, now = codes_of(codebook_id)[: len(items)], datetime.now(UTC)
    publishing.publish(home, codebook_id, interactions, items, codes, now)


def row_of(home, user_id, codebook_id=CODEBOOK):
    row = online.FeatureReader(home, codebook_id).read_user(user_id)
    return None if row is None else list(row.history.item_ids)


def test_a_click_is_in_the_rows_of_every_codebook(home):
    consumer = EventConsumer(home)
    consumer.event_log.append(
        [
            *clicks(("i4", 150), ("i5", 10**9), user="u1"),
            *clicks(("i6", 5), user="newcomer"),
            Event("seen", "u2", "i9", "impression", 400),
        ]
    )
    assert consumer.lag_seconds() > 0
    assert consumer.catch_up() == 4
    assert consumer.lag_seconds() == 0
    assert consumer.catch_up() == 0
    for codebook_id in (CODEBOOK, NEXT):
        assert row_of(home, "u1", codebook_id) == ["i1", "i4", "i2", "i5"]
        assert row_of(home, "newcomer", codebook_id) == ["i6"]
        assert row_of(home, "u2", codebook_id) == ["i3"]
    reader = online.FeatureReader(home, NEXT)
    own = dict(zip(ITEMS, codes_of(NEXT), strict=True))
    stored = reader.read_user("u1").history
    np.testing.assert_array_equal(stored.codes, [own[item] for item in stored.item_ids])
    assert reader.read_user("u1").age_seconds(datetime.now(UTC)) < 10


def test_what_was_done_but_not_noted_is_done_again_to_no_effect(home):
    consumer = EventConsumer(home)
    consumer.event_log.append(clicks(("i4", 150), ("i4", 150), user="u1"))
    consumer.catch_up()
    consumer.event_log.advance(updates.CONSUMER, 0)  # as if killed before it was noted
    assert EventConsumer(home).catch_up() == 2
    assert row_of(home, "u1") == ["i1", "i4", "i4", "i2"]


def test_clicks_survive_a_publication(home):
    consumer = EventConsumer(home)
    consumer.event_log.append(clicks(("i4", 150), user="u1"))
    consumer.event_log.append(clicks(("i5", 1), user="newcomer"))
    consumer.catch_up()
    publish(home, CODEBOOK)
    assert row_of(home, "u1") == ["i1", "i4", "i2"]
    assert row_of(home, "newcomer") == ["i5"]


def test_a_codebook_that_comes_later_has_the_clicks_too(home):
    consumer = EventConsumer(home)
    consumer.event_log.append(clicks(("i4", 150), user="u1"))
    consumer.event_log.append(clicks(("i5", 1), user="newcomer"))
    consumer.catch_up()
    third = "aaaaaaaaaaaa"
    WIDTHS[third] = 5
    publish(home, third)
    assert row_of(home, "u1", third) == ["i1", "i4", "i2"]
    assert row_of(home, "newcomer", third) == ["i5"]


def test_clicks_during_a_first_publication_are_in_it(home, monkeypatch):
    """The consumer passes a codebook over that is not published yet, and notes the events."""
    consumer = EventConsumer(home)
    write, come = online.FeatureWriter.write_history_rows, [("u1", "i4"), ("newcomer", "i5")]

    def write_and_click(writer, rows):
        write(writer, rows)
        if come and writer.codebook_id == third:
            user, item = come.pop()
            consumer.event_log.append([Event(user, user, item, "click", 150)])
            threading.Thread(target=consumer.catch_up).start()

    third = "aaaaaaaaaaaa"
    WIDTHS[third] = 5
    monkeypatch.setattr(online.FeatureWriter, "write_history_rows", write_and_click)
    monkeypatch.setattr(publication, "_USERS_PER_WRITE", 1)
    publish(home, third)
    consumer.catch_up()
    assert come == []
    for codebook_id in (CODEBOOK, third):
        assert row_of(home, "u1", codebook_id) == ["i1", "i4", "i2"]
        assert row_of(home, "newcomer", codebook_id) == ["i5"]


def test_a_row_never_loses_its_clicks_while_published_again(home, monkeypatch):
    consumer = EventConsumer(home)
    consumer.event_log.append(clicks(("i4", 150), user="u1"))
    consumer.catch_up()
    reader, seen = online.FeatureReader(home, CODEBOOK), []
    write = online.FeatureWriter._write

    def write_and_look(writer, view, rows):
        write(writer, view, rows)
        seen.append(list(reader.read_user("u1").history.item_ids))

    monkeypatch.setattr(online.FeatureWriter, "_write", write_and_look)
    publish(home, CODEBOOK)
    assert len(seen) > 1
    assert all(items == ["i1", "i4", "i2"] for items in seen)


def test_replacing_a_history_keeps_its_other_fields():
    before = replace(history(("i1", 1)), written_at=77)
    assert with_clicks(before, clicks(("i2", 2)), CODES).written_at == 77


def test_a_running_consumer_finds_a_codebook_that_is_published_later(home):
    consumer = EventConsumer(home)
    consumer.catch_up()
    consumer._find_codebooks()  # as `run` does before anything has happened
    third = "bbbbbbbbbbbb"
    WIDTHS[third] = 4
    publish(home, third)
    consumer.event_log.append(clicks(("i4", 150), user="u1"))
    consumer.catch_up()
    assert row_of(home, "u1", third) == ["i1", "i4", "i2"]


def test_a_consumer_told_to_stop_leaves_the_rest_of_a_backlog_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(updates, "EVENTS_PER_ROUND", 2)
    consumer, stop = EventConsumer(Home.at(tmp_path).create()), threading.Event()
    consumer.event_log.append(clicks(*(("i1", second) for second in range(7))))
    advance = consumer.event_log.advance

    def stopped_meanwhile(*position):
        advance(*position)
        stop.set()

    monkeypatch.setattr(consumer.event_log, "advance", stopped_meanwhile)
    consumer.run(stop, interval=0.01)
    assert consumer.event_log.offset(updates.CONSUMER) == 2
    monkeypatch.undo()
    assert consumer.catch_up() == 5


def test_a_lost_row_is_made_anew_from_what_was_published(home):
    consumer = EventConsumer(home)
    writer = online.FeatureWriter(home, CODEBOOK)
    store = writer._store
    view = store.get_feature_view(f"user_histories_{CODEBOOK}")
    store._get_provider().update_infra(
        project=store.project, tables_to_delete=[view], tables_to_keep=[], entities_to_delete=[],
        entities_to_keep=[], partial=True,
    )  # fmt: skip
    store._get_provider().update_infra(
        project=store.project, tables_to_delete=[], tables_to_keep=[view], entities_to_delete=[],
        entities_to_keep=[], partial=True,
    )  # fmt: skip
    assert row_of(home, "u1") is None
    consumer.event_log.append(clicks(("i4", 150), user="u1"))
    consumer.catch_up()
    assert row_of(home, "u1") == ["i1", "i4", "i2"]


def test_a_damaged_row_keeps_nobody_else_waiting(home):
    writer = online.FeatureWriter(home, CODEBOOK)
    rows = offline.packed_histories({"u1": history(("i9", 9))}, datetime.now(UTC))
    writer.write_history_rows(rows.assign(history=[b"HMH1 of long ago"]))
    consumer = EventConsumer(home)
    consumer.event_log.append(clicks(("i4", 150), user="u1"))
    consumer.event_log.append(clicks(("i5", 400), user="u2"))
    consumer.catch_up()
    assert row_of(home, "u1") == ["i1", "i4", "i2"]
    assert row_of(home, "u2") == ["i3", "i5"]


def test_a_full_row_split_within_a_second_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(updates, "MAX_EVENTS", 3)
    new = clicks(*((f"i{n}", 7) for n in range(6)))
    row = with_clicks(history(), new, CODES)
    assert events_of(row) == [("i3", 7), ("i4", 7), ("i5", 7)]
    assert with_clicks(row, new, CODES) is row


def test_a_row_of_somebody_who_clicks_without_end_is_what_all_clicks_make(home, monkeypatch):
    monkeypatch.setattr(updates, "MAX_EVENTS", 4)
    rng, consumer, read = np.random.default_rng(0), EventConsumer(home), []
    updaters = [HistoryUpdater(consumer.event_log, one) for one in (CODEBOOK, NEXT)]
    writer = online.FeatureWriter(home, CODEBOOK)
    lost = offline.packed_histories({"u1": history(("i1", 1))}, datetime.now(UTC))
    clicks_of = EventLog.clicks_of

    def counted(self, user_ids, since=None):
        found = clicks_of(self, user_ids, since)
        read.append(len(found["u1"]))
        return found

    for number in range(40):
        if number % 10 == 9:  # the row is lost
            writer.write_history_rows(lost.assign(history=[b"HMH1 of long ago"]))
        consumer.event_log.append(
            [
                # In time, late or long past, some of an item without a code.
                Event(f"{number}-{n}", "u1", f"i{rng.integers(18, 23)}", "click",
                      1000 + 10 * number - int(rng.choice([0, 0, 1, 30, 300])))
                for n in range(rng.integers(1, 3))
            ]
        )  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(EventLog, "clicks_of", counted)
            consumer.catch_up()
        assert [one.update(["u1"]) for one in updaters] == [0, 0]
    assert np.median(read[-20:]) < 15


def test_a_consumer_outlives_what_nobody_thought_of(home, monkeypatch, caplog):
    consumer, stop = EventConsumer(home), threading.Event()
    calls = []

    def fail_once(self, stop):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("nobody thought of this")
        stop.set()
        return 0

    monkeypatch.setattr(EventConsumer, "catch_up", fail_once)
    consumer.run(stop, interval=0.01)
    assert len(calls) == 2
    assert "nobody thought of this" in caplog.text
