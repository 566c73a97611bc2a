"""Experiments meet the registry: which versions take part, what follows, who is champion."""

import json
import time
from contextlib import closing

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from features.logs.audit_log import FORCED, PROMOTION, AuditLog
from features.logs.event_log import Event, EventLog
from features.logs.experiments import ExperimentStore
from features.logs.exposures import Exposure, ExposureLog
from features.logs.readings import ReadingLog
from features.logs.readouts import ReadoutMaker
from flows import experiments as module
from flows.experiments import read_out_experiment, read_out_running
from flows.registry.aliases import Aliases
from flows.registry.lifecycle import GateError, conclude, resolve_versions, start
from hymirec.abtest.definition import Experiment
from hymirec.errors import HymirecError, UsageError

CODEBOOK, DROPPED = "0123456789ab", "ba9876543210"
DECLARED = {
    "name": "longer", "hypothesis": "More clicks.", "owner": "us",
    "variants": [{"name": "control", "model": "champion"}, {"name": "new", "model": 2}],
    "guardrails": [{"metric": "error_rate", "absolute": 0.05}],
    "ramp": [{"share": 0.2, "min_users": 60}, {"share": 1.0, "min_users": 300}],
    "horizon": {"days": 7},
}  # fmt: skip


@pytest.fixture(scope="module")
def registry(make_registry):
    """A home with versions 1, which is champion, 2, and 3, whose codebook was dropped."""
    return make_registry([CODEBOOK, CODEBOOK, DROPPED], champion="1")


@pytest.fixture
def home(registry, copy_of):
    return copy_of(registry, CODEBOOK)


@pytest.fixture
def store(home):
    store = ExperimentStore(home)
    yield store
    store.close()


def declared(**changes):
    return Experiment.model_validate(DECLARED | changes)


def traffic(home, name="longer", *, users=range(1000), clicks=(0.1, 0.1), errors=(0.0, 0.0)):
    """Lists of eight and clicks on them, of users split as the experiment splits them now."""
    stored = ExperimentStore(home).get(name)
    split = stored.experiment.split(stored.share)
    rng = np.random.default_rng(users[0])
    rows, events = [], []
    for number in users:
        assigned = split.assign(f"u{number}")
        if assigned is None:
            continue
        which = int(assigned.variant != "control")
        failed = bool(rng.random() < errors[which])
        items = [] if failed else [f"i{n}" for n in rng.choice(100, 8, replace=False)]
        row = Exposure(
            request_id=f"r{number}", time=time.time(), experiment=name, user_id=f"u{number}",
            variant=assigned.variant, mode="ab", model_version=str(1 + which),
            codebook_id=CODEBOOK, feature_age_seconds=1.0, served_by="full", degraded="",
            error="too slow" if failed else "", is_fallback=failed, is_override=False,
            propensity=0.5, latency_ms=9.0, items=items, interests=[1] * len(items),
        )  # fmt: skip
        rows.append(vars(row) | {"exposure_id": row.request_id, "kind": "Exposure"})
        events += [
            Event(f"{number}-{item}", f"u{number}", item, "click", int(time.time()))
            for item in items
            if rng.random() < clicks[which]
        ]
    ExposureLog(home).append(rows)
    EventLog(home).append(events)
    return len(rows)


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ({"model": 3}, f"version 3 reads codebook {DROPPED}, which is no longer in the feature st"),
        ({"model": 9}, "no version of hymirec is '9'; there are 1, 2, 3, champion"),
        ({"model": "challenger"}, "no version of hymirec is 'challenger'"),
        ({"model": 2, "settings": {"colour": "red"}}, "variant new: there is no setting 'colour'"),
        # Every mixed list was an error of the gateway; users of an A/B test got the champion.
        ({"model": 2, "settings": {"k": 0}}, "settings of variant new: k: Input should be greater"),
    ],
)
def test_versions_that_cannot_answer_are_refused(home, variant, says):
    experiment = declared(variants=[DECLARED["variants"][0], {"name": "new"} | variant])
    with pytest.raises(UsageError) as refused:
        resolve_versions(home, experiment)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_shadow_of_the_champion_itself_is_refused(home):
    experiment = declared(
        mode="shadow",
        variants=[DECLARED["variants"][0], {"name": "new", "model": 1}], guardrails=[],
    )  # fmt: skip
    with pytest.raises(UsageError, match="shadow of version 1 with itself"):
        resolve_versions(home, experiment)


