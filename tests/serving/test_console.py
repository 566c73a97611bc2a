"""The console's pages: what they show, what they change, and whom they let in."""

import re
import time

import pytest
from fastapi.testclient import TestClient

from features.logs.event_log import Event, EventLog
from features.logs.experiments import ExperimentStore
from features.logs.exposures import Exposure, ExposureLog
from features.logs.readings import ReadingLog
from features.logs.readouts import ReadoutMaker
from hymirec.abtest.decisions import decide
from hymirec.abtest.definition import parse
from hymirec.errors import HymirecError
from serving.console import conclusions
from serving.gateway import create_app
from serving.tokens import ENV_TOKENS, Tokens

from .console_desk import OPERATE, PAGES, READ, TEXT, VERSIONS


@pytest.fixture
def open_console(home, make_fleet, desk):
    """Open the console of a gateway with tokens, or without; closed at the end."""
    opened = []

    def open_it(tokens=None):
        app = create_app(home, make_fleet(), tokens=tokens, desk=desk)
        client = TestClient(app, base_url="http://localhost", follow_redirects=False)
        opened.append(client)
        return client.__enter__()

    yield open_it
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture
def client(open_console):
    return open_console()


@pytest.fixture
def guarded(open_console, monkeypatch):
    monkeypatch.setenv(ENV_TOKENS, f"{READ} read anna; {OPERATE} operate bea")
    return open_console(Tokens.from_environment())


@pytest.fixture
def running(home, store):
    """An experiment with traffic, read out twice."""
    store.create(parse(TEXT, "test"))
    store.start("longer", VERSIONS, reason="go")
    rows, events = [], []
    split = store.get("longer").experiment.split(1.0)
    for number in range(200):
        variant = split.assign(f"u{number}").variant
        items = ["i1", "i2"]
        row = Exposure(
            f"r{number}", time.time(), "longer", f"u{number}", variant, "ab", "1", "book", 60.0,
            "full", "", "", False, False, 0.5, 12.0, items, [1, 2],
        )  # fmt: skip
        rows.append(vars(row) | {"kind": "Exposure", "exposure_id": f"x{number}"})
        if number % 4 == 0 or variant == "new":
            events.append(Event(f"e{number}", f"u{number}", "i1", "click", int(time.time()) + 1))
    log, exposures = EventLog(home), ExposureLog(home)
    exposures.append(rows)
    log.append(events)
    maker, readings = ReadoutMaker(home), ReadingLog(home)
    for _ in range(2):
        stored = store.get("longer")
        readout = maker.read(stored)
        readings.append(readout, decide(stored.experiment, stored.progress, readout))
    for one in (log, exposures, maker, readings):
        one.close()
    return store.get("longer")


def seal_in(page):
    return re.search(r'name="seal" value="([^"]+)"', page.text).group(1)


def revision_in(page):
    return re.search(r'name="revision" value="(\d+)"', page.text).group(1)


def act(client, name, action, **fields):
    page = client.get(f"/console/experiments/{name}/{action}")
    assert page.status_code == 200
    sent = {"seal": seal_in(page), "revision": revision_in(page), "reason": "because"} | fields
    return client.post(f"/console/experiments/{name}/{action}", data=sent)


def wait_until(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def sign_in(client, token, place=""):
    page = client.get("/console/sign-in")
    return client.post(
        "/console/sign-in", data={"seal": seal_in(page), "token": token, "next": place}
    )


def test_every_page_is_whole_and_runs_no_script(client, running):
    for path in PAGES:
        page = client.get(f"/console{path}")
        assert page.status_code == 200, path
        assert "script" not in page.text.lower(), path
        assert "default-src 'none'" in page.headers["content-security-policy"], path
        assert "script-src" not in page.headers["content-security-policy"]
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["cache-control"] == "no-store"
        assert 'lang="en"' in page.text
        assert "<main" in page.text
        assert len(re.findall("<h1", page.text)) == 1, path
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page.text), path
        assert "style=" not in page.text, path
        ids = re.findall(r' id="([^"]+)"', page.text)
        assert len(ids) == len(set(ids)), path
        for name in re.findall(r'<label[^>]* for="([^"]+)"', page.text):
            assert name in ids, (path, name)


