"""From logs to a readout and what follows, on planted users."""

import time

import numpy as np
import pandas as pd
import pytest

from features.logs.event_log import Event
from features.logs.experiments import ExperimentStore
from features.logs.exposures import Exposure, ShadowAnswer
from features.logs.readouts import ReadoutMaker
from hymirec.abtest.decisions import decide
from hymirec.abtest.definition import Experiment
from hymirec.abtest.planning import Plan
from hymirec.additions import Additions, publish
from hymirec.home import Home

VERSIONS = {"control": 7, "new": 8}
ITEMS = np.array([f"i{n:03}" for n in range(300)])
DECLARED = {
    "name": "one", "hypothesis": "More.", "owner": "us",
    "variants": [{"name": "control", "model": "champion"}, {"name": "new", "model": 8}],
    "ramp": [{"share": 1.0, "min_users": 100}], "horizon": {"days": 7},
    "guardrails": [{"metric": "error_rate", "absolute": 0.05}],
    "secondary": ["diversity_shown", "coverage", "clicks_per_user"],
}  # fmt: skip


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path).create()


@pytest.fixture
def started(home):
    store = ExperimentStore(home)

    def begin(**changes):
        experiment = Experiment.model_validate(DECLARED | changes)
        store.create(experiment)
        return store.start(experiment.name, VERSIONS)

    yield begin
    store.close()


def simulate(maker, stored, rates, *, users=800, error_rates=(0.0, 0.0), reach=(100, 300)):
    """Two lists for each user, and clicks on them; users split as the experiment says."""
    rng = np.random.default_rng(0)
    split = stored.experiment.split(stored.share)
    rows, events = [], []
    now = time.time()
    for number in range(users):
        user = f"u{number}"
        assigned = split.assign(user)
        which = 0 if assigned.variant == "control" else 1
        for look in range(2):
            failed = rng.random() < error_rates[which]
            items = [] if failed else rng.choice(ITEMS[: reach[which]], 8, replace=False).tolist()
            row = Exposure(
                request_id=f"{user}-{look}", time=now + look, experiment=stored.name, user_id=user,
                variant=assigned.variant, mode=stored.experiment.mode, model_version="7",
                codebook_id="abc", feature_age_seconds=1.0, served_by="full", degraded="",
                error="too slow" if failed else "", is_fallback=failed, is_override=False,
                propensity=0.5, latency_ms=10.0, items=items, interests=[1] * len(items),
                teams=rng.permutation([0, 1] * 4).tolist()
                if stored.experiment.mode == "interleaving" and items else [],
            )  # fmt: skip
            rows.append(vars(row) | {"exposure_id": row.request_id, "kind": "Exposure"})
            for place, item in enumerate(items):
                rate = rates[row.teams[place] if row.teams else which]
                if rng.random() < rate:
                    events.append(
                        Event(f"{row.request_id}-{item}", user, item, "click", int(now + look))
                    )
    maker.exposures.append(rows)
    maker.events.append(events)
    return decide(stored.experiment, stored.progress, maker.read(stored))


@pytest.fixture
def maker(home):
    maker = ReadoutMaker(home)
    yield maker
    maker.close()


def test_a_better_variant_is_found_in_the_logs(maker, started):
    stored = started()
    decision = simulate(maker, stored, (0.10, 0.20))
    readout = maker.read(stored)
    assert (decision.action, decision.winner) == ("conclude", "new")
    (primary,) = readout.primary
    assert primary.lift == pytest.approx(1.0, abs=0.25)
    assert sum(readout.assigned.counts.values()) == 800
    assert {one.metric for one in readout.secondary} == {"diversity_shown", "clicks_per_user"}
    (coverage,) = readout.items
    assert (coverage.metric, coverage.interval[0] > 0.3) == ("coverage", True)


def test_a_broken_one_is_rolled_back(maker, started):
    decision = simulate(maker, started(), (0.1, 0.1), error_rates=(0.0, 0.5), users=200)
    assert (decision.action, decision.reason[:36]) == (
        "roll_back", "guardrail error_rate is broken: new ",
    )  # fmt: skip


def test_interleaving_is_read_from_who_picked_what(maker, started):
    stored = started(mode="interleaving", guardrails=[])
    decision = simulate(maker, stored, (0.1, 0.2), users=300)
    assert (decision.action, decision.winner) == ("conclude", "new")
    assert maker.read(stored).preference.preference > 0.2


def test_a_shadow_is_compared_and_decides_nothing(maker, started):
    stored = started(mode="shadow", guardrails=[])
    for number in range(4):
        answer = ShadowAnswer(
            f"r{number}", 1.0, "one", 0.5, number % 2 == 0, 20.0, 10.0, "too slow" * (number == 3)
        )
        row = vars(answer) | {"exposure_id": f"s{number}", "kind": "ShadowAnswer"}
        maker.exposures.append([row])
    readout = maker.read(stored)
    assert (readout.shadow.answers, readout.shadow.errors, readout.shadow.overlap) == (4, 1, 0.5)
    assert decide(stored.experiment, stored.progress, readout).action == "hold"