def test_variants_stay_the_versions_they_were_when_it_started(home, store):
    store.create(declared())
    assert start(home, "longer").versions == {"control": 1, "new": 2}
    Aliases(home).move("champion", "2", PROMOTION, reason="meanwhile")
    assert store.get("longer").versions == {"control": 1, "new": 2}


def judged(home, verdict, *, version="2", champion="1"):
    """What the gate leaves behind of a version beside a champion."""
    evidence = {"verdict": verdict, "gate": "champion", "compared_with": champion, "run": "r1"}
    word = {"pass": "passed: all 22 checks", "fail": "failed: R@10 is 0.1"}[verdict]
    aliases = Aliases(home)
    if verdict == "pass":
        aliases.note_verdict("champion", version, reason=word, evidence=evidence)
    else:
        aliases.refuse("champion", version, reason=word, evidence=evidence)


def won(home, store):
    """An experiment whose next readout finds a winner."""
    store.create(declared(ramp=[{"share": 1.0, "min_users": 300}]))
    start(home, "longer")
    traffic(home, clicks=(0.1, 0.25), users=range(2000))


def test_a_better_version_is_ramped_and_promoted_without_a_person(home, store):
    judged(home, "pass")
    store.create(declared())
    start(home, "longer")
    few = read_out_experiment(home, "longer")
    assert (few.decision.action, few.stored.share) == ("hold", 0.2)
    traffic(home, clicks=(0.1, 0.25), users=range(1000))
    ramped = read_out_experiment(home, "longer")
    assert (ramped.decision.action, ramped.stored.share) == ("ramp", 1.0)
    traffic(home, clicks=(0.1, 0.25), users=range(1000, 2000))
    won = read_out_experiment(home, "longer")
    assert (won.decision.action, won.stored.state) == ("conclude", "concluded")
    assert won.stored.winner == "new"
    assert Aliases(home).get("champion") == "2"
    (promotion,) = AuditLog(home).read(kinds=[PROMOTION])
    assert promotion.reason.startswith("experiment longer: new is better in click_through: +")
    assert promotion.evidence["variant"] == "new"
    assert (promotion.evidence["verdict"], promotion.evidence["run"]) == ("pass", "r1")
    actors = {one.kind: one.actor for one in store.history("longer")}
    assert actors["ramped"] == actors["concluded"] == "experiment-readout"
    readings = ReadingLog(home).of_experiment("longer")
    assert [one.action for one in readings] == ["hold", "ramp", "conclude"]
    assert json.dumps(won.to_json())


def test_what_was_read_is_in_mlflow(home, store):
    store.create(declared())
    start(home, "longer")
    traffic(home, clicks=(0.1, 0.25), users=range(2000))
    read_out_experiment(home, "longer")
    client = mlflow.MlflowClient(home.mlflow_uri)
    tracked = client.get_experiment_by_name("experiments")
    (run,) = client.search_runs([tracked.experiment_id])
    assert run.data.tags["experiment"] == "longer"
    assert run.data.tags["decision"].startswith("ramp: ")
    assert run.data.params == {"control/version": "1", "new/version": "2"}
    assert run.data.metrics["new/lift"] > 0.5
    assert run.data.metrics["new/room_error_rate"] > 0
    # In the home, wherever the command was called.
    assert run.info.artifact_uri.startswith(home.artifact_uri)
    written = {path.name for path in (home.mlflow / "artifacts").rglob("*.json")}
    assert "experiment.json" in written
    read_out_experiment(home, "longer")
    assert len(client.search_runs([tracked.experiment_id])) == 1


