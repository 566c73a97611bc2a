"""Experiments and their states. Runs on PostgreSQL too where it is there."""

import json
import time

import pytest
from sqlalchemy import text

from features.logs.audit_log import AuditLog
from features.logs.experiments import ExperimentStore, subject_of
from features.logs.readings import ReadingLog
from hymirec.abtest.decisions import Decision
from hymirec.abtest.definition import Experiment
from hymirec.abtest.readout import Readout, mismatch
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home

VERSIONS = {"control": 7, "longer": 8}


def declared(name="longer-histories", **changes):
    return Experiment.model_validate(
        {
            "name": name,
            "hypothesis": "Longer histories, more clicks.",
            "owner": "recommendations",
            "variants": [{"name": "control", "model": "champion"}, {"name": "longer", "model": 8}],
            "ramp": [{"share": 0.1, "min_users": 100}, {"share": 1.0, "min_users": 500}],
            "horizon": {"days": 28},
        }
        | changes
    )


@pytest.fixture(params=["file", "postgresql"])
def store(request, tmp_path, monkeypatch):
    if request.param == "postgresql":
        address = request.getfixturevalue("postgresql_database")
        monkeypatch.setenv("HYMIREC_EVENT_LOG", address)
    monkeypatch.setenv("HYMIREC_ACTOR", "ana")
    store = ExperimentStore(Home.at(tmp_path))
    yield store
    store.close()


def test_an_experiment_lives_and_every_change_is_on_record(store):
    experiment = declared()
    draft = store.create(experiment)
    assert (draft.state, draft.share, draft.versions) == ("draft", 0.0, {})
    assert store.active() == []
    before = time.time()
    running = store.start(draft.name, VERSIONS)
    assert (running.state, running.share, running.versions) == ("running", 0.1, VERSIONS)
    assert before <= running.started == running.step_since
    assert store.active() == [running]
    ramped = store.ramp(draft.name, reason="100 users of each", evidence={"users": 100})
    assert (ramped.step, ramped.share) == (1, 1.0)
    assert ramped.step_since > ramped.started == running.started
    paused = store.pause(draft.name, reason="looks odd", actor="ben")
    assert (paused.state, paused.share, paused.step) == ("paused", 0.0, 1)
    resumed = store.resume(draft.name)
    assert (resumed.state, resumed.share) == ("running", 1.0)
    ended = store.end(draft.name, "concluded", reason="+5 %", winner="longer")
    assert (ended.state, ended.winner, ended.share) == ("concluded", "longer", 0.0)
    assert ended.ended >= before
    assert store.active() == []
    assert [one.revision for one in (draft, running, ramped, paused, resumed, ended)] == list(
        range(1, 7)
    )
    entries = store.history(draft.name)[::-1]
    assert [(one.kind, one.before, one.after) for one in entries] == [
        ("created", "", "draft"),
        ("started", "draft", "running 0.1"),
        ("ramped", "running 0.1", "running 1"),
        ("paused", "running 1", "paused"),
        ("resumed", "paused", "running 1"),
        ("concluded", "running 1", "concluded"),
    ]
    assert [one.actor for one in entries] == ["ana", "ana", "ana", "ben", "ana", "ana"]
    assert entries[1].evidence == {"versions": VERSIONS}
    assert entries[2].evidence == {"users": 100}
    assert entries[-1].evidence == {"winner": "longer"}
    assert json.dumps(ended.to_json())


def test_a_pause_is_no_time_on_a_step(tmp_path):
    moment = 1000.0
    store = ExperimentStore(Home.at(tmp_path), clock=lambda: moment)
    name = store.create(declared()).name
    store.start(name, VERSIONS)
    for paused, resumed, ran in ((1060.0, 5060.0, 60.0), (5070.0, 5100.0, 70.0)):
        moment = paused
        store.pause(name, reason="looks odd")
        for _ in range(101):  # what is noticed meanwhile, a page of history and more
            store.log.record("hold", subject_of(name), reason="paused")
        moment = resumed
        went_on = store.resume(name)
        assert (went_on.started, went_on.step_since) == (1000.0, resumed - ran)
    store.close()


def test_what_is_there_is_what_was_declared(store):
    experiment = declared(overrides={"me": "longer"}, guardrails=[
        {"metric": "error_rate", "absolute": 0.01}])  # fmt: skip
    store.create(experiment)
    again = ExperimentStore(store.home)
    assert again.get(experiment.name).experiment == experiment
    again.close()


def test_names_are_used_once(store):
    store.create(declared())
    with pytest.raises(UsageError, match="'longer-histories' is there already"):
        store.create(declared())
    changed = store.create(declared(owner="somebody else"), replace_draft=True)
    assert (changed.experiment.owner, changed.state) == ("somebody else", "draft")
    assert [one.kind for one in store.history("longer-histories")] == ["changed", "created"]
    store.start("longer-histories", {"control": 1, "longer": 2})
    store.kill("longer-histories")
    for replace_draft in (False, True):
        with pytest.raises(UsageError, match="was called 'longer-histories' before"):
            store.create(declared(), replace_draft=replace_draft)


