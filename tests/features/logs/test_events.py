"""What is an event and what is not."""

import io
import json
import logging
import re
import time

import pytest
from pydantic import ValidationError

from features.logs.event_log import EventLog
from features.logs.events import EVENTS_PER_CALL, EventIn, first_problem, ingest
from hymirec import long_work
from hymirec.errors import DataError
from hymirec.home import Home

GOOD = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "kind": "click", "time": 1000}


def test_an_event_is_read_as_it_is_written():
    event = EventIn.model_validate(GOOD | {"value": 2.5, "context": {"a": [1]}}).to_event()
    assert (event.event_id, event.user_id, event.item_id) == ("e1", "u1", "i1")
    assert (event.kind, event.time, event.value, event.context) == ("click", 1000, 2.5, {"a": [1]})


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1970-01-01T00:16:40Z", 1000),
        ("1970-01-01T01:16:40+01:00", 1000),
        (1000.9, 1000),
        (-0.5, -1),
        ("1969-12-31T23:59:59.5+00:00", -1),
    ],
)
def test_times_in_any_zone_are_seconds(written, seconds):
    assert EventIn.model_validate(GOOD | {"time": written}).time == seconds


def test_without_a_time_an_event_happens_when_it_comes():
    given = {name: value for name, value in GOOD.items() if name != "time"}
    assert abs(EventIn.model_validate(given).time - time.time()) < 5


def test_whole_numbers_are_ids():
    assert EventIn.model_validate(GOOD | {"user_id": 7}).user_id == "7"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": None}, "user_id: "),
        ({"user_id": ""}, "user_id: String should have at least 1"),
        ({"user_id": 1.5}, "user_id: Input should be a valid string"),
        ({"user_id": True}, "user_id: Input should be a valid string"),
        ({"item_id": "x" * 1025}, "item_id: String should have at most 1024"),
        ({"item_id": "a\0b"}, "item_id: a NUL character"),
        ({"item_id": "\ud800"}, "item_id: "),
        ({"kind": "view"}, "kind: Input should be 'click', 'impression' or 'conversion'"),
        ({"time": "yesterday"}, "time: 'yesterday' is not an ISO 8601 time"),
        ({"time": "2026-01-01T00:00:00"}, "time: .* has no time zone"),
        ({"time": 4_000_000_000}, r"time: 4000000000 is \d+ s in the future"),
        ({"time": 1_700_000_000_000}, "time: .*milliseconds"),
        ({"time": float("nan")}, "time: nan is no time"),
        ({"time": -1e15}, "time: .* is no time"),
        ({"time": -10_000_000_000}, "time: .* is no time from 1685 on"),
        ({"time": True}, "time: a time is"),
        ({"time": None}, "time: a time is"),
        ({"value": "much"}, "value: "),
        ({"value": float("inf")}, "value: "),
        ({"context": {"a": "x" * 10_000}}, "context: more than 10000"),
        ({"context": []}, "context: "),
        ({"context": {"score": float("nan")}}, "context: Out of range float values are not JSON"),
        ({"colour": "red"}, "colour: Extra inputs"),
    ],
)
def test_what_is_no_event_is_refused_by_the_name_of_its_field(change, message):
    with pytest.raises(ValidationError) as caught:
        EventIn.model_validate(GOOD | change)
    line = first_problem(caught.value)
    assert "\n" not in line
    assert re.match(message, line), line


def test_missing_fields_are_named():
    for name in ("event_id", "user_id", "item_id", "kind"):
        with pytest.raises(ValidationError) as caught:
            EventIn.model_validate({key: value for key, value in GOOD.items() if key != name})
        assert first_problem(caught.value) == f"{name}: Field required"


@pytest.fixture
def log(tmp_path):
    log = EventLog(Home.at(tmp_path))
    yield log
    log.close()


def lines(count, **change):
    return [json.dumps(GOOD | {"event_id": n} | change) + "\n" for n in range(count)]


def test_a_file_is_taken_in_once(log):
    assert ingest(log, [*lines(2300), "\n"], "f.jsonl") == (2300, 2300)
    assert ingest(log, io.BytesIO("".join(lines(2400)).encode()), "f.jsonl") == (2400, 100)
    assert log.end >= 2400


def test_a_long_file_says_how_far_it_has_come(log, monkeypatch, caplog):
    monkeypatch.setattr(long_work, "SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level(logging.INFO)
    ingest(log, lines(EVENTS_PER_CALL + 1), "file")
    assert caplog.messages == ["ingest: 1,000 events so far", "ingest: 1,001 events so far"]


def test_a_wrong_line_is_named_and_the_corrected_file_adds_the_rest(log):
    source = lines(2300)
    source[2100] = '{"event_id": 5}\n'
    with pytest.raises(DataError, match=r"f.jsonl line 2101: user_id: .*lines up to line 2000"):
        ingest(log, source, "f.jsonl")
    assert log.end == 2000
    assert ingest(log, lines(2300), "f.jsonl") == (2300, 300)
    with pytest.raises(DataError, match=r"f.jsonl line 1: Invalid JSON"):
        ingest(log, [b"\xff\xfe"], "f.jsonl")