def test_new_items_become_known(home, maker, started):
    published = home.catalogue / "abc"
    published.mkdir(parents=True)
    pd.DataFrame({"item_id": ITEMS[200:]}).to_parquet(published / "000001.parquet")
    publishers = pd.DataFrame({"item_id": ITEMS[200:250], "publisher": "ana"})
    publishers.to_csv(home.catalogue / "publishers.csv", index=False)
    stored = started(secondary=["item_cold_start", "active_publishers", "cold_share"])
    simulate(maker, stored, (0.1, 0.1), reach=(100, 300), users=3000)
    readout = maker.read(stored)
    items = {one.metric: one for one in readout.items}
    assert items["item_cold_start"].control == 0
    assert items["item_cold_start"].treatment > 0.9
    assert (items["active_publishers"].control, items["active_publishers"].treatment) == (0, 1)
    (cold,) = readout.secondary
    assert (cold.control, cold.treatment) == (0, pytest.approx(1 / 3, abs=0.02))


def test_an_item_whose_text_has_changed_is_not_new(home, maker):
    def published(ids, is_new):
        n = len(ids)
        vectors, codes = np.ones((n, 4), np.float32), np.ones((n, 2), np.uint8)
        publish(home.catalogue / "abc", Additions(ids, ids, ids, vectors, codes, is_new=is_new))

    published(["old", "new"], [False, True])
    published(["new", "newer"], [False, True])
    assert set(maker._publication_times({"abc"}, 0.0)) == {"new", "newer"}


def test_what_makes_an_item_known_stays_when_the_experiment_pauses(home, maker, started):
    published = home.catalogue / "abc"
    published.mkdir(parents=True)
    pd.DataFrame({"item_id": ITEMS[200:]}).to_parquet(published / "000001.parquet")
    stored = started(secondary=["item_cold_start"], name="one")
    simulate(maker, stored, (0.1, 0.1), reach=(100, 300), users=300)
    (running,) = maker.read(stored).items
    store = ExperimentStore(home)
    paused = store.pause("one", reason="test")
    store.close()
    (found,) = maker.read(paused).items
    assert (found.control, found.treatment) == (running.control, running.treatment) == (0, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("item,publisher\ni201,ana\n", "columns item_id and publisher cannot be read"),
        ("", "columns item_id and publisher cannot be read"),
        ("item_id,publisher\ni201,ana\ni201,ana\ni202,ana\ni202,bea\n", "item 'i202' has two"),
    ],
)
def test_a_wrong_file_of_publishers_costs_one_metric(home, maker, started, caplog, text, says):
    (home.catalogue / "publishers.csv").write_text(text)
    stored = started(secondary=["active_publishers", "coverage"])
    simulate(maker, stored, (0.1, 0.1), users=50)
    assert [one.metric for one in maker.read(stored).items] == ["coverage"]
    assert f"{home.catalogue / 'publishers.csv'}: {says}" in caplog.text


def test_a_damaged_publication_keeps_no_guardrail_waiting(home, maker, started, caplog):
    published = home.catalogue / "abc"
    published.mkdir(parents=True)
    (published / "000001.parquet").write_bytes(b"PAR1")
    pd.DataFrame({"item_id": ITEMS[200:]}).to_parquet(published / "000002.parquet")
    simulate(maker, started(), (0.1, 0.1), users=50)  # and reads it out
    assert set(maker._publication_times({"abc"}, 0.0)) == set(ITEMS[200:])
    assert f"its items do not count as new: {published / '000001.parquet'}: not a " in caplog.text


def test_a_plan_is_made_of_what_was_served(maker, started):
    stored = started()
    assert "nothing has been served yet" in maker.plan(stored.experiment)
    simulate(maker, stored, (0.1, 0.1))
    found = maker.plan(stored.experiment)
    assert isinstance(found, Plan)
    # A rate of 0.1 over 16 items a user: its deviation is √(0.1·0.9/16), a lift of 5 % 0.005.
    assert found.users_at_one_look == pytest.approx(2 * (2.8**2) * 0.09 / 16 / 0.005**2, rel=0.15)
    assert found.days is not None
    # In experiments of two layers a user has two rows for every list; here every fourth has.
    twice = maker.exposures.of_experiment("one").drop(columns="position").to_dict("records")
    maker.exposures.append(
        [row | {"exposure_id": f"again {number}", "kind": "Exposure", "experiment": "two"}
         for number, row in enumerate(twice) if int(row["user_id"][1:]) % 4 == 0]
    )  # fmt: skip
    again = maker.plan(stored.experiment)
    assert again.users_at_one_look == found.users_at_one_look
    mixed = stored.experiment.model_copy(update={"mode": "interleaving"})
    assert f"would need {found.users_per_variant} users of each variant" in maker.plan(mixed)
    hidden = stored.experiment.model_copy(update={"mode": "shadow"})
    assert "needs no number of users" in maker.plan(hidden)
