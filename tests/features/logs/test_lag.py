"""Events that wait for too long are said of the answers that lack them."""

import threading
import time

import pytest

from features.logs import lag
from features.logs.event_log import Event
from features.logs.lag import ENV_MAX_LAG, LATE_EVENTS, LagLimit
from features.updates import EventConsumer
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home


@pytest.mark.parametrize(("seconds", "said"), [(0.0, None), (60.0, None), (60.1, LATE_EVENTS)])
def test_past_the_limit_it_says_so_and_within_it_no_longer(seconds, said):
    limit = LagLimit(lambda: seconds)
    limit.degraded = LATE_EVENTS
    limit.look()
    assert limit.degraded == said


def test_a_lag_that_nobody_can_tell_is_one(caplog):
    def gone():
        raise HymirecError("event log cannot be used: gone")

    limit = LagLimit(gone)
    for _ in range(3):
        limit.look()
    assert limit.degraded == LATE_EVENTS
    assert caplog.text.count("event log cannot be used: gone") == 1


def test_the_limit_is_a_setting(monkeypatch):
    monkeypatch.setenv(ENV_MAX_LAG, "5")
    assert LagLimit(lambda: 0.0).limit == 5
    monkeypatch.setenv(ENV_MAX_LAG, "soon")
    with pytest.raises(UsageError, match=f"{ENV_MAX_LAG} is 'soon'"):
        LagLimit(lambda: 0.0)


def test_a_consumer_that_stands_still_is_noticed_and_one_that_caught_up_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lag, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setenv(ENV_MAX_LAG, "0.2")
    consumer = EventConsumer(Home.at(tmp_path).create())
    limit, stop = LagLimit(consumer.lag_seconds), threading.Event()
    thread = threading.Thread(target=limit.run, args=(stop,))
    thread.start()
    try:
        consumer.event_log.append([Event("e1", "u", "i", "click", 1)])
        wait_for(lambda: limit.degraded == LATE_EVENTS)
        consumer.catch_up()
        wait_for(lambda: limit.degraded is None)
        assert consumer.lag_seconds() == 0
    finally:
        stop.set()
        thread.join()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
