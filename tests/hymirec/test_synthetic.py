import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from hymirec.datasets import load
from hymirec.datasets.synthetic import DRIFT, LONG_TERM, World, WorldConfig, generate, write_world
from hymirec.datasets.vocabulary import TOPICS


@pytest.fixture(scope="module")
def tiny() -> World:
    return generate(WorldConfig.tiny())


@pytest.fixture(scope="module")
def world() -> World:
    return generate(WorldConfig())


def shares_by_user(world: World, part: pd.Series) -> pd.DataFrame:
    """Share of each topic [users, topics] among each user's events where `part` holds."""
    users = world.dataset.interactions.loc[part, "user_id"]
    return pd.crosstab(users, world.event_topics[part.to_numpy()], normalize="index")


def progress(world: World) -> pd.Series:
    """How far into its user's history each event is, from 0 to 1."""
    users = world.dataset.interactions.groupby("user_id")["user_id"]
    return users.cumcount() / users.transform("size")


def recall_at_10(world: World, scores_after: list[np.ndarray]) -> float:
    """Share of users whose last, not yet seen item is among the ten best unseen ones."""
    hits = []
    for histories, scores in zip(item_numbers(world), scores_after, strict=True):
        seen, target = histories[:-1], histories[-1]
        if target in seen:
            continue
        scores = np.where(np.isin(np.arange(len(scores)), seen), -np.inf, scores)
        hits.append(target in np.argsort(-scores, kind="stable")[:10])
    return float(np.mean(hits))


def item_numbers(world: World) -> list[np.ndarray]:
    """Item numbers of each user's history."""
    events = world.dataset.interactions
    numbers = pd.Index(world.dataset.items["item_id"]).get_indexer(events["item_id"])
    starts = np.flatnonzero(~events["user_id"].duplicated().to_numpy())
    return np.split(numbers, starts[1:])


def test_one_config_makes_one_world(tiny):
    again = generate(WorldConfig.tiny())
    assert again.dataset.digest() == tiny.dataset.digest()
    pd.testing.assert_frame_equal(again.interests, tiny.interests)
    other = generate(WorldConfig.tiny(seed=1))
    assert other.dataset.digest() != tiny.dataset.digest()


def test_config_refuses_what_makes_no_sense():
    with pytest.raises(ValidationError, match="extra"):
        WorldConfig.model_validate({"num_user": 10})
    with pytest.raises(ValidationError, match="min_history <= mean_history"):
        WorldConfig(min_history=200)
    with pytest.raises(ValidationError, match="num_items is below 10"):
        WorldConfig(num_items=100)
    with pytest.raises(ValidationError, match="frozen"):
        WorldConfig().seed = 3


def test_default_world_has_the_promised_size(world):
    lengths = world.dataset.interactions.groupby("user_id").size()
    assert len(lengths) == 600
    assert len(world.dataset.items) == 2000
    assert lengths.min() >= 50
    assert 600 < lengths.max() <= 1000
    assert 140 < lengths.mean() < 175
    assert lengths.median() < 0.8 * lengths.mean()


def test_tables_are_canonical(tiny):
    events = tiny.dataset.interactions
    order = events.sort_values(["user_id", "timestamp", "source_row"]).index
    assert order.equals(events.index)
    assert events["user_id"].iloc[0] == "u0001"
    assert tiny.dataset.items["item_id"].iloc[-1] == "i00300"
    assert list(tiny.dataset.items) == ["item_id", "title", "source_row", "genre", "description"]
    gaps = events.groupby("user_id")["timestamp"].diff().dropna()
    assert gaps.min() >= pd.Timedelta(seconds=20)


def test_items_belong_to_topics_and_say_so_in_words(world):
    items = world.dataset.items
    assert items["title"].is_unique
    for topic in range(len(world.topic_names)):
        mine = items[world.item_topics == topic]
        words = TOPICS[topic]
        nouns = mine["title"].apply(lambda title, words=words: any(n in title for n in words.nouns))
        assert nouns.all()
        genres = mine["genre"].apply(lambda text, words=words: text.split(",")[0] in words.genres)
        assert genres.all()
    # A second genre from elsewhere is the noise that keeps genres from being the topic.
    second = items["genre"].str.split(", ").str[1]
    foreign = [
        g not in TOPICS[t].genres for g, t in zip(second, world.item_topics.tolist(), strict=True)
    ]
    assert 0.1 < np.mean(foreign) < 0.2


def test_titles_stay_distinct_when_there_are_more_than_words():
    crowded = WorldConfig(num_items=9000, num_topics=6, num_users=2)
    assert generate(crowded).dataset.items["title"].is_unique


def test_words_belong_to_one_topic():
    words = [word for topic in TOPICS for word in (*topic.nouns, *topic.modifiers)]
    assert len(words) == len(set(words))