def test_a_failing_version_is_rolled_back(home, store):
    store.create(declared())
    start(home, "longer")
    traffic(home, errors=(0.0, 0.7), users=range(600))
    found = read_out_experiment(home, "longer")
    assert (found.decision.action, found.stored.state) == ("roll_back", "rolled_back")
    assert Aliases(home).get("champion") == "1"
    (entry,) = [one for one in store.history("longer") if one.kind == "rolled_back"]
    assert entry.evidence["guardrails"][0]["state"] == "broken"
    with pytest.raises(UsageError, match="is rolled back"):
        store.resume("longer")


def test_one_that_cannot_be_read_keeps_no_guardrail_of_another_waiting(home, store, monkeypatch):
    for name, begin in (("first", 0.0), ("longer", 0.5)):
        store.create(declared(name=name, traffic={"begin": begin, "end": begin + 0.5}))
        start(home, name)
    traffic(home, errors=(0.0, 0.7), users=range(1200))
    read = ReadoutMaker.read

    def fail_once(self, stored, now):
        if stored.name == "first":
            raise ZeroDivisionError("float division by zero")
        return read(self, stored, now)

    monkeypatch.setattr(ReadoutMaker, "read", fail_once)
    found = read_out_running(home)
    assert next(found).stored.name == "longer"
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert store.get("longer").state == "rolled_back"


def test_a_dry_run_changes_nothing(home, store):
    store.create(declared())
    start(home, "longer")
    traffic(home, errors=(0.0, 0.7), users=range(600))
    found = read_out_experiment(home, "longer", act=False)
    assert found.decision.action == "roll_back"
    assert store.get("longer").state == "running"
    assert ReadingLog(home).of_experiment("longer") == []


def meanwhile(monkeypatch, act):
    """Let somebody act after a readout has read, before it decides."""
    read = module.ReadoutMaker.read

    def read_and_act(self, stored, now):
        found = read(self, stored, now)
        act()
        return found

    monkeypatch.setattr(module.ReadoutMaker, "read", read_and_act)


def test_a_person_may_be_faster(home, store, monkeypatch):
    store.create(declared())
    start(home, "longer")
    traffic(home, errors=(0.0, 0.7), users=range(600))
    meanwhile(monkeypatch, lambda: store.kill("longer", reason="errors"))
    found = read_out_experiment(home, "longer")
    assert found.stored.state == "stopped"
    (reading,) = ReadingLog(home).of_experiment("longer")
    assert reading.action == "hold"
    assert "but longer is stopped" in reading.reason


def test_of_two_who_read_out_at_once_one_ramps(home, store, monkeypatch):
    ramp = [{"share": share, "min_users": 60} for share in (0.2, 0.5, 1.0)]
    store.create(declared(ramp=ramp))
    start(home, "longer")
    traffic(home, users=range(1000))
    meanwhile(monkeypatch, lambda: store.ramp("longer", reason="the other"))
    found = read_out_experiment(home, "longer")
    assert (store.get("longer").step, found.decision.action, found.asks) == (1, "hold", False)
    assert found.decision.reason.endswith("; but longer is at step 2 already")


def test_a_winner_that_the_gate_refuses_waits_for_a_person(home, store):
    won(home, store)
    judged(home, "fail")
    found = read_out_experiment(home, "longer")
    assert (found.decision.action, found.stored.state) == ("hold", "running")
    assert "new is better in click_through" in found.decision.reason
    assert "failed: R@10 is 0.1: a person has to decide" in found.decision.reason
    assert found.asks
    assert not read_out_experiment(home, "longer").asks  # was told before
    assert Aliases(home).get("champion") == "1"
    with pytest.raises(GateError, match="version 2 has not passed the gate beside version 1"):
        conclude(home, "longer", "new", reason="sure")
    assert store.get("longer").state == "running"
    conclude(home, "longer", "new", reason="we know why", force=True)
    (entry,) = AuditLog(home).read(kinds=[FORCED])
    assert (entry.after, entry.reason) == ("2", "experiment longer: we know why")
    assert Aliases(home).get("champion") == "2"