def test_an_experiment_shows_lift_split_guardrails_ramp_and_log(client, running):
    text = client.get("/console/experiments/longer").text
    assert "&lt;b&gt;longer&lt;/b&gt;" in text
    assert "Lift of new in click_through" in text
    assert '<path class="band"' in text
    assert "No sample-ratio mismatch" in text
    assert 'aria-current="step"' in text
    assert "error_rate" in text
    assert re.search(r"<td class=\"t\">started</td><td>[^<]+</td>", text)
    listed = client.get("/console/experiments").text
    assert "longer" in listed
    assert "fine" in listed


def test_a_declaration_is_checked_created_started_ramped_and_concluded(client, store):
    page = client.get("/console/experiments/new")
    fields = {"seal": seal_in(page), "text": TEXT.replace("\n", "\r\n")}
    page = client.post("/console/experiments/new", data=fields | {"do": "check"})
    assert "It can be created" in page.text
    assert "Nothing has been served yet" in page.text
    assert store.all() == []
    answer = client.post("/console/experiments/new", data=fields | {"do": "create"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/experiments/longer")
    assert "Nothing has been served yet" in client.get("/console/experiments/longer").text
    page = client.post("/console/experiments/new", data=fields | {"do": "check"})
    assert "is there already (draft, never started)" in page.text
    for action, state in (("start", "running"), ("ramp", "running"), ("pause", "paused"),
                          ("resume", "running")):  # fmt: skip
        assert act(client, "longer", action).status_code == 303
        assert store.get("longer").state == state
    assert store.get("longer").step == 1
    page = act(client, "longer", "conclude", winner="nobody")
    assert act(client, "longer", "conclude", winner="new", promote="yes").status_code == 303
    assert (store.get("longer").state, store.get("longer").winner) == ("concluded", "new")
    assert "<dd>new, version 2</dd>" in client.get("/console/experiments/longer").text
    assert {one.actor for one in store.history("longer")} == {store.history("longer")[0].actor}
    assert store.history("longer")[0].actor.endswith("(console)")
    assert client.get("/console/experiments/longer/kill").status_code == 404


def test_the_form_begins_with_a_version_that_is_there(client):
    text = client.get("/console/experiments/new").text
    assert "model: 2}" in text
    assert "Version 2 reads longer histories" in text
    assert "days: 28" in text


def test_a_shadow_that_has_answered_nothing_yet_is_a_page(client, store):
    no_guardrails = TEXT.replace("guardrails:\n  - {metric: error_rate, absolute: 0.05}\n", "")
    store.create(parse(f"{no_guardrails}\nmode: shadow", "it"))
    assert "needs no number of users" in client.get("/console/experiments/longer").text
    act(client, "longer", "start")
    page = client.get("/console/experiments/longer?now=1")
    assert page.status_code == 200
    assert "<dd>–; champion –</dd>" in page.text


def test_a_draft_is_changed_until_it_starts(client, store):
    store.create(parse(TEXT, "it"))
    assert "/experiments/longer/change" in client.get("/console/experiments/longer").text
    page = client.get("/console/experiments/longer/change")
    assert 'name="replaces" value="longer"' in page.text
    fields = {"seal": seal_in(page), "do": "create", "replaces": "longer"}
    page = client.post(
        "/console/experiments/new", data=fields | {"text": TEXT.replace("longer", "other")}
    )
    assert "this changes &#39;longer&#39;" in page.text
    new = TEXT.replace("min_users: 400", "min_users: 800")
    client.post("/console/experiments/new", data=fields | {"text": new})
    assert store.get("longer").experiment.ramp[-1].min_users == 800
    assert [one.kind for one in store.history("longer")] == ["changed", "created"]
    assert act(client, "longer", "start").status_code == 303
    assert client.get("/console/experiments/longer/change").status_code == 404


def test_a_winner_goes_through_the_gate_and_who_forces_it_says_so(client, store, desk):
    store.create(parse(TEXT, "it"))
    act(client, "longer", "start")
    page = client.get("/console/experiments/longer/conclude").text
    assert "new (version 2: the gate has not compared it yet)" in page
    desk.refuses = "version 2 has not passed the gate"
    page = act(client, "longer", "conclude", winner="new", promote="yes")
    assert (page.status_code, store.get("longer").state) == (422, "running")
    assert "version 2 has not passed the gate" in page.text
    page = act(client, "longer", "conclude", winner="new", promote="yes", force="yes")
    assert (page.status_code, store.get("longer").state) == (303, "concluded")


def test_while_the_gate_judges_the_page_says_so(client, store, desk, monkeypatch):
    monkeypatch.setattr(conclusions, "PATIENT_SECONDS", 0.01)
    store.create(parse(TEXT, "it"))
    act(client, "longer", "start")
    path = "/console/experiments/longer"
    desk.judged.clear()
    assert act(client, "longer", "conclude", winner="new", promote="yes").status_code == 303
    page = client.get(path).text
    assert "It is being concluded with new as the winner, since" in page
    assert '<meta http-equiv="refresh" content="5">' in page
    page = act(client, "longer", "conclude", winner="control")
    assert (page.status_code, "longer is being concluded already" in page.text) == (422, True)
    desk.refuses = "version 2 has not passed the gate"
    desk.judged.set()
    wait_until(lambda: "refresh" not in client.get(path).text)
    page = client.get(path).text
    assert "went wrong" in page
    assert "version 2 has not passed the gate" in page
    assert store.get("longer").state == "running"
    desk.refuses = ""
    desk.judged.clear()
    assert act(client, "longer", "conclude", winner="new", promote="yes").status_code == 303
    desk.judged.set()
    wait_until(lambda: store.get("longer").state == "concluded")
    wait_until(lambda: "being concluded" not in client.get(path).text)
    assert "went wrong" not in client.get(path).text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [", "the declaration line"),
        (TEXT.replace("0.5", "2"), "ramp.0.share: Input should be less than or equal to 1"),
        (TEXT.replace("model: 2", "model: 9"), "no version of hymirec is &#39;9&#39;"),
        ("", "an experiment is a mapping"),
    ],
)
def test_a_wrong_declaration_is_refused_and_kept_in_the_form(client, store, text, problem):
    page = client.get("/console/experiments/new")
    fields = {"seal": seal_in(page), "text": text, "do": "create"}
    page = client.post("/console/experiments/new", data=fields)
    assert page.status_code == 422
    assert problem in page.text
    assert store.all() == []
    if text:
        assert text.splitlines()[-1].strip() in page.text


def test_nothing_is_changed_without_a_reason_or_behind_ones_back(client, running, store):
    assert act(client, "longer", "pause", reason=" ").status_code == 422
    page = act(client, "longer", "pause", revision="1")
    assert page.status_code == 422
    assert "has changed since you were asked" in page.text
    assert store.get("longer").state == "running"


def test_the_kill_switch_needs_no_second_thought_about_revisions(client, running, store):
    assert act(client, "longer", "kill", revision="0").status_code == 303
    assert store.get("longer").state == "stopped"
    assert store.history("longer")[0].kind == "killed"


def test_all_are_killed_at_once(client, running, store):
    page = client.get("/console/kill-all")
    assert "longer" in page.text
    answer = client.post("/console/kill-all", data={"seal": seal_in(page), "reason": "fire"})
    assert answer.status_code == 303
    assert store.active() == []


def test_other_sites_cannot_send_forms(client, running, store):
    path = "/console/experiments/longer/kill"
    assert client.post(path, data={"reason": "x"}).status_code == 403
    assert client.post(path, data={"reason": "x", "seal": "0" * 64}).status_code == 403
    good = {"reason": "x", "seal": seal_in(client.get(path))}
    crossed = client.post(path, data=good, headers={"sec-fetch-site": "cross-site"})
    assert crossed.status_code == 403
    assert "Nothing was changed" in crossed.text
    assert store.get("longer").state == "running"
    assert client.get(path, headers={"host": "evil.example"}).status_code == 403


def test_a_browser_signs_in_once_and_may_do_what_its_token_may(guarded, running, store):
    for path in PAGES:
        answer = guarded.get(f"/console{path}")
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/console/sign-in?next=/console/"), path
    assert guarded.get("/console/static/console.css").status_code == 200
    assert guarded.post("/console/experiments/longer/kill").status_code == 401
    assert sign_in(guarded, "no token of ours at all").status_code == 401
    answer = sign_in(guarded, READ, "/console/health")
    assert answer.headers["location"] == "/console/health"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert READ not in cookie
    page = guarded.get("/console/experiments/longer")
    assert page.status_code == 200
    assert "anna" in page.text
    assert "Kill switch" not in page.text
    assert guarded.get("/console/experiments/longer/kill").status_code == 403
    fields = {"seal": seal_in(page), "reason": "x"}
    assert guarded.post("/console/experiments/longer/kill", data=fields).status_code == 403
    # The cookie opens the console and nothing else.
    assert guarded.get("/metrics").status_code == 401
    guarded.post("/console/sign-out", data={"seal": seal_in(page)})
    assert guarded.get("/console/experiments").status_code == 303
    sign_in(guarded, OPERATE)
    assert act(guarded, "longer", "kill").status_code == 303
    assert store.history("longer")[0].actor == "bea (console)"


@pytest.mark.parametrize(
    "place", ["https://evil.example/", "//evil.example", "/console/\\evil", "/console/\r\nx: y"]
)
def test_signing_in_leads_nowhere_else(guarded, place):
    assert sign_in(guarded, READ, place).headers["location"] == "/console/experiments"


def test_a_sign_in_ends_with_its_time_and_with_its_token(guarded, open_console, monkeypatch):
    sign_in(guarded, READ)
    cookie = guarded.cookies["hymirec_console"]
    headers = {"cookie": f"hymirec_console={cookie}"}
    monkeypatch.setenv(ENV_TOKENS, f"{READ} read anna")
    again = open_console(Tokens.from_environment())  # after a restart
    assert again.get("/console/experiments", headers=headers).status_code == 200
    for until in ("9999999999", "²"):
        forged = cookie.replace(cookie.split(".")[1], until)
        headers_of_forged = {"cookie": f"hymirec_console={forged}".encode("latin-1")}
        assert again.get("/console/experiments", headers=headers_of_forged).status_code == 303
    monkeypatch.setenv(ENV_TOKENS, "another-token-altogether read anna")
    withdrawn = open_console(Tokens.from_environment())
    assert withdrawn.get("/console/experiments", headers=headers).status_code == 303
    monkeypatch.setattr("serving.sessions.time.time", lambda: time.monotonic() + 9e9)
    assert again.get("/console/experiments", headers=headers).status_code == 303


def test_versions_are_compared_and_rolled_back(client, desk):
    text = client.get("/console/versions/compare?a=1&b=2").text
    assert "+0.1000 (+100.0%)" in text
    assert "seed" in text
    assert client.get("/console/versions/7").status_code == 404
    page = client.get("/console/versions/roll-back")
    fields = {"seal": seal_in(page), "reason": "worse"}
    assert client.post("/console/versions/roll-back", data=fields).status_code == 303
    assert [reason for reason, _ in desk.rolled_back] == ["worse"]


def test_health_counts_answers_and_shows_monitoring(client):
    client.post("/v1/recommendations", json={"user_id": "u1", "k": 3})
    gateway = client.app.state.gateway
    gateway.pulse.look()
    client.post("/v1/recommendations", json={"user_id": "u1", "k": 3})
    gateway.pulse.look()
    text = client.get("/console/health").text
    assert '<p class="figure">2</p>' in text
    assert "Answers a second" in text
    assert "too far" in text
    assert "served/hit_rate" in text


def test_a_user_is_explored_side_by_side_without_being_exposed(client, running, home):
    text = client.get("/console/users?user_id=u1").text
    assert "Version 1" in text
    assert "Interest 1" in text
    assert "Title 1" in text
    assert "longer" in text  # the list that was served
    assert len(ExposureLog(home).of_user("u1")) == 1
    assert "None is on record" in client.get("/console/users?user_id=%3Cb%3E").text


def test_what_is_away_or_unknown_is_a_page_too(client, store, monkeypatch):
    assert "there is no page" in client.get("/console/nowhere").text
    assert client.get("/console/experiments/nobody").status_code == 404

    def fail():
        raise HymirecError("experiment store cannot be used: locked")

    monkeypatch.setattr(ExperimentStore, "all", lambda self: fail())
    page = client.get("/console/experiments")
    assert page.status_code == 503
    assert "<h1>Not possible</h1>" in page.text
