"""Which list an event belongs to, and what is counted of a user."""

import numpy as np
import pandas as pd
import pytest

from features.logs.event_log import Event, EventLog
from features.logs.exposures import Exposure, ExposureLog
from features.logs.outcomes import events_of, outcomes
from hymirec.abtest.definition import Experiment
from hymirec.home import Home

START = 1_000_000.0
HOUR, DAY = 3600, 86_400


@pytest.fixture
def experiment():
    return Experiment.model_validate(
        {
            "name": "one", "hypothesis": "More.", "owner": "us",
            "variants": [{"name": "control", "model": "champion"}, {"name": "new", "model": 8}],
            "ramp": [{"share": 1.0, "min_users": 10}], "horizon": {"days": 7},
            "attribution_hours": 2,
        }
    )  # fmt: skip


class World:
    """Lists and events, written down as they happen."""

    def __init__(self, home):
        self.lists, self.events = ExposureLog(home), EventLog(home)
        self._count = 0

    def shows(self, user, items, at=0.0, variant="control", **fields):
        self._count += 1
        row = Exposure(
            request_id=f"r{self._count}", time=START + at, experiment="one", user_id=user,
            variant=variant, mode="ab", model_version="7", codebook_id="abc",
            feature_age_seconds=1.0, served_by="full", degraded="", error="", is_fallback=False,
            is_override=False, propensity=0.5, latency_ms=10.0, items=list(items),
            interests=[1, 2, 1, 0][: len(items)],
        )  # fmt: skip
        values = vars(row) | fields | {"exposure_id": f"e{self._count}", "kind": "Exposure"}
        self.lists.append([values])
        return f"r{self._count}"

    def happens(self, user, item, at, kind="click", value=None, **context):
        self._count += 1
        self.events.append(
            [Event(f"e{self._count}", user, item, kind, int(START + at), value, context)]
        )

    def counted(self, experiment, **more):
        rows = self.lists.of_experiment("one")
        events = events_of(self.events, sorted(set(rows["user_id"])), START - 14 * DAY)
        return outcomes(experiment, rows, events, started=START, **more)


@pytest.fixture
def world(tmp_path):
    return World(Home.at(tmp_path))


def of(found, user):
    (row,) = found.users[found.users["user_id"] == user].to_dict("records")
    return row


def test_what_happens_to_shown_items_is_counted_once(world, experiment):
    world.shows("u", "abcd")
    for at in (10, 20):
        world.happens("u", "a", at)  # twice
    world.happens("u", "b", 30, "impression")
    world.happens("u", "a", 40, "conversion", 2.5)
    world.happens("u", "z", 50)  # was not shown
    world.happens("u", "c", 3 * HOUR)  # too late
    world.happens("other", "c", 60)
    row = of(world.counted(experiment), "u")
    assert {name: row[name] for name in ("lists", "shown", "clicks", "seen", "conversions")} == {
        "lists": 1, "shown": 4, "clicks": 1, "seen": 1, "conversions": 1,
    }  # fmt: skip
    assert (row["value"], row["clicked"], row["converted"]) == (2.5, 1, 1)
    assert (row["distinct"], row["interests"], row["latency_ms"]) == (4, 2, 10)
    assert row["first_exposure"] == START


def test_an_event_belongs_to_the_last_list_before_it_or_to_the_one_it_names(world, experiment):
    first = world.shows("u", "ab", 0)
    world.shows("u", "ac", 1800)
    world.happens("u", "a", 1900)
    world.happens("v", "a", 1900, request_id=first)  # another user's list
    world.shows("v", "a", 1000)
    world.happens("u", "b", 5 * HOUR, request_id=first)  # long after, and named
    shown = world.counted(experiment).shown
    clicked = shown[shown["clicked"]]
    assert sorted(zip(clicked["user_id"], clicked["item_id"], clicked["time"], strict=True)) == [
        ("u", "a", START + 1800), ("u", "b", START), ("v", "a", START + 1000),
    ]  # fmt: skip


def test_a_list_asked_for_twice_under_one_id_has_its_click_once(world, experiment):
    for at in (0, 5):
        world.shows("u1", ["a", "b"], at, request_id="again")
    world.happens("u1", "a", 9, request_id="again", value=2.0)
    one = of(world.counted(experiment), "u1")
    assert (one["shown"], one["clicks"], one["value"]) == (4, 1, 2.0)


def test_a_click_in_the_second_of_its_list_counts_though_seconds_are_whole(world, experiment):
    world.shows("u", "a", 0.9)
    world.happens("u", "a", 0)
    assert of(world.counted(experiment), "u")["clicks"] == 1


