"""The champion behind MLflow's real model server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import requests

from features.online import FeatureReader
from serving.client import ask
from serving.registry import Registry
from serving.server import ModelServer, free_port


@pytest.fixture(scope="module")
def server(home):
    version = Registry(home, "hymirec").resolve("champion")
    with ModelServer(home, "hymirec", version, host="127.0.0.1", port=0) as running:
        yield running


def invoke(server, records, **params):
    body = {"inputs": records, "params": params}
    return requests.post(f"{server.url}/invocations", json=body, timeout=30)


def test_a_known_user_is_served_by_the_model_with_named_interests(server):
    answer = ask(server.url, "u0003", 10)
    assert answer["served_by"] == "full"
    assert answer["model_version"] == "1"
    items = answer["recommendations"]
    assert len({item["item_id"] for item in items}) == 10
    assert {item["interest"] for item in items} <= {1, 2}
    assert all(1 <= len(item["because"]) <= 3 for item in items)
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)
    assert all(item["title"] for item in items)


def test_seen_items_are_left_out_unless_asked_for(server, home):
    codebook = (
        mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
        .get_model_version("hymirec", "1")
        .tags["codebook_id"]
    )
    seen = set(FeatureReader(home, codebook).read_user("u0003").history.item_ids)
    without = ask(server.url, "u0003", 1000)["recommendations"]
    assert not seen & {item["item_id"] for item in without}
    assert len(without) == 300 - len(seen)
    everything = ask(server.url, "u0003", 1000, exclude_seen=False)["recommendations"]
    assert len(everything) == 300


def test_an_unknown_user_gets_a_marked_fallback(server):
    answer = ask(server.url, "nobody", 3)
    assert answer["served_by"] == "popular"
    assert answer["recent"] == []
    assert [item["interest"] for item in answer["recommendations"]] == [0, 0, 0]


def test_several_users_in_one_request_come_back_in_order(server):
    response = invoke(server, [{"user_id": "u0003"}, {"user_id": "u0004"}], k=2)
    assert [answer["user_id"] for answer in response.json()["predictions"]] == ["u0003", "u0004"]


def test_what_is_no_user_id_is_the_callers_fault(server):
    response = invoke(server, [{"user_id": None}])
    assert response.status_code == 400
    assert "a text or a whole number is needed" in response.json()["message"]


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_out_of_range_is_the_callers_fault(server, k):
    response = invoke(server, [{"user_id": "u0003"}], k=k)
    assert response.status_code == 400
    assert f"k is {k}: 1 to 1000 items can be asked for" in response.json()["message"]


def test_a_request_without_user_id_names_the_column(server):
    response = invoke(server, [{"user": "u0003"}])
    assert response.status_code == 400
    assert "user_id" in response.json()["message"]


def test_recommend_prints_a_table_or_json(server, hymirec):
    table = hymirec("recommend", "--user", "u0003", "-k", "3", "--url", server.url)
    assert table.code == 0
    assert "lately" in table.stdout
    as_json = hymirec("recommend", "--user", "u0003", "-k", 3, "--url", server.url, "--json")
    assert len(as_json.json["recommendations"]) == 3


def test_more_than_the_catalogue_is_all_of_it_and_said_so(server, hymirec):
    done = hymirec("recommend", "--user", "u0003", "-k", "500", "--url", server.url)
    assert done.code == 0
    assert "500 items were asked for; there are no more to recommend" in done.stdout


def test_a_port_in_use_is_named(server, hymirec, home):
    port = server.url.rpartition(":")[2]
    done = hymirec("serve", "--home", home.root, "--port", port)
    assert done.code == 2
    assert f"port {port} of 127.0.0.1 cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_before_any_pipeline_says_what_to_run(hymirec, tmp_path):
    done = hymirec("serve", "--home", tmp_path / "empty")
    assert done.code == 2
    assert "run `hymirec pipeline` first" in done.stderr


def test_asking_where_nothing_answers_says_how_to_start_it(hymirec):
    done = hymirec("recommend", "--user", "x", "--url", "http://127.0.0.1:9")
    assert done.code == 2
    assert "hymirec serve" in done.stderr


@pytest.fixture(scope="module")
def gateway(home):
    """`hymirec serve` as typed."""
    port = free_port("127.0.0.1")
    program = Path(sys.executable).parent / "hymirec"
    process = subprocess.Popen(
        [program, "serve", "--home", home.root, "--port", str(port), "--replicas", "1",
         "--no-standby"],
        stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{url}/ping", timeout=5).ok:
                break
        except requests.ConnectionError:
            time.sleep(0.2)
    yield url
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def events_of(user_id, *items):
    return {
        "events": [
            {"event_id": f"{user_id}-{item}", "user_id": user_id, "item_id": item, "kind": "click"}
            for item in items
        ]
    }


def test_a_click_counts_in_the_next_request(gateway):
    before = ask(gateway, "u0003", 10)
    clicked = before["recommendations"][0]
    answer = requests.post(
        f"{gateway}/v1/events", json=events_of("u0003", clicked["item_id"]), timeout=30
    )
    assert answer.json() == {"accepted": 1, "duplicates": 0}
    acknowledged = time.monotonic()
    while (after := ask(gateway, "u0003", 10))["recent"] == before["recent"]:
        assert time.monotonic() < acknowledged + 20  # on a busy machine
    print(f"seen {1000 * (time.monotonic() - acknowledged):.0f} ms after it was acknowledged")
    assert after["recent"][-1] == clicked["title"]
    assert clicked["item_id"] not in {item["item_id"] for item in after["recommendations"]}


def test_a_newcomer_is_known_from_the_first_click(gateway, hymirec, home, tmp_path):
    assert ask(gateway, "newcomer", 3)["served_by"] == "popular"
    item = ask(gateway, "newcomer", 3)["recommendations"][0]["item_id"]
    file = tmp_path / "events.jsonl"
    lines = [json.dumps(event) + "\n" for event in events_of("newcomer", item)["events"]]
    file.write_text("".join(lines))
    done = hymirec("events", "ingest", file, "--home", home.root, "--json")
    assert (done.json["read"], done.json["new"]) == (1, 1)
    again = hymirec("events", "ingest", file, "--home", home.root, "--json")
    assert (again.json["read"], again.json["new"]) == (1, 0)
    assert ask(gateway, "newcomer", 3)["served_by"] == "full"


def recommendations(gateway, **asked):
    answer = requests.post(f"{gateway}/v1/recommendations", json=asked, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_gateway_answers_as_the_model_server_does(gateway):
    direct = ask(gateway, "u0004", 4)
    answer = recommendations(gateway, user_id="u0004", k=4, explain=True)
    assert answer["recommendations"] == direct["recommendations"]
    assert answer["recent"] == direct["recent"]
    marks = ("served_by", "model_version", "run_id", "codebook_id")
    assert [answer[name] for name in marks] == [direct[name] for name in marks]
    state = requests.get(f"{gateway}/version", timeout=30).json()
    assert [state[name] for name in marks[1:]] == [direct[name] for name in marks[1:]]
    metrics = requests.get(f"{gateway}/metrics", timeout=30).text
    assert 'hymirec_answers_total{degraded="",model_version="1",served_by="full"} 1.0' in metrics
    assert "hymirec_feature_age_seconds_count 1.0" in metrics


def test_filters_hold_before_the_cut_and_k_items_come_back(gateway):
    every = recommendations(gateway, user_id="u0004", k=300)["recommendations"]
    named = {item["item_id"]: set(item["categories"]) for item in every}
    category = sorted(every[-1]["categories"])[0]
    wanted = [item for item, names in named.items() if category in names]
    found = recommendations(
        gateway, user_id="u0004", k=5,
        filters={"categories": [category.upper()], "exclude_items": wanted[:2]},
    )  # fmt: skip
    assert [item["item_id"] for item in found["recommendations"]] == wanted[2:7]
    some = [item["item_id"] for item in every[-7:]]
    found = recommendations(gateway, user_id="u0004", filters={"available_items": [*some, "x"]})
    assert [item["item_id"] for item in found["recommendations"]] == some
    capped = recommendations(gateway, user_id="u0004", k=8, max_per_category=1)
    names = [name for item in capped["recommendations"] for name in item["categories"]]
    assert len(names) == len(set(names))


def test_a_visitor_is_answered_from_what_the_request_brings(gateway):
    every = recommendations(gateway, user_id="u0004", k=3)["recommendations"]
    looked_at = [item["item_id"] for item in every]
    found = recommendations(gateway, recent_items=looked_at, explain=True)
    assert (found["served_by"], found["user_id"]) == ("recent_only", None)
    assert not {item["item_id"] for item in found["recommendations"]} & set(looked_at)
    assert {near["item_id"] for item in found["recommendations"] for near in item["because"]} <= (
        set(looked_at)
    )
    assert recommendations(gateway, recent_items=[])["served_by"] == "popular"
    assert recommendations(gateway, recent_items=["unknown"])["served_by"] == "popular"
    both = recommendations(gateway, user_id="u0004", recent_items=looked_at[:1])
    assert both["served_by"] == "full"
    assert looked_at[0] not in {item["item_id"] for item in both["recommendations"]}


def test_a_lone_answer_and_one_of_many_are_the_same(gateway):
    users = [f"u{number:04d}" for number in range(40)]
    asked = {"requests": [{"user_id": user, "k": 5} for user in users]}
    answer = requests.post(f"{gateway}/v1/recommendations:batch", json=asked, timeout=60)
    for user, together in zip(users, answer.json()["answers"], strict=True):
        alone = recommendations(gateway, user_id=user, k=5)
        assert [item["item_id"] for item in alone["recommendations"]] == [
            item["item_id"] for item in together["recommendations"]
        ]


def test_no_answer_tells_of_code_or_paths(gateway):
    for params in ({"k": None}, {"k": 0}, {"k": "many"}):
        body = {"inputs": [{"user_id": "u0003"}], "params": params}
        answer = requests.post(f"{gateway}/invocations", json=body, timeout=30)
        assert answer.status_code == 400
        assert "Traceback" not in answer.text
        assert answer.json()["error"]
        assert "/" not in answer.text.replace("and/or", "")
