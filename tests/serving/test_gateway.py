"""The gateway: what it takes, what it refuses, and what it says of itself."""

import json
import time
from contextlib import closing

import pytest
from fastapi.testclient import TestClient
from mlflow.webhooks.delivery import _generate_hmac_signature

from features.logs.audit_log import NOTICED, PROMOTION, AuditLog
from features.logs.event_log import EventLog
from hymirec import __version__
from serving.gateway import MAX_BODY, create_app, without_paths
from serving.hooks import ENV_SECRET
from serving.metrics import STAGES
from serving.rollout import ChampionOnly, Route
from serving.tokens import ENV_TOKENS, Tokens

LOCAL = "http://localhost"
GOOD = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "kind": "click", "time": 1000}


@pytest.fixture
def client(home, make_fleet):
    with TestClient(create_app(home, make_fleet()), base_url=LOCAL) as client:
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
        ("{", "the body is no JSON: "),
        (b"\xff\xfe\x00", ""),
        ({"events": [GOOD], "dry_run": True}, "dry_run: Extra inputs"),
    ],
)
def test_a_wrong_request_is_refused_whole_with_the_fields_name(client, log, body, message):
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = client.post(
        "/v1/events", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == (400 if body in ("{", b"\xff\xfe\x00") else 422)
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


def test_a_log_that_cannot_be_written_is_no_acknowledgement(home, client, log):
    with log._database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE events RENAME TO hidden")
    answer = post(client, GOOD)
    assert answer.status_code == 503
    assert answer.json() == {"error": "events cannot be stored at present: try again"}
    assert "hymirec_event_lag_seconds NaN" in client.get("/metrics").text
    client.app.state.gateway.pulse.look()
    with log._database.engine.begin() as connection:
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
        ({}, "user_id or recent_items is needed"),
        ({"user_id": 1.5}, "user_id: "),
        ({"user_id": ""}, "user_id: String should have at least 1"),
        ({"user_id": "a\0b"}, "user_id: a NUL character"),
        ({"user_id": "u", "k": 0}, "k: Input should be greater"),
        ({"user_id": "u", "k": 1001}, "k: Input should be less"),
        ({"user_id": "u", "k": 2.5}, "k: "),
        ({"user_id": "u", "exclude_seen": "no"}, "exclude_seen: "),
        ({"user_id": "u", "top": 3}, "top: Extra"),
        ({"user_id": "u", "diversity": 1.5}, "diversity: "),
        ({"user_id": "u", "filters": {"categories": []}}, "filters.categories: "),
        ({"user_id": "u", "filters": {"genre": ["a"]}}, "filters.genre: Extra"),
        ({"user_id": "u", "recent_items": ["a"] * 1001}, "recent_items: List should have at most"),
    ],
)
def test_what_is_no_request_for_recommendations_is_refused(client, body, message):
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)


def recommend(client, **asked):
    answer = client.post("/v1/recommendations", json={"user_id": "u1"} | asked)
    assert answer.status_code == 200
    return answer.json()


def test_an_answer_says_who_gave_it(client):
    answer = client.post("/v1/recommendations", json={"user_id": "u1", "k": 3},
                         headers={"X-Request-Id": "abc-1"})  # fmt: skip
    found = answer.json()
    assert len(found["recommendations"]) == 3
    marks = ("model_version", "run_id", "codebook_id", "feature_age_seconds", "request_id")
    assert [found[name] for name in marks] == ["1", "run1", "book", 60.0, "abc-1"]
    assert found["degraded"] is found["variant"] is None
    headers = answer.headers
    assert [headers[name] for name in ("x-model-version", "x-model-run", "x-codebook")] == [
        "1", "run1", "book",
    ]  # fmt: skip
    assert headers["x-request-id"] == "abc-1"
    stages = dict(part.split(";dur=") for part in headers["server-timing"].split(", "))
    assert set(stages) == set(STAGES)
    text = client.get("/metrics").text
    assert 'hymirec_answers_total{degraded="",model_version="1",served_by="full"} 1.0' in text
    assert 'hymirec_latency_seconds_count{stage="mlflow"} 1.0' in text
    assert "hymirec_feature_age_seconds_count 1.0" in text