def test_nothing_counts_before_the_first_list_that_does(world, experiment):
    world.shows("u", "a", 0, is_fallback=True, error="model too slow", degraded="model too slow")
    world.happens("u", "a", 10)
    world.shows("u", "b", 100)
    world.happens("u", "b", 110)
    row = of(world.counted(experiment), "u")
    assert (row["requests"], row["errors"], row["fallbacks"], row["lists"]) == (2, 1, 1, 1)
    assert (row["clicks"], row["shown"], row["first_exposure"]) == (1, 1, START + 100)


def test_a_user_who_was_never_shown_a_list_is_assigned_only(world, experiment):
    world.shows("u", "", 0, is_fallback=True, error="no model server")
    row = of(world.counted(experiment), "u")
    assert np.isnan(row["first_exposure"])
    assert (row["requests"], row["errors"], row["shown"]) == (1, 1, 0)


def test_testers_and_crossovers_are_left_out(world, experiment):
    world.shows("tester", "a", is_override=True)
    world.shows("moved", "a")
    world.shows("moved", "a", 5, variant="new")
    world.shows("stays", "a", variant="new")
    found = world.counted(experiment)
    assert found.users["user_id"].tolist() == ["stays"]
    assert (found.users["variant"].tolist(), found.crossovers) == (["new"], 1)


def test_what_was_before_foretells_and_makes_segments(world, experiment):
    world.happens("u", "x", -3 * DAY, value=9.0)
    world.happens("u", "x", -2 * DAY, "conversion", 1.0)
    world.happens("u", "y", -20 * DAY)  # longer ago than is looked at
    world.shows("u", "a", 100)
    world.happens("u", "a", 150)
    world.shows("new", "a")
    world.shows("published", "a", 50)
    times = np.array([1, 2, int(START) + 10, int(START) + 60])
    found = world.counted(experiment, published={"published": times})
    row = of(found, "u")
    assert (row["clicks_before"], row["conversions_before"], row["value_before"]) == (1, 1, 10.0)
    assert row["history"] == 1
    assert of(found, "new")["history"] == 0
    assert of(found, "published")["history"] == 3


def test_new_items_are_counted_apart(world, experiment):
    world.shows("u", "abc")
    world.happens("u", "b", 5)
    world.happens("u", "a", 5)
    row = of(world.counted(experiment, new_items={"b", "c"}), "u")
    assert (row["cold_shown"], row["cold_clicks"]) == (2, 1)


def test_nobody_is_an_empty_table(world, experiment):
    found = world.counted(experiment)
    assert found.users.empty
    assert found.shown.empty
    assert found.crossovers == 0


def test_teams_of_interleaving_are_kept(world, experiment):
    world.shows("u", "abcd", teams=[1, 0, 0, 1])
    world.happens("u", "a", 5)
    shown = world.counted(experiment).shown
    assert shown["team"].tolist() == [1, 0, 0, 1]
    assert shown["position"].tolist() == [1, 2, 3, 4]


def test_many_lists_are_counted_as_slowly_as_one_by_one(world, experiment):
    """Against the plainest way there is, on random lists and events."""
    rng = np.random.default_rng(0)
    rows, events = [], []
    for user in range(12):
        for at in np.sort(rng.uniform(0, 4 * HOUR, 5)):
            items = rng.choice(list("abcdefgh"), 3, replace=False)
            request = world.shows(f"u{user}", items, float(at), variant="cn"[user % 2])
            rows.append((f"u{user}", request, START + at, set(items)))
        for at in rng.uniform(-HOUR, 6 * HOUR, 12):
            item, named = rng.choice(list("abcdefgh")), rng.random() < 0.3
            of_user = [row for row in rows if row[0] == f"u{user}"]
            request = of_user[rng.integers(len(of_user))][1] if named else ""
            context = {"request_id": request} if request else {}
            world.happens(f"u{user}", item, float(at), **context)
            events.append((f"u{user}", item, int(START + at), request))
    expected = set()
    for user, item, at, request in events:
        lists = [row for row in rows if row[0] == user and item in row[3]]
        named = [row for row in lists if row[1] == request]
        past = [row for row in lists if int(row[2]) <= at <= int(row[2]) + 2 * HOUR]
        if named or past:
            expected.add((user, (named or past)[-1][1], item))
    shown = world.counted(experiment).shown
    clicked = shown[shown["clicked"]]
    found = set(zip(clicked["user_id"], clicked["request_id"], clicked["item_id"], strict=True))
    assert found == expected
    assert isinstance(shown, pd.DataFrame)
