"""The simulated crowd and recommenders: what is planted is what comes out."""

import numpy as np
import pytest

from hymirec.errors import HymirecError
from hymirec.simulation.crowd import MOST, PATIENCE, Crowd
from hymirec.simulation.recommender import MOST_ITEMS, SimulatedRecommender, Skill, answers
from hymirec.simulation.scenarios import LIST_LENGTH, SCENARIOS


@pytest.fixture(scope="module")
def crowd():
    return Crowd.make(400, seed=3)


def make(crowd, **skill):
    return SimulatedRecommender(crowd, Skill(**{"seed": 1, "skill": 0.5} | skill))


def test_wishes_are_the_planted_interests(crowd):
    assert np.allclose(crowd.wishes.sum(axis=1), 1)
    assert (crowd.wishes >= 0).all()
    assert 2 < (crowd.wishes > 0).sum(axis=1).mean() < 6
    assert crowd.eagerness.mean() == pytest.approx(1, abs=0.2)
    assert np.array_equal(Crowd.make(400, seed=3).wishes, crowd.wishes)


def test_users_click_what_they_wish_for_and_what_is_on_top(crowd):
    user = np.array([5])
    best = int(crowd.wishes[5].argmax())
    nothing = int(crowd.wishes[5].argmin())
    wished = np.flatnonzero(crowd.topics == best)[:2]
    unwished = np.flatnonzero(crowd.topics == nothing)[:1]
    chances = crowd.chances(user, np.array([[wished[0], unwished[0], wished[1], -1]]))[0]
    assert chances[0] > chances[1]
    assert chances[2] == pytest.approx(min(MOST, chances[0] * PATIENCE**2))
    assert chances[3] == 0


def test_the_same_user_gets_the_same_list_and_each_item_once(crowd):
    lists = [make(crowd).items(7, MOST_ITEMS).tolist() for _ in range(2)]
    assert lists[0] == lists[1]
    assert len(set(lists[0])) == MOST_ITEMS
    assert make(crowd, seed=2).items(7, MOST_ITEMS).tolist() != lists[0]


def test_more_skill_is_worth_more_and_another_seed_the_same(crowd):
    worth = [make(crowd, skill=skill).true_worth(LIST_LENGTH) for skill in (0.2, 0.5, 0.9)]
    assert worth == sorted(worth)
    assert worth[2] > 1.5 * worth[0]
    other = make(crowd, seed=2).true_worth(LIST_LENGTH)
    assert other == pytest.approx(worth[1], rel=0.15)  # few are very eager, and lists differ


def test_the_true_worth_is_what_clicks_come_to(crowd):
    recommender = make(crowd)
    users = np.arange(len(crowd.user_ids))
    shown = np.stack([recommender.items(user, LIST_LENGTH) for user in users])
    rng = np.random.default_rng(0)
    rounds = [rng.random(shown.shape) < crowd.chances(users, shown) for _ in range(200)]
    assert np.mean(rounds) == pytest.approx(recommender.true_worth(LIST_LENGTH), rel=0.02)


def test_it_answers_as_a_served_version_does(crowd, tmp_path):
    make(crowd).save(tmp_path)
    recommender = SimulatedRecommender.load(tmp_path)
    user = str(crowd.user_ids[0])
    rows = [{"user_id": user, "query": '{"k": 4}'}, {"user_id": "stranger"}, {"user_id": ""}]
    first, second, third = answers(recommender, rows, {"model_version": "2"})
    assert first["model_version"] == "2"
    assert [one["item_id"] for one in first["recommendations"]] == [
        str(crowd.item_ids[item]) for item in make(crowd).items(0, 4)
    ]
    assert second["recommendations"] == third["recommendations"]
    assert len(third["recommendations"]) == 10


def test_it_fails_the_users_it_should_and_always_the_same(crowd):
    recommender = make(crowd, fails=0.5)
    failed = []
    for user in crowd.user_ids.tolist():
        try:
            recommender.recommend(user, 3)
        except HymirecError:
            failed.append(user)
    assert 150 < len(failed) < 250
    with pytest.raises(HymirecError, match="injected"):
        recommender.recommend(failed[0], 3)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_an_experiment(name):
    scenario = SCENARIOS[name]
    for mode in ("ab", "interleaving"):
        assert scenario.experiment(mode).mode == mode
    assert (scenario.champion == scenario.challenger) == (name in ("equal", "skewed"))