def test_answers_are_marked_while_events_wait_for_too_long(client, monkeypatch):
    gateway = client.app.state.gateway
    for lag, said in ((61.0, "late events"), (59.0, None)):
        monkeypatch.setattr(gateway.lag, "_lag_seconds", lambda lag=lag: lag)
        gateway.lag.look()
        answer = client.post("/v1/recommendations", json={"user_id": "u1"}).json()
        assert (answer["served_by"], answer["degraded"]) == ("full", said)


def test_several_are_answered_in_their_order(client):
    asked = {"requests": [{"user_id": f"u{n}", "k": n} for n in range(1, 20)]}
    answers = client.post("/v1/recommendations:batch", json=asked).json()["answers"]
    assert [answer["user_id"] for answer in answers] == [f"u{n}" for n in range(1, 20)]
    assert [len(answer["recommendations"]) for answer in answers] == list(range(1, 20))


def test_version_tells_what_is_served(client):
    found = client.get("/version").json()
    assert found["model_version"] == "1"
    assert found["hymirec"] == __version__
    assert client.get("/openapi.json").json()["info"]["version"] == __version__
    assert found["feature_age_seconds"] is None
    (only,) = found["versions"]
    assert (only["role"], only["servers"], only["problem"]) == ("champion", 1, None)
    recommend(client)
    assert client.get("/version").json()["feature_age_seconds"] == 60.0
    assert client.get("/readyz").json() == {"status": "ok", "model_version": "1", "servers": 1}
    assert client.get("/healthz").json() == {"status": "ok"}


def test_without_a_model_server_what_is_popular_is_answered_and_marked(client):
    fleet = client.app.state.gateway.fleet
    fleet.champion._dispatcher.callers.clear()
    answer = recommend(client, k=3, filters={"exclude_items": ["i1"], "categories": ["odd"]})
    assert (answer["served_by"], answer["degraded"]) == ("popular", "no model server")
    assert [item["item_id"] for item in answer["recommendations"]] == ["i3", "i5", "i7"]
    assert answer["model_version"] == "1"
    assert client.get("/readyz").json()["status"] == "degraded"
    assert client.get("/ping").status_code == 503
    answer = client.post("/invocations", json={"inputs": []})
    assert answer.status_code == 503


def test_a_server_that_refuses_or_takes_too_long_is_an_answer_without_it(
    home, registry, make_fleet
):
    registry.champion = registry.make(2, refuses="bad", seconds=0.05)
    with TestClient(create_app(home, make_fleet(answer_seconds=0.5)), base_url=LOCAL) as client:
        assert recommend(client)["degraded"] is None
        assert recommend(client, user_id="bad")["degraded"] == "model failed"
        body = {"inputs": [{"user_id": "bad"}]}
        answer = client.post("/invocations", json=body)
        assert (answer.status_code, answer.json()) == (400, {"error": "no, at …"})
    registry.champion = registry.make(3, seconds=0.2)
    with TestClient(create_app(home, make_fleet(answer_seconds=0.05)), base_url=LOCAL) as client:
        assert recommend(client)["degraded"] == "model too slow"


class Experiment(ChampionOnly):
    """Gives one user another version and another another setting, and notes the answers."""

    def __init__(self):
        self.noted = []

    def versions(self):
        return (2,)

    def route(self, user_id, query, attributes):
        if user_id == "treated":
            return Route(version=2, variant="e1/treatment", context="mine")
        if user_id == "fewer":
            return Route(settings={"k": 2}, variant="e2/fewer")
        if user_id == "wrong":
            return Route(settings={"k": -2}, variant="e3/wrong")
        if user_id == "lost":
            return Route(version=9, variant="e4/lost")
        return Route()

    async def on_answer(self, answered):
        self.noted.append(answered)
        if answered.user_id == "unnoted":
            raise RuntimeError("no room")


