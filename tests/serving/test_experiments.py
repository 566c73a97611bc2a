"""Experiments in the gateway: who is shown what, and that all of it is written down."""

import time

import pytest
from fastapi.testclient import TestClient

from features.logs.exposures import ExposureLog
from hymirec.abtest.definition import Experiment
from hymirec.query import Query
from serving.experiments import ExperimentRollout
from serving.gateway import create_app

USERS = [f"u{number}" for number in range(60)]
VERSIONS = {"control": 1, "new": 2}
DECLARED = {
    "name": "one", "hypothesis": "More.", "owner": "us",
    "variants": [{"name": "control", "model": 1}, {"name": "new", "model": 2}],
    "ramp": [{"share": 0.4, "min_users": 10}, {"share": 1.0, "min_users": 10}],
    "horizon": {"days": 7},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("serving.experiments.LOOK_SECONDS", 0.05)


@pytest.fixture
def begun(store):
    def begin(versions=VERSIONS, **changes):
        experiment = Experiment.model_validate(DECLARED | changes)
        store.create(experiment)
        return store.start(experiment.name, versions).experiment

    return begin


@pytest.fixture
def serve(home, registry, make_fleet):
    """A gateway whose experiments have begun; a context manager."""
    registry.make(2, first=101)

    class Served:
        def __enter__(self):
            self.rollout = ExperimentRollout(home).__enter__()
            fleet = make_fleet(self.rollout, answer_seconds=30.0)  # a slow machine is no error
            self.rollout.serve_from(lambda version: fleet.served(version) is not None)
            app = create_app(home, fleet, rollout=self.rollout)
            self.client = TestClient(app, base_url="http://localhost").__enter__()
            wait_until(lambda: set(self.rollout.versions()) <= set(fleet.versions)
                       and all(one.ready for one in fleet.versions.values()))  # fmt: skip
            time.sleep(0.2)  # one more look at what is ready
            return self

        def __exit__(self, *_):
            self.client.__exit__(None, None, None)
            self.rollout.__exit__(None, None, None)

        def ask(self, user, **more):
            answer = self.client.post("/v1/recommendations", json={"user_id": user, "k": 4} | more)
            assert answer.status_code == 200
            return answer.json()

    return Served


def wait_until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def exposures(home, name="one"):
    log = ExposureLog(home)
    found = log.of_experiment(name)
    log.close()
    return found


def test_users_are_shown_their_variant_and_every_list_is_on_record(home, begun, serve):
    split = begun().split(0.4)
    with serve() as served:
        answers = {user: served.ask(user) for user in USERS}
    for user, answer in answers.items():
        assigned = split.assign(user)
        if assigned is None:
            assert (answer["variant"], answer["model_version"]) == (None, "1")
        else:
            assert answer["variant"] == f"one/{assigned.variant}"
            assert answer["model_version"] == str(VERSIONS[assigned.variant])
    rows = exposures(home).set_index("user_id")
    taking_part = {user for user in USERS if split.assign(user)}
    assert 5 < len(taking_part) < 50
    assert set(rows.index) == taking_part
    one = rows.loc[next(iter(taking_part))]
    shown = answers[one.name]
    assert one["items"] == [item["item_id"] for item in shown["recommendations"]]
    assert (one["request_id"], one["mode"]) == (shown["request_id"], "ab")
    assert (one["propensity"], one["served_by"], one["error"]) == (0.5, "full", "")
    assert one["feature_age_seconds"] == 60.0
    assert 0 < one["latency_ms"] < 5000
    # Lists outside of experiments are on record too.
    assert len(exposures(home, "")) == len(USERS) - len(taking_part)


def test_a_restart_and_a_ramp_move_nobody_and_lose_nothing(home, store, begun, serve):
    begun()
    with serve() as served:
        before = {user: served.ask(user)["variant"] for user in USERS}
    with serve() as served:
        again = {user: served.ask(user)["variant"] for user in USERS}
        assert again == before
        store.ramp("one", reason="on")
        wait_until(lambda: served.rollout._running[0].stored.share == 1.0)
        after = {user: served.ask(user)["variant"] for user in USERS}
    assert {user: one for user, one in after.items() if before[user]} == {
        user: one for user, one in before.items() if one
    }
    assert None not in after.values()
    counted = sum(one is not None for one in before.values())
    assert len(exposures(home)) == 2 * counted + len(USERS)


def test_the_kill_switch_works_within_a_second(store, begun, serve, monkeypatch):
    begun(ramp=DECLARED["ramp"][1:])
    errors = [RuntimeError("nobody thought of this")]

    def revision():
        if errors:
            raise errors.pop()
        return store.revision()

    with serve() as served:
        assert {served.ask(user)["variant"] for user in USERS} == {"one/control", "one/new"}
        monkeypatch.setattr(served.rollout._store, "revision", revision)
        wait_until(lambda: not errors)
        store.kill("one")
        time.sleep(1.0)
        assert {served.ask(user)["variant"] for user in USERS} == {None}
        assert {served.ask(user)["model_version"] for user in USERS[:9]} == {"1"}


def test_nobody_takes_part_before_all_versions_are_ready(home, begun, serve, monkeypatch):
    begun(ramp=DECLARED["ramp"][1:])
    with serve() as served:
        served.rollout._begun = frozenset()
        served.rollout.serve_from(lambda version: version == 1)
        served.rollout.look()
        assert {served.ask(user)["variant"] for user in USERS[:20]} == {None}
        served.rollout.serve_from(lambda version: True)
        served.rollout.look()
        assert None not in {served.ask(user)["variant"] for user in USERS[:20]}


def test_what_a_version_cannot_answer_is_an_error_and_no_exposure(home, registry, begun, serve):
    registry.make(3, refuses="u7")
    versions = {"control": 1, "new": 3}
    begun(versions, ramp=DECLARED["ramp"][1:], overrides={"u7": "new"})
    with serve() as served:
        answer = served.ask("u7")
        assert (answer["degraded"], answer["served_by"]) == ("model failed", "popular")
    (row,) = exposures(home).to_dict("records")
    assert (row["error"], row["is_fallback"], row["is_override"]) == ("model failed", 1, 1)


def test_a_visitor_takes_no_part(home, begun, serve):
    begun(ramp=DECLARED["ramp"][1:])
    with serve() as served:
        answer = served.client.post("/v1/recommendations", json={"recent_items": []}).json()
        assert answer["variant"] is None
    assert exposures(home).empty
    assert exposures(home, "").empty


def test_attributes_choose_who_takes_part(begun, serve):
    begun(ramp=DECLARED["ramp"][1:], targeting={"attributes": {"country": ["de", "at"]}})
    with serve() as served:
        assert served.ask("u1")["variant"] is None
        assert served.ask("u1", attributes={"country": "fr"})["variant"] is None
        assert served.ask("u1", attributes={"country": "at"})["variant"] is not None
        refused = served.client.post(
            "/v1/recommendations", json={"user_id": "u1", "attributes": {"country": 7}}
        )
        assert refused.status_code == 422


def test_settings_are_a_variant_too(begun, serve):
    variants = [{"name": "control", "model": 1}, {"name": "new", "model": 2, "settings": {"k": 2}}]
    begun(ramp=DECLARED["ramp"][1:], variants=variants)
    with serve() as served:
        lengths = {
            answer["variant"]: len(answer["recommendations"])
            for answer in (served.ask(user) for user in USERS[:20])
        }
    assert lengths == {"one/control": 4, "one/new": 2}


def test_of_two_layers_one_chooses_the_version_and_one_the_settings(home, begun, serve):
    begun(ramp=DECLARED["ramp"][1:])
    variants = [{"name": "all", "model": 1}, {"name": "few", "model": 1, "settings": {"k": 2}}]
    begun({"all": 1, "few": 1}, name="two", variants=variants, traffic={"layer": "page"},
          ramp=DECLARED["ramp"][1:])  # fmt: skip
    with serve() as served:
        answers = {user: served.ask(user) for user in USERS}
    seen = {(one["variant"], one["model_version"], len(one["recommendations"]))
            for one in answers.values()}  # fmt: skip
    assert seen == {
        ("one/control, two/all", "1", 4), ("one/control, two/few", "1", 2),
        ("one/new, two/all", "2", 4), ("one/new, two/few", "2", 2),
    }  # fmt: skip
    assert len(exposures(home)) == len(exposures(home, "two")) == len(USERS)


def test_interleaving_mixes_two_lists_and_remembers_who_picked(home, begun, serve):
    begun(mode="interleaving", ramp=DECLARED["ramp"][1:])
    with serve() as served:
        answers = {user: served.ask(user) for user in USERS}
    for answer in answers.values():
        assert (answer["variant"], answer["degraded"]) == ("one", None)
        items = [one["item_id"] for one in answer["recommendations"]]
        assert len(set(items)) == 4
        assert sum(int(item[1:]) > 100 for item in items) == 2
    rows = exposures(home)
    assert len(rows) == len(USERS)
    for row in rows.to_dict("records"):
        assert [int(int(item[1:]) > 100) for item in row["items"]] == row["teams"]
    assert set(rows["model_version"]) == {"1+2"}
    assert {row["teams"][0] for row in rows.to_dict("records")} == {0, 1}


@pytest.mark.parametrize("mode", ["interleaving", "shadow"])
def test_settings_that_do_not_fit_cost_nobody_an_answer(home, begun, serve, mode):
    wrong = [DECLARED["variants"][0], DECLARED["variants"][1] | {"settings": {"k": 0}}]
    begun(mode=mode, ramp=DECLARED["ramp"][1:], variants=wrong)
    with serve() as served:
        answer = served.ask("u1")
        assert len(answer["recommendations"]) == 4
        # Marked, so that nobody is counted as having compared two lists.
        mixed = mode == "interleaving"
        assert answer["degraded"] == ("variant's version not ready" if mixed else None)
    (row,) = exposures(home).to_dict("records")
    assert (row["teams"], row["model_version"]) == ([], "1")


def test_one_that_was_paused_waits_for_its_versions_again(home, store, begun):
    begun(ramp=DECLARED["ramp"][1:])
    ready = {1, 2}
    with ExperimentRollout(home) as rollout:
        rollout.serve_from(lambda version: version in ready)

        def shown():
            rollout.look()
            return rollout.route("u1", Query(), {}).variant

        assert shown().startswith("one/")
        store.pause("one", reason="test")
        assert shown() == ""
        ready.discard(2)  # nobody needs it now
        store.resume("one")
        assert shown() == ""
        ready.add(2)
        assert shown().startswith("one/")


def test_a_shadow_is_asked_and_never_shown(home, begun, serve):
    begun(mode="shadow", ramp=DECLARED["ramp"][1:])
    with serve() as served:
        for user in USERS:
            answer = served.ask(user)
            assert (answer["variant"], answer["model_version"]) == (None, "1")
            assert all(int(one["item_id"][1:]) <= 100 for one in answer["recommendations"])
        log = ExposureLog(home)
        wait_until(lambda: len(log.shadows("one")) == len(USERS))
    shadows = log.shadows("one")
    assert set(shadows["overlap"]) == {0.0}
    assert set(shadows["error"]) == {""}
    assert (shadows["latency_ms"] > 0).all()
    assert (shadows["champion_latency_ms"] > 0).all()
    log.close()
