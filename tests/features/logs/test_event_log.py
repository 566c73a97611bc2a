"""The event log: durable, in order, every event once. Runs on PostgreSQL too where it is there."""

import multiprocessing
import threading
import time
from dataclasses import replace

import pytest

from features.logs.event_log import Event, EventLog
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home


@pytest.fixture
def log(tmp_path, place):
    log = EventLog(Home.at(tmp_path))
    yield log
    log.close()


def click(number, user="u1", item="i1", when=None):
    return Event(f"e{number}", user, item, "click", 1000 + number if when is None else when)


def test_events_come_back_as_they_were_in_the_order_they_came(log):
    events = [
        click(1),
        Event("x", "ü", "映画", "impression", -5, 0.5, {"request": "r1", "place": 3}),
        click(2, when=7),
    ]
    before = time.time()
    assert log.append(events) == 3
    found = log.after(0)
    assert [one.event for one in found] == events
    assert [one.position for one in found] == [1, 2, 3]
    assert all(before <= one.received_at <= time.time() for one in found)
    assert log.after(1, limit=1) == found[1:2]
    assert log.after(3) == []
    assert log.end == 3


def test_an_event_counts_once(log):
    assert log.append([click(1), click(2)]) == 2
    assert log.append([click(2, user="someone else"), click(3), click(3)]) == 1
    assert [one.event.event_id for one in log.after(0)] == ["e1", "e2", "e3"]
    assert log.after(0)[1].event.user_id == "u1"  # the first word stands


def test_all_of_a_call_or_nothing(log):
    log.append([click(1)])
    with pytest.raises(HymirecError, match=r"event log .*(log.db|/test_\d+) cannot be used"):
        log.append([click(2), replace(click(3), user_id=None)])
    assert log.end == 1


def test_clicks_of_users_are_in_order_of_time(log):
    log.append([click(3), click(1), click(2, when=1003, item="i9"), click(5, user="u2")])
    log.append([Event("p", "u1", "i1", "impression", 1)])
    found = log.clicks_of(["u1", "u3"])
    assert [one.position for one in found["u1"]] == [2, 1, 3]
    assert found["u3"] == []
    assert log.users() == ["u1", "u2"]
    assert log.users_who_clicked(["i9", "i2"]) == ["u1"]


def test_many_users_are_asked_about_at_once(log):
    log.append([click(n, user=f"u{n}") for n in range(1200)])
    found = log.clicks_of([f"u{n}" for n in range(1300)])
    assert sum(map(len, found.values())) == 1200


def test_readers_remember_where_they_are(log):
    assert log.offset("reader") == 0
    log.advance("reader", 7)
    log.advance("other", 2)
    log.advance("reader", 9)
    assert (log.offset("reader"), log.offset("other")) == (9, 2)
    again = EventLog(log.home)
    assert again.offset("reader") == 9
    again.close()


def test_an_address_of_no_known_database_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"HYMIREC_EVENT_LOG: mysql://me:\*\*\*@db/x is not a "):
        EventLog(Home.at(tmp_path), "mysql://me:secret@db/x")


def _append_many(home, first, started):
    log = EventLog(home)
    started.wait()
    for number in range(first, first + 50):
        log.append([click(number), click(10_000)])


def test_processes_share_a_log(tmp_path, place):
    home = Home.at(tmp_path)
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(3)
    writers = [
        context.Process(target=_append_many, args=(home, first, started)) for first in (0, 100, 200)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    log = EventLog(home)
    found = log.after(0)
    assert {one.event.event_id for one in found} == {
        *(f"e{first + n}" for first in (0, 100, 200) for n in range(50)), "e10000",
    }  # fmt: skip
    assert len(found) == 151
    log.close()


def test_the_right_to_write_is_one_holders_or_shared(log):
    held, order = threading.Event(), []

    def hold(name, shared):
        with log.writing(shared=shared):
            order.append(name)
            if name == "first":
                held.wait(30)

    threads = []
    for name, shared in (("first", True), ("second", True), ("alone", False), ("late", True)):
        threads.append(threading.Thread(target=hold, args=(name, shared)))
        threads[-1].start()
        time.sleep(0.5)  # so that they ask in this order
    assert order == ["first", "second"]  # and one who comes late does not pass by who waits
    held.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "alone", "late"]
