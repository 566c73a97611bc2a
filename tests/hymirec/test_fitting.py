"""The stages of a run on a tiny world whose truth is known: what is learnt, and what is found.

The figures seen stand beside the floors; they differ a little from machine to machine.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from hymirec.codebook import Codebook, fit_codebook, fit_item_codebook
from hymirec.datasets.synthetic import World, WorldConfig, generate
from hymirec.errors import DataError
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.evaluation.recovery import interest_topics, recovery
from hymirec.examples import CutPointExamples
from hymirec.fitting import fit, fit_encoder, fit_recommender, interest_measures
from hymirec.inputs import IndexedHistory, index_interactions, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.models.nextitem import NextItemRecommender
from hymirec.models.popularity import PopularityRecommender
from hymirec.recipes import Recipe, get_recipe
from hymirec.schema import ITEM_ID, TIMESTAMP, USER_ID
from hymirec.splits import ColdItemSplit, LeaveLastSplit, count_items


@dataclass
class Fitted:
    """A world and what was learnt from it."""

    world: World
    recipe: Recipe
    first: NextItemRecommender
    codebook: Codebook
    vectors: torch.Tensor
    histories: list[IndexedHistory]

    def code(self, world: World) -> list[IndexedHistory]:
        """Histories of a world with the same items, one a user, with codes."""
        codes = self.codebook.encode(self.vectors).numpy()
        return [history.coded(codes) for history in histories_of(world)]

    def recommender(self, directory, **settings) -> HyMiRec:
        """Train the recommender with settings changed."""
        training = {name: settings.pop(name) for name in ("num_epochs",) if name in settings}
        recipe = self.recipe.model_copy(
            update={
                "recommender": self.recipe.recommender.model_copy(update=settings),
                "training": self.recipe.training.model_copy(update=training),
            }
        )
        return fit_recommender(
            self.vectors, self.first, self.codebook, LeaveLastSplit(self.histories), recipe,
            directory=directory,
        )  # fmt: skip


def histories_of(world):
    index = number_items(world.dataset.items[ITEM_ID].tolist())
    return index_interactions(world.dataset.interactions, index)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Fitted:
    world = generate(WorldConfig.tiny())
    recipe = get_recipe("tiny")
    directory = tmp_path_factory.mktemp("encoder")
    split = LeaveLastSplit(histories_of(world))
    first, _ = fit_encoder(world.dataset.items, split, recipe, directory=directory)
    vectors = first.item_vectors()
    codebook = fit_codebook(vectors[1:], recipe.codebook)
    result = Fitted(world, recipe, first, codebook, vectors, [])
    result.histories = result.code(world)
    return result


@pytest.fixture(scope="module")
def recommender(fitted, tmp_path_factory) -> HyMiRec:
    """As the tiny recipe has it: two interests, windows of four."""
    return fitted.recommender(tmp_path_factory.mktemp("recommender"))


@pytest.fixture(scope="module")
def parted(fitted, tmp_path_factory) -> HyMiRec:
    """Windows long enough to hold several of a user's interests, and as many queries.

    By the paper's loss alone: the merged loss, which makes all interests good at the next item,
    is another part with another purpose.
    """
    directory = tmp_path_factory.mktemp("parted")
    return fitted.recommender(
        directory, num_interests=4, window=12, num_epochs=6, merged_weight=0.0
    )


def recall_at_10(model, cases):
    return summarise(rank_cases(model, cases), (10,))["R@10"]


def test_both_stages_beat_popularity_by_far(fitted, recommender):
    split = LeaveLastSplit(fitted.histories)
    popularity = PopularityRecommender(count_items(split.training, len(fitted.vectors) - 1))
    floor, first, full = (
        recall_at_10(model, split.test) for model in (popularity, fitted.first, recommender)
    )
    print(f"R@10: popularity {floor:.3f}, first stage {first:.3f}, recommender {full:.3f}")
    # Seen with three seeds: 0.07-0.11, 0.54-0.56 and 0.51-0.54.
    assert first > max(0.4, 3 * floor)
    assert full > max(0.4, 3 * floor)


def test_items_of_a_topic_lie_together(fitted):
    """The nearest neighbours of an item are of its topic; one in eight would be by chance."""
    vectors, topics = fitted.vectors[1:], torch.from_numpy(fitted.world.item_topics)
    nearest = (vectors @ vectors.T).fill_diagonal_(-1).topk(5, dim=1).indices
    share = (topics[nearest] == topics[:, None]).float().mean().item()
    print(f"neighbours of one topic: {share:.3f}")
    assert share > 0.8


def test_codes_keep_the_vectors(fitted):
    health = fitted.codebook.health(fitted.vectors[1:])
    print(health)
    assert health["cosine"] > 0.97
    assert min(health[f"utilisation_{layer}"] for layer in (1, 2, 3)) > 0.9


def new_users(fitted):
    """Users of the same catalogue that nothing was trained on, and their planted topics."""
    config = WorldConfig.tiny().model_copy(update={"num_users": 150})
    world = generate(config)
    assert world.dataset.items.equals(fitted.world.dataset.items)
    histories = fitted.code(world)
    known = {history.items.tobytes() for history in fitted.histories}
    assert not any(history.items.tobytes() in known for history in histories)
    planted = world.interests.groupby(USER_ID)["topic"].agg(set)
    users = world.dataset.interactions[USER_ID].unique()
    assert len(users) == len(histories)
    # Every user has two long-term interests at least, and the drift.
    assert planted.map(len).min() >= 3
    return histories, [planted[user] for user in users]


def test_planted_interests_are_recovered(fitted, parted):
    """Each interest is about one planted topic of its user, and together they name several."""
    histories, planted = new_users(fitted)
    several = recovery(parted, histories, planted, fitted.world.item_topics)
    single = recovery(fitted.first, histories, planted, fitted.world.item_topics)
    print(several, single)
    # Seen with three seeds: 0.80-0.83; 0.71-0.79 (0.48-0.55); 0.45-0.51 (0.25); 0.62-0.77.
    assert several["purity"] > 0.7
    assert several["precision"] > max(0.6, 1.25 * several["precision_by_chance"])
    assert several["recall"] > max(0.36, 1.4 * single["recall"])
    assert several["several"] > 0.45


def test_several_interests_cover_more_planted_topics_than_one_in_as_many_items(
    fitted, recommender, parted
):
    histories, planted = new_users(fitted)
    item_topics = fitted.world.item_topics

    def covered(model, size):
        lists = interest_topics(model, histories, item_topics, size)
        return float(
            np.mean(
                [
                    len(set(user.ravel().tolist()) & of_user) / len(of_user)
                    for user, of_user in zip(lists, planted, strict=True)
                ]
            )
        )

    one, two, four = covered(fitted.first, 12), covered(recommender, 6), covered(parted, 3)
    print(f"planted topics among 12 items: 1 interest {one:.3f}, 2 {two:.3f}, 4 {four:.3f}")
    # Seen with three seeds: 0.26-0.27, 0.29-0.31 and 0.50-0.58.
    assert two > 0.95 * one
    assert four > 1.4 * one


def test_items_nobody_has_interacted_with_are_recommended_from_their_text(tmp_path):
    world, recipe = generate(WorldConfig.tiny()), get_recipe("tiny")
    histories = histories_of(world)
    num_items = len(world.dataset.items)
    split = ColdItemSplit.draw(histories, num_items, share=0.1)
    assert not count_items(split.training, num_items)[split.cold].any()
    warm = LeaveLastSplit(split.training)
    model, _ = fit_encoder(world.dataset.items, warm, recipe, directory=tmp_path)
    found = recall_at_10(model, split.test)
    print(f"R@10 of cold items {found:.3f}, by chance {10 / num_items:.3f}")
    # Seen with two seeds: 0.45 and 0.48, and 0.55 for warm items.
    assert found > 0.3


def test_measuring_interests_is_repeatable_and_draws_nothing(fitted, parted):
    settings = parted.settings
    examples = CutPointExamples(
        LeaveLastSplit(fitted.histories).training,
        num_recent=settings.num_recent,
        max_history=settings.max_history,
        num_cuts=settings.num_cuts,
        window=settings.window,
    )
    state = torch.random.get_rng_state()
    measures = interest_measures(parted, examples)
    print(measures)
    assert interest_measures(parted, examples) == measures
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not parted.training
    # Seen: 0.52 and 0.27; interests that are one would have 1 and up to 1.
    assert measures["overlap"] < 0.8
    assert 1 / 4 <= measures["top_share"] < 0.5


@pytest.fixture(scope="module")
def small_world():
    """Twenty-five users, and the tiny recipe with two epochs a stage."""
    world = generate(WorldConfig.tiny().model_copy(update={"num_users": 25}))
    recipe = get_recipe("tiny")
    two = {"num_epochs": 2}
    return world, recipe.model_copy(
        update={
            "first_training": recipe.first_training.model_copy(update=two),
            "training": recipe.training.model_copy(update=two),
        }
    )


@pytest.fixture(scope="module")
def fitted_whole(small_world, tmp_path_factory):
    world, recipe = small_world
    return fit(world.dataset, recipe, directory=tmp_path_factory.mktemp("whole"))


def test_interrupted_in_either_stage_a_run_ends_as_an_uninterrupted_one(
    small_world, fitted_whole, tmp_path
):
    world, recipe = small_world
    histories = histories_of(world)

    def stages(fail_in=None):
        epochs = 0

        def log_metrics(metrics, step):
            nonlocal epochs
            epochs += f"{fail_in}/loss" in metrics
            if epochs == 2:
                raise KeyboardInterrupt

        first, _ = fit_encoder(
            world.dataset.items, LeaveLastSplit(histories), recipe, directory=tmp_path / "first",
            log_metrics=log_metrics,
        )  # fmt: skip
        vectors = first.item_vectors()
        by_text = first.tower.texts_as_read()
        codebook = fit_item_codebook(vectors[1:], by_text[1:], recipe.codebook)
        codes = codebook.encode(vectors).numpy()
        coded = [history.coded(codes) for history in histories]
        return fit_recommender(
            vectors, first, codebook, LeaveLastSplit(coded), recipe, directory=tmp_path / "second",
            log_metrics=log_metrics,
        )  # fmt: skip

    for stage in ("encoder", "recommender"):
        with pytest.raises(KeyboardInterrupt):
            stages(fail_in=stage)
    found, expected = stages().state_dict(), fitted_whole.package.model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Sums over several threads may differ in the last digits when another process works too.
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_what_was_fitted_answers_its_users(small_world, fitted_whole):
    world, _ = small_world
    interactions = world.dataset.interactions
    assert list(fitted_whole.histories) == interactions[USER_ID].unique().tolist()
    for user, history in fitted_whole.histories.items():
        events = interactions[interactions[USER_ID] == user]
        assert list(history.item_ids) == events[ITEM_ID].tolist()
        found, served_by = fitted_whole.package.recommend(history, 10)
        assert served_by == "full"
        assert len({one.item_id for one in found} - set(history.item_ids)) == 10
    # Popular is what training saw often: not counting each user's last two events.
    groups = interactions.groupby(USER_ID)
    trained = interactions[groups.cumcount(ascending=False) >= 2]
    counts = trained[ITEM_ID].value_counts()
    popular, _ = fitted_whole.package.recommend(None, 5)
    assert [counts[one.item_id] for one in popular] == counts.head(5).tolist()


def test_interactions_with_unknown_items_are_refused(small_world, tmp_path):
    world, recipe = small_world
    dataset = replace(world.dataset, items=world.dataset.items.iloc[1:])
    missing = world.dataset.items[ITEM_ID][0]
    with pytest.raises(DataError, match=f"has item '{missing}', which is not among the items"):
        fit(dataset, recipe, directory=tmp_path)


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "says"),
    [
        ("interactions", USER_ID, 3, None, "interactions: row 4 has no user_id"),
        ("interactions", ITEM_ID, 3, None, "interactions: row 4 has no item_id"),
        ("interactions", TIMESTAMP, 3, None, "interactions: row 4 has no timestamp"),
        ("items", ITEM_ID, 0, None, "items: row 1 has no item_id"),
        ("items", ITEM_ID, 1, "i00001", "items: row 2 has item_id 'i00001' a second time"),
    ],
)
def test_rows_that_say_not_who_what_or_when_are_refused_before_anything_is_trained(
    small_world, tmp_path, table, column, row, value, says
):
    world, recipe = small_world
    changed = getattr(world.dataset, table).copy()
    changed.loc[row, column] = value
    with pytest.raises(DataError, match=says):
        fit(replace(world.dataset, **{table: changed}), recipe, directory=tmp_path / "training")
    assert not (tmp_path / "training").exists()


def test_users_too_short_to_learn_from_are_refused(small_world, tmp_path):
    world, recipe = small_world
    interactions = world.dataset.interactions
    place = interactions.groupby(USER_ID).cumcount()
    for length, message in ((2, "no user has 3 events"), (3, "no user has two events to train on")):
        dataset = replace(world.dataset, interactions=interactions[place < length])
        with pytest.raises(DataError, match=message):
            fit(dataset, recipe, directory=tmp_path / str(length))