def test_overlapping_traffic_is_refused(store):
    for name, traffic in (
        ("left", {"end": 0.5}),
        ("right", {"begin": 0.5}),
        ("both", {"begin": 0.4, "end": 0.6}),
        ("elsewhere", {"layer": "page"}),
    ):
        store.create(declared(name, traffic=traffic))
    store.start("left", VERSIONS)
    store.pause("left", reason="waits")
    with pytest.raises(UsageError) as refused:
        store.start("both", VERSIONS)
    assert str(refused.value) == (
        "both wants 0.4 to 0.6 of layer 'ranking', and left (paused) has 0 to 0.5: "
        "nobody can be in both"
    )
    assert store.get("both").state == "draft"
    store.start("right", VERSIONS)
    with pytest.raises(UsageError, match=r"elsewhere and left .paused. both choose versions"):
        store.start("elsewhere", VERSIONS)
    store.start("elsewhere", {"control": 7, "longer": 7})
    store.kill("left")
    with pytest.raises(UsageError, match="right \\(running\\)"):
        store.start("both", VERSIONS)
    store.kill("right")
    assert store.start("both", VERSIONS).state == "running"


def test_two_layers_may_not_set_the_same(store):
    variants = [{"name": "control", "model": 7}, {"name": "longer", "model": 7}]
    for name, setting in (("one", "k"), ("two", "k"), ("three", "explain")):
        settings = {"settings": {setting: 1}}
        store.create(declared(name, traffic={"layer": name},
                              variants=[variants[0], variants[1] | settings]))  # fmt: skip
    same = {"control": 7, "longer": 7}
    store.start("one", same)
    with pytest.raises(UsageError, match=r"two and one .running. both set k, so"):
        store.start("two", same)
    store.start("three", same)


def test_what_cannot_be_done_is_refused_in_a_line(store):
    store.create(declared())
    for do, says in (
        (lambda: store.get("other"), "no experiment is called 'other'"),
        (lambda: store.ramp("longer-histories", reason=""), "is draft: only one that is running"),
        (lambda: store.resume("longer-histories"), "only one that is paused can be resumed"),
    ):
        with pytest.raises(UsageError, match=says):
            do()
    store.start("longer-histories", VERSIONS)
    with pytest.raises(UsageError, match="has no variant 'wider'"):
        store.end("longer-histories", "concluded", reason="", winner="wider")
    store.ramp("longer-histories", reason="on")
    with pytest.raises(UsageError, match="is at step 2, and its ramp has 2"):
        store.ramp("longer-histories", reason="on")
    with pytest.raises(UsageError, match="going back would take the variant away"):
        store.ramp("longer-histories", 0, reason="back")
    store.kill("longer-histories", reason="errors")
    with pytest.raises(UsageError, match="is stopped: only one that is"):
        store.kill("longer-histories")
    assert store.history("longer-histories")[0].kind == "killed"


def test_the_kill_switch_for_all_passes_over_one_that_has_just_ended(store, monkeypatch):
    for name, begin in (("left", 0.0), ("right", 0.5)):
        store.create(declared(name, traffic={"begin": begin, "end": begin + 0.5}))
        store.start(name, VERSIONS)
    active = store.active()
    monkeypatch.setattr(store, "active", lambda: active)
    store.kill("left")
    assert [one.name for one in store.kill_all(reason="fire")] == ["right"]
    assert store.get("right").state == "stopped"


def test_a_change_that_cannot_be_recorded_is_not_made(store, monkeypatch):
    store.create(declared())

    def full(*_, **__):
        raise HymirecError("audit log log.db cannot be used: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "record", full)
        for change in (lambda: store.start("longer-histories", VERSIONS),
                       lambda: store.create(declared("other"))):  # fmt: skip
            with pytest.raises(HymirecError, match="disk is full"):
                change()
    assert [(one.name, one.state) for one in store.all()] == [("longer-histories", "draft")]
    assert store.start("longer-histories", VERSIONS).state == "running"


def test_one_that_a_later_release_declared_stops_no_other(store, caplog):
    half = {"begin": 0.0, "end": 0.5}
    for name, traffic in (("newer", half), ("older", {"begin": 0.5, "end": 1.0})):
        store.create(declared(name, traffic=traffic))
        store.start(name, VERSIONS)
    definition = declared("newer", traffic=half).model_dump_json()[:-1] + ', "bandit": true}'
    with store._database.engine.begin() as connection:
        change = text("UPDATE experiments SET definition = :new WHERE name = 'newer'")
        connection.execute(change, {"new": definition})
    assert [one.name for one in store.active()] == [one.name for one in store.all()] == ["older"]
    why = "experiment newer (running) cannot be read by this release: bandit: Extra inputs"
    assert why in caplog.text
    with pytest.raises(HymirecError, match=r"newer .* cannot be read"):
        store.get("newer")
    store.create(declared("wants-its-users", traffic=half))
    for refused in (lambda: store.start("wants-its-users", VERSIONS),
                    lambda: store.create(declared("newer"), replace_draft=True)):  # fmt: skip
        with pytest.raises(HymirecError, match=r"newer .* cannot be read"):
            refused()
    assert [one.name for one in store.kill_all()] == ["older"]


def test_readouts_are_kept_in_their_order(tmp_path):
    readings = ReadingLog(Home.at(tmp_path))
    even = mismatch(["control", "longer"], [10, 10], [0.5, 0.5])
    for moment in (1.0, 2.0, 3.0):
        readings.append(
            Readout("one", moment, 0.1, even, even, 0), Decision("hold", "few", {"users": 20})
        )
    readings.append(Readout("two", 9.0, 0.1, even, even, 0), Decision("ramp", "enough"))
    found = readings.of_experiment("one")
    assert [one.time for one in found] == [1.0, 2.0, 3.0]
    assert (found[0].action, found[0].reason, found[0].evidence) == ("hold", "few", {"users": 20})
    assert found[0].readout["assigned"]["counts"] == {"control": 10, "longer": 10}
    assert [one.time for one in readings.of_experiment("one", limit=2)] == [2.0, 3.0]
    assert [one.time for one in readings.of_experiment("one", newest_first=True)] == [3.0, 2.0, 1.0]
    readings.close()