def test_truth_fits_the_data(tiny):
    items = tiny.dataset.items
    topics = pd.Series(tiny.item_topics, index=items["item_id"])
    mapped = topics[tiny.dataset.interactions["item_id"]].to_numpy()
    assert np.array_equal(mapped, tiny.event_topics)
    long_term = tiny.interests[tiny.interests["kind"] == LONG_TERM].groupby("user_id")
    assert set(long_term.size()) == {2, 3, 4}
    assert np.allclose(long_term["weight"].sum(), 1)
    assert (tiny.interests["kind"] == DRIFT).sum() == 120
    assert not tiny.interests.duplicated(["user_id", "topic"]).any()


def test_early_history_follows_the_long_term_interests(world):
    shares = shares_by_user(world, progress(world) < 0.7)
    long_term = world.interests[world.interests["kind"] == LONG_TERM]
    found = np.array([shares.at[u, t] for u, t in zip(*long_term_keys(long_term), strict=True)])
    assert np.corrcoef(found, long_term["weight"])[0, 1] > 0.7
    per_user = pd.Series(found).groupby(long_term["user_id"].to_numpy()).sum()
    assert per_user.mean() > 0.93


def long_term_keys(interests: pd.DataFrame) -> tuple[list[str], list[int]]:
    return interests["user_id"].tolist(), interests["topic"].tolist()


def test_the_new_interest_grows_at_the_end(world):
    drift = world.interests[world.interests["kind"] == DRIFT]
    along = progress(world)
    means = []
    for start, end in ((0, 0.7), (0.7, 0.85), (0.85, 1)):
        shares = shares_by_user(world, (along >= start) & (along < end))
        means.append(
            np.mean([shares.at[u, t] for u, t in zip(*long_term_keys(drift), strict=True)])
        )
    before, growing, late = means
    assert before < 0.02
    assert 0.1 < growing < late
    assert late > 0.4


def test_interests_persist_for_a_few_events_and_then_switch(world):
    users = world.dataset.interactions["user_id"].to_numpy()
    same_user = users[1:] == users[:-1]
    same_topic = (world.event_topics[1:] == world.event_topics[:-1])[same_user]
    assert 0.6 < same_topic.mean() < 0.85


def test_users_hardly_repeat_items(world):
    events = world.dataset.interactions
    repeats = events.duplicated(["user_id", "item_id"]).groupby(events["user_id"]).mean()
    assert repeats.median() < 0.01
    assert repeats.quantile(0.9) < 0.06


def test_sequence_foretells_far_more_than_popularity(world):
    histories = item_numbers(world)
    num_items = len(world.dataset.items)
    popularity = np.bincount(
        np.concatenate([history[:-1] for history in histories]), minlength=num_items
    )
    follows = np.zeros((num_items, num_items))
    for history in histories:
        np.add.at(follows, (history[:-2], history[1:-1]), 1)
    tie_break = popularity / popularity.max() / 1e3
    by_popularity = recall_at_10(world, [popularity] * len(histories))
    by_sequence = recall_at_10(world, [follows[h[-2]] + tie_break for h in histories])
    assert by_popularity < 0.06
    assert by_sequence > 0.45


def test_last_item_of_every_interest_matters(world):
    """Where the user goes on is told by the last item of each topic, not by the last item only."""
    histories = item_numbers(world)
    num_items = len(world.dataset.items)
    within = np.zeros((num_items, num_items))
    across = np.zeros((num_items, num_items))
    for history in histories:
        for events in _by_topic(world, history[:-1]).values():
            np.add.at(within, (events[:-1], events[1:]), 1)
        np.add.at(across, (history[:-2], history[1:-1]), 1)
    within /= np.maximum(within.sum(axis=1, keepdims=True), 1)
    scores = []
    for history in histories:
        recent = history[-31:-1]
        last = {topic: events[-1] for topic, events in _by_topic(world, recent).items()}
        counts = np.bincount(world.item_topics[recent], minlength=len(world.topic_names))
        # The topic of the very last event is the likeliest to go on.
        counts[world.item_topics[recent[-1]]] += len(recent)
        scores.append(sum(counts[topic] * within[item] for topic, item in last.items()))
    one = recall_at_10(world, [across[history[-2]] for history in histories])
    several = recall_at_10(world, scores)
    assert several > one + 0.05


def _by_topic(world: World, history: np.ndarray) -> dict[int, np.ndarray]:
    topics = world.item_topics[history]
    return {topic: history[topics == topic] for topic in np.unique(topics).tolist()}


def test_written_world_loads_as_the_same_data_set(tiny, tmp_path):
    write_world(tiny, tmp_path)
    assert load(tmp_path).digest() == tiny.dataset.digest()
    truth = tmp_path / "truth"
    pd.testing.assert_frame_equal(
        pd.read_parquet(truth / "interests.parquet"), tiny.interests, check_dtype=False
    )
    events = pd.read_parquet(truth / "event_topics.parquet")
    assert events["topic"].tolist() == tiny.event_topics.tolist()
    items = pd.read_parquet(truth / "item_topics.parquet")
    assert items["topic"].tolist() == tiny.item_topics.tolist()
    names = pd.read_parquet(truth / "topics.parquet")
    assert names["name"].tolist() == list(tiny.topic_names)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "interactions.parquet",
        "items.parquet",
        "truth",
    ]