def test_a_rollout_says_who_answers_and_hears_of_it(home, registry, make_fleet):
    registry.make(2)
    rollout = Experiment()
    app = create_app(home, make_fleet(rollout), rollout=rollout)
    with TestClient(app, base_url=LOCAL) as client:
        deadline = time.monotonic() + 10
        while (
            len(client.get("/version").json()["versions"]) < 2
            or recommend(client, user_id="treated")["model_version"] != "2"
        ):
            assert time.monotonic() < deadline
        rollout.noted.clear()
        treated = recommend(client, user_id="treated")
        assert (treated["variant"], treated["model_version"]) == ("e1/treatment", "2")
        assert len(recommend(client, user_id="fewer")["recommendations"]) == 2
        assert recommend(client, user_id="wrong")["variant"] is None
        lost = recommend(client, user_id="lost")
        assert lost["degraded"] == "variant's version not ready"
        assert lost["model_version"] == "1"
        assert recommend(client, user_id="unnoted")["variant"] is None
    noted = {one.user_id: one for one in rollout.noted}
    assert noted["treated"].answer["degraded"] is None
    assert noted["treated"].route.context == "mine"
    assert noted["treated"].answer["recommendations"]
    assert noted["fewer"].query.k == 2
    assert noted["lost"].answer["degraded"]


def test_what_befalls_the_answer_in_a_variants_place_is_no_error_of_the_variant(
    home, make_fleet, monkeypatch
):
    rollout = Experiment()
    app = create_app(home, make_fleet(rollout), rollout=rollout)

    async def fallback(version, user_id, query):
        return {
            "served_by": "popular", "feature_age_seconds": None, "degraded": "no model server",
            "model_version": "1", "run_id": "run1", "codebook_id": "book", "recommendations": [],
        }, {}  # fmt: skip

    with TestClient(app, base_url=LOCAL) as client:
        monkeypatch.setattr(app.state.gateway.answerer, "_predict", fallback)
        assert recommend(client, user_id="lost")["degraded"] == "variant's version not ready"
        assert recommend(client, user_id="anybody")["degraded"] == "no model server"


@pytest.fixture
def guarded(home, make_fleet, monkeypatch):
    lines = "shop-token-0123456789 recommend,events shop; ops-token-0123456789 operate ops"
    monkeypatch.setenv(ENV_TOKENS, lines)
    app = create_app(
        home, make_fleet(), tokens=Tokens.from_environment(),
        settings=make_fleet(rate=0.001, burst=5).settings,
    )  # fmt: skip
    with TestClient(app, base_url="http://shop.example") as client:
        yield client


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_a_token_opens_what_its_roles_say(guarded):
    shop, ops = bearer("shop-token-0123456789"), bearer("ops-token-0123456789")
    asked = {"json": {"user_id": "u1"}}
    assert guarded.post("/v1/recommendations", **asked).status_code == 401
    assert guarded.post("/v1/recommendations", **asked, headers=bearer("x")).status_code == 401
    assert guarded.post("/v1/recommendations", **asked, headers=shop).status_code == 200
    assert guarded.post("/v1/recommendations", **asked, headers=ops).status_code == 403
    assert guarded.post("/invocations", **asked, headers=ops).status_code == 403
    assert guarded.get("/metrics", headers=shop).status_code == 403
    assert guarded.get("/metrics", headers=ops).status_code == 200
    assert guarded.get("/version", headers=shop).status_code == 200
    assert guarded.get("/version").status_code == 401
    assert guarded.get("/healthz").status_code == guarded.get("/readyz").status_code == 200
    assert guarded.get("/nowhere").status_code == 401