def test_the_gate_is_asked_where_it_has_not_compared_the_two(home, store):
    won(home, store)
    judged(home, "pass", champion="3")  # beside another champion: no verdict on this one
    asked = []

    def judge(home, *words):
        asked.append(words)
        judged(home, "pass")

    conclude(home, "longer", "new", reason="sure", judge=judge)
    assert store.history("longer")[0].evidence["doubts"] == []
    assert asked == [("2", "--judge")]
    assert Aliases(home).get("champion") == "2"
    assert store.get("longer").state == "concluded"


def test_a_champion_that_changed_while_the_gate_judged_ends_nothing(home, store):
    won(home, store)

    def judge(home, *words):
        judged(home, "pass")
        Aliases(home).move("champion", "3", FORCED, reason="another was faster")

    with pytest.raises(UsageError, match="champion has become version 3 meanwhile"):
        conclude(home, "longer", "new", reason="sure", judge=judge)
    assert (store.get("longer").state, Aliases(home).get("champion")) == ("running", "3")


def test_a_gate_that_cannot_judge_changes_nothing(home, store):
    won(home, store)

    def judge(home, *words):
        raise HymirecError("the gate could not judge version 2: its data is gone")

    with pytest.raises(GateError, match="its data is gone"):
        conclude(home, "longer", "new", reason="sure", judge=judge)
    assert (store.get("longer").state, Aliases(home).get("champion")) == ("running", "1")
    # The champion's own variant asks nobody.
    conclude(home, "longer", "control", reason="as it was", judge=judge)
    assert (store.get("longer").winner, Aliases(home).get("champion")) == ("control", "1")


def test_a_registry_that_is_away_after_the_end_is_said_to_be(home, store, monkeypatch):
    won(home, store)
    judged(home, "pass")

    def away(*_, **__):
        raise MlflowException("API request failed\nwith a trace")

    monkeypatch.setattr(Aliases, "move", away)
    found = read_out_experiment(home, "longer")
    assert (found.decision.action, found.stored.state) == ("conclude", "concluded")
    assert found.decision.reason.endswith(
        "; but longer is concluded, but version 2 could not be made champion: API request failed: "
        "`hymirec promote 2` is still to be done"
    )
    with closing(ReadingLog(home)) as readings:  # the numbers that ended it are kept
        assert readings.of_experiment("longer", limit=1)[0].reason == found.decision.reason


def test_concluding_by_hand(home, store, caplog):
    store.create(declared(on_win="report"))
    start(home, "longer")
    with pytest.raises(UsageError, match="has no variant 'newest'"):
        conclude(home, "longer", "newest", reason="sure")
    assert store.get("longer").state == "running"
    conclude(home, "longer", "new", reason="sure", promote=False)
    assert Aliases(home).get("champion") == "1"
    assert store.get("longer").winner == "new"
    doubt = "nothing is known of new in click_through, with 0 users"
    assert f"longer: the numbers do not support new: {doubt}" in caplog.text
    assert store.history("longer")[0].evidence["doubts"][-1] == doubt
    with pytest.raises(UsageError, match="is concluded"):
        conclude(home, "longer", "new", reason="again")


def test_numbers_that_cannot_be_read_keep_nobody_from_concluding(home, store, monkeypatch, caplog):
    store.create(declared(on_win="report"))
    start(home, "longer")

    def fail(*_):
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(ReadoutMaker, "read", fail)
    assert conclude(home, "longer", "new", reason="sure", promote=False).state == "concluded"
    assert "the numbers cannot be read: nobody thought of this" in caplog.text


def test_a_draft_cannot_be_read_out(home, store):
    store.create(declared())
    with pytest.raises(UsageError, match="longer has not started"):
        read_out_experiment(home, "longer")
