"""Every recipe there is can be built, learns from a batch, and says all of its settings."""

import importlib
import inspect
import math
import pkgutil
import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import hymirec.recipes
from hymirec.codebook import ResidualConfig, fit_codebook
from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.encoder import ItemTower, tokenise, train_tokenizer
from hymirec.errors import UsageError
from hymirec.examples import CutPointExamples, NextItemExamples
from hymirec.inputs import index_interactions, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.models.nextitem import NextItemRecommender
from hymirec.models.pretrained import PretrainedConfig
from hymirec.recipes import ABLATIONS, DEFAULT_RECIPE, RECIPES, Recipe, get_recipe
from hymirec.recipes.ablations import variant
from hymirec.schema import ITEM_ID
from hymirec.splits import count_items
from hymirec.texts import item_texts

every_recipe = pytest.mark.parametrize("name", sorted(RECIPES))


@pytest.fixture(scope="module")
def shrunken():
    """A catalogue of 80 items and the histories of 12 users."""
    world = generate(
        WorldConfig.tiny().model_copy(update={"num_users": 12, "num_items": 80, "num_topics": 8})
    )
    index = number_items(world.dataset.items[ITEM_ID].tolist())
    return world.dataset.items, index_interactions(world.dataset.interactions, index)


def learn(model, examples, batch_size):
    """Loss of one pass over a batch, whose gradients are finite and not all zero."""
    batch = examples.collate([examples[place % len(examples)] for place in range(batch_size)])
    loss = model.train()(**batch)["loss"]
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0
    return loss.item()


@pytest.mark.parametrize(
    "recipe",
    [
        *map(get_recipe, sorted(RECIPES)),
        *(variant(get_recipe("tiny"), name, change) for name, change in ABLATIONS.items()),
    ],
    ids=lambda recipe: recipe.name,
)
def test_recipe_builds_and_learns(recipe, shrunken):
    torch.manual_seed(0)
    items, histories = shrunken
    texts = item_texts(items)
    tokenizer = train_tokenizer(texts, recipe.encoder.vocab_size)
    tokens = tokenise(tokenizer, texts, recipe.encoder.max_tokens)
    tower = ItemTower(
        recipe.encoder,
        torch.cat([torch.zeros_like(tokens[:1]), tokens]),
        tokenizer.get_vocab_size(),
        count_items(histories, len(items)),
    )
    tower.reread()
    first = NextItemRecommender(tower, recipe.first_stage)
    examples = NextItemExamples(histories, recipe.first_stage.num_recent)
    loss = learn(first, examples, recipe.first_training.batch_size)
    assert 0 < loss < math.inf

    vectors = first.eval().item_vectors()
    codebook = fit_codebook(vectors[1:], recipe.codebook)
    codes = codebook.encode(vectors).numpy()
    coded = [history.coded(codes) for history in histories]
    model = HyMiRec(vectors, codebook, recipe.recommender)
    settings = recipe.recommender
    if settings.backbone == recipe.first_stage.backbone:
        model.start_from(first.backbone)
    examples = CutPointExamples(
        coded,
        num_recent=settings.num_recent,
        max_history=settings.max_history,
        num_cuts=settings.num_cuts,
        window=settings.window,
    )
    assert 0 < learn(model, examples, 4) < math.inf


@every_recipe
def test_recipe_goes_by_its_name_and_is_valid_and_fixed(name):
    recipe = get_recipe(name)
    assert recipe.name == name
    assert get_recipe(name) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.recommender.num_interests = 7


@every_recipe
def test_flat_settings_are_all_there_and_none_is_nested(name):
    recipe = get_recipe(name)
    flat = recipe.flat()
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())
    assert flat["name"] == name
    assert flat["recommender.backbone.num_layers"] == recipe.recommender.backbone.num_layers
    assert flat["training.learning_rate"] == recipe.training.learning_rate

    def count(value):
        return sum(map(count, value.values())) if isinstance(value, dict) else 1

    assert len(flat) == count(recipe.model_dump())


def test_every_function_that_makes_a_recipe_is_registered_under_its_name():
    found = {}
    for module in pkgutil.walk_packages(hymirec.recipes.__path__, "hymirec.recipes."):
        functions = inspect.getmembers(importlib.import_module(module.name), inspect.isfunction)
        for name, function in functions:
            signature = inspect.signature(function)
            makes_one = signature.return_annotation in ("Recipe", Recipe)
            if makes_one and not signature.parameters and not name.startswith("_"):
                found[name] = function
    assert found == RECIPES


def test_unknown_recipes_are_refused_with_a_list_of_those_there_are():
    with pytest.raises(UsageError, match=f"'huge'.*{', '.join(sorted(RECIPES))}"):
        get_recipe("huge")
    assert DEFAULT_RECIPE in RECIPES


def test_a_text_model_changes_who_reads_and_nothing_else():
    recipe = get_recipe("tiny")
    for tuning, pooling in (("full", {}), ("frozen", {"encoder.pooling": "mean"})):
        model = PretrainedConfig(source="some/model", tuning=tuning)
        changed = recipe.with_text_model(model).flat().items()
        assert {name: value for name, value in changed if recipe.flat()[name] != value} == {
            "encoder.backbone.pretrained.source": "some/model",
            "encoder.backbone.pretrained.tuning": tuning,
            **pooling,
        }


def test_unknown_settings_of_a_recipe_are_refused():
    settings = get_recipe("tiny").model_dump()
    settings["recommender"]["num_interest"] = 3
    with pytest.raises(ValueError, match="num_interest"):
        Recipe.model_validate(settings)
    with pytest.raises(ValueError, match="layers"):
        ResidualConfig(layers=3)


def test_the_recipe_of_the_documentation_is_found_where_it_is_asked_for(tmp_path, monkeypatch):
    documentation = Path(__file__).parents[2] / "docs" / "training.md"
    block = re.search(
        r"    # mine\.py\n((?:    .*\n|\n)+?)\n    hymirec ", documentation.read_text()
    )
    (tmp_path / "mine.py").write_text(textwrap.dedent(block[1]))
    monkeypatch.chdir(tmp_path)
    found, base = get_recipe("mine:careful"), get_recipe("base")
    # By the name that a retraining asks for it again.
    assert found.name == "mine:careful"
    assert found.first_training.learning_rate == 1e-4
    rate = {"learning_rate": base.first_training.learning_rate}
    again = found.first_training.model_copy(update=rate)
    assert found.model_copy(update={"name": "base", "first_training": again}) == base
    sys.modules.pop("mine")
    with pytest.raises(UsageError, match="recipe mine:careless: module 'mine' has no attribute"):
        get_recipe("mine:careless")
    sys.modules.pop("mine")
    with pytest.raises(UsageError, match=r"recipe \.mine:careful: the 'package' argument is"):
        get_recipe(".mine:careful")
    with pytest.raises(UsageError, match="recipe builtins:dict: it makes dict, not a Recipe"):
        get_recipe("builtins:dict")