def test_a_sender_that_sends_too_much_is_told_to_wait(guarded):
    shop = bearer("shop-token-0123456789")
    found = [guarded.get("/version", headers=shop) for _ in range(6)]
    assert [answer.status_code for answer in found] == [200] * 5 + [429]
    assert int(found[-1].headers["retry-after"]) > 0
    assert guarded.get("/version", headers=bearer("ops-token-0123456789")).status_code == 200


def test_without_tokens_a_page_elsewhere_cannot_ask(client):
    answer = client.get("/version", headers={"Host": "evil.example"})
    assert answer.status_code == 403
    answer = client.post(
        "/v1/events", content=json.dumps({"events": [GOOD]}), headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 415


def test_a_webhook_of_mlflow_makes_the_gateway_look(home, make_fleet, monkeypatch):
    monkeypatch.setenv(ENV_SECRET, "a secret")
    fleet = make_fleet()
    with TestClient(create_app(home, fleet), base_url=LOCAL) as client:
        body, now = '{"entity": "model_version_alias"}', str(int(time.time()))
        signed = _generate_hmac_signature("a secret", "d1", now, body)
        headers = {"x-mlflow-delivery-id": "d1", "x-mlflow-timestamp": now,
                   "x-mlflow-signature": signed, "content-type": "application/json"}  # fmt: skip
        old = str(int(now) - 1000)
        signed_then = _generate_hmac_signature("a secret", "d1", old, body)
        for wrong in (
            {"x-mlflow-signature": ""},
            {"x-mlflow-signature": "v1,é"},
            {"x-mlflow-delivery-id": "d2"},
            {"x-mlflow-timestamp": "²"},
            {"x-mlflow-timestamp": "9" * 5000},
            {"x-mlflow-timestamp": old, "x-mlflow-signature": signed_then},
        ):
            sent = {k: v.encode("latin-1") for k, v in (headers | wrong).items()}
            assert client.post("/v1/hooks/mlflow", content=body, headers=sent).status_code == 401
        assert client.post("/v1/hooks/mlflow", content=body, headers=headers).status_code == 204
    monkeypatch.delenv(ENV_SECRET)
    with TestClient(create_app(home, make_fleet()), base_url=LOCAL) as client:
        assert client.post("/v1/hooks/mlflow", content=body, headers=headers).status_code == 404


def test_a_move_past_the_history_is_in_the_history(home, registry, make_fleet):
    with closing(AuditLog(home)) as history:

        def moves():
            return [(one.kind, one.before, one.after) for one in history.read()]

        with TestClient(create_app(home, make_fleet()), base_url=LOCAL):
            began = [(NOTICED, "", "1")]
            assert soon(lambda: moves() == began)
            registry.make(2)
            with history.moving():  # as the gate does
                registry.champion = 2
                history.record(PROMOTION, "hymirec@champion", before="1", after="2")
            registry.make(3)
            time.sleep(0.3)
            registry.champion = 3  # as MLflow's page does
            expected = [*began, (PROMOTION, "1", "2"), (NOTICED, "2", "3")]
            assert soon(lambda: moves() == expected)


def soon(condition):
    deadline = time.monotonic() + 20
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def test_every_answer_is_marked_and_tells_nothing(client):
    for answer in (client.get("/version"), client.get("/nowhere"), client.get("/v1/events")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"]
    client.app.state.gateway.state = None  # a mistake of ours
    answer = client.get("/version")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert answer.json()["error"].endswith(answer.headers["x-request-id"])
    long = client.get("/healthz", headers={"X-Request-Id": "x" * 200, "X-Long": "y" * 40_000})
    assert long.status_code == 431
    assert len(long.headers["x-request-id"]) == 32


def test_places_on_this_machine_are_left_out():
    assert without_paths("codebook 2f not published in /home/me/x: no") == (
        "codebook 2f not published in … no"
    )
    assert without_paths("and/or") == "and/or"
