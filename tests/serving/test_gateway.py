"""The gateway: what it takes, what it refuses, and what it says of itself."""

import json
import time

import pytest
from fastapi.testclient import TestClient

from features.event_log import EventLog
from hymirec.home import Home
from serving.gateway import MAX_BODY, create_app

GOOD = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "kind": "click", "time": 1000}


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path).create()


@pytest.fixture
def client(home):
    # Nothing listens at the model server's address.
    with TestClient(create_app(home, "http://127.0.0.1:9")) as client:
        yield client


@pytest.fixture
def log(home):
    log = EventLog(home)
    yield log
    log.close()


def post(client, *events):
    return client.post("/v1/events", json={"events": list(events)})


def test_events_are_in_the_log_when_they_are_acknowledged(client, log):
    answer = post(client, GOOD, GOOD | {"event_id": 2, "kind": "impression"})
    assert (answer.status_code, answer.json()) == (200, {"accepted": 2, "duplicates": 0})
    assert [one.event.event_id for one in log.after(0)] == ["e1", "2"]
    answer = post(client, GOOD, GOOD | {"event_id": "e3"})
    assert answer.json() == {"accepted": 2, "duplicates": 1}
    assert log.end >= 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"events": [GOOD, GOOD | {"event_id": "e2", "item_id": None}]}, "events.1.item_id: "),
        ({"events": [GOOD | {"time": time.time() + 9999}]}, "events.0.time: "),
        ({"events": []}, "events: List should have at least 1"),
        ({}, "events: Field required"),
        ([GOOD], ""),
        ("{", "1: JSON decode error"),
        (b"\xff\xfe\x00", ""),
        ({"events": [GOOD], "dry_run": True}, "dry_run: Extra inputs"),
    ],
)
def test_a_wrong_request_is_refused_whole_with_the_fields_name(client, log, body, message):
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = client.post(
        "/v1/events", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == (400 if body == b"\xff\xfe\x00" else 422)
    (error,) = answer.json().values()
    assert error.startswith(message)
    assert error.endswith("(nothing of this request was taken)")
    assert log.end == 0


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client, log):
    def stream():
        for _ in range(100):
            yield b" " * 1_000_000

    for content in (b" " * (MAX_BODY + 1), stream()):
        answer = client.post("/v1/events", content=content)
        assert answer.status_code == 413
        assert "larger than 4000000 bytes" in answer.json()["error"]
    assert log.end == 0


def test_no_model_server_is_said_so(client):
    answer = client.post("/invocations", json={"dataframe_records": []})
    assert answer.status_code == 503
    assert "the model server does not answer" in answer.json()["error"]


def test_a_log_that_cannot_be_written_is_no_acknowledgement(home, client, log):
    with log._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE events RENAME TO hidden")
    answer = post(client, GOOD)
    assert answer.status_code == 503
    assert answer.json() == {"error": "events cannot be stored at present: try again"}
    with log._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO events")
    assert post(client, GOOD).json() == {"accepted": 1, "duplicates": 0}


def test_metrics_tell_what_was_taken_in(client):
    events = [GOOD, GOOD | {"event_id": 2}, GOOD | {"event_id": 3, "kind": "conversion"}]
    assert post(client, *events).json() == {"accepted": 3, "duplicates": 0}
    text = client.get("/metrics").text
    assert [line for line in text.splitlines() if line.startswith("hymirec_events_total")] == [
        'hymirec_events_total{kind="click"} 2.0', 'hymirec_events_total{kind="conversion"} 1.0',
    ]  # fmt: skip
    assert "hymirec_event_lag_seconds " in text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "user_id: Field required"),
        ({"user_id": None}, "user_id: "),
        ({"user_id": "u", "k": 0}, "k: Input should be greater"),
        ({"user_id": "u", "k": 1001}, "k: Input should be less"),
        ({"user_id": "u", "k": 2.5}, "k: "),
        ({"user_id": "u", "exclude_seen": "no"}, "exclude_seen: "),
        ({"user_id": "u", "top": 3}, "top: Extra"),
    ],
)
def test_what_is_no_request_for_recommendations_is_refused(client, body, message):
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)


def test_recommendations_without_a_model_server_are_a_503(client):
    answer = client.post("/v1/recommendations", json={"user_id": "u"})
    assert answer.status_code == 503
