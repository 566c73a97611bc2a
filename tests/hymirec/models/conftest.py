"""Every recommender of the package, small and with all its parameters moved."""

import importlib
import inspect
import pkgutil

import numpy as np
import pandas as pd
import pytest
import torch

import hymirec.models
from hymirec.encoder import EncoderConfig, ItemTower
from hymirec.inputs import IndexedHistory
from hymirec.models.base import (
    Baseline,
    InterestRecommender,
    Recommender,
    TrainedRecommender,
    TrainingData,
)
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig
from hymirec.models.nextitem import NextItemConfig, NextItemRecommender

BACKBONE = BackboneConfig(num_layers=2, num_heads=2, dropout=0.2)
ENCODER = EncoderConfig(
    width=16, hidden_width=8, max_tokens=4, texts_per_step=10, free_vectors=False,
    backbone=BackboneConfig(num_layers=1, num_heads=2, dropout=0.1),
)  # fmt: skip
SMALL = {
    "num_recent": 8, "width": 16, "hidden_width": 12, "num_negatives": 20, "encoder": ENCODER,
    "num_neighbours": 12, "num_cuts": 4, "num_single": 4, "session_size": 3,
    "text_width": 5,
}  # fmt: skip
"""Settings of baselines; each takes those it has."""
WORDS = ("river", "night", "garden", "stone", "summer", "letter", "winter")


def make_hymirec(items, codebook, **settings):
    config = {
        "num_interests": 3, "num_coarse": 2, "window": 3, "num_cuts": 4, "max_history": 30,
        "num_recent": 8, "coarse_layers": 2, "num_negatives": 20,
    }  # fmt: skip
    return HyMiRec(items, codebook, HyMiRecConfig(backbone=BACKBONE, **{**config, **settings}))


def make_next_item(items, codebook, **settings):
    tokens = torch.randint(3, 30, (len(items), 4))
    tokens[0] = 0
    encoder = ENCODER.model_copy(update={"free_vectors": True})
    tower = ItemTower(encoder, tokens, 30, torch.ones(len(items), dtype=torch.int64))
    tower.reread()
    return NextItemRecommender(
        tower, NextItemConfig(**{"backbone": BACKBONE, "num_recent": 8, **settings})
    )


STAGES = {HyMiRec: make_hymirec, NextItemRecommender: make_next_item}


def make_data(num_items, directory):
    """A catalogue with texts and twenty histories, of which no two are alike."""
    rng = np.random.default_rng(torch.initial_seed())
    titles = [" ".join(rng.choice(WORDS, 3)) for _ in range(num_items)]
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(num_items)], "title": titles})
    histories = [
        IndexedHistory.of(part)
        for part in (rng.integers(1, num_items + 1, length) for length in range(5, 25))
    ]
    return TrainingData(items, histories, directory)


def _found_models():
    for module in pkgutil.walk_packages(hymirec.models.__path__, "hymirec.models."):
        importlib.import_module(module.name)
    found, open_classes = set(), [Recommender]
    while open_classes:
        for subclass in open_classes.pop().__subclasses__():
            open_classes.append(subclass)
            ours = subclass.__module__.startswith("hymirec.models.")
            if ours and not inspect.isabstract(subclass):
                found.add(subclass)
    return sorted(found, key=lambda model: model.__name__)


MODELS = _found_models()


def pytest_generate_tests(metafunc):
    """Run a test for every model, or for those of the kind that its argument names."""
    kinds = {
        "model_class": Recommender,
        "interest_class": InterestRecommender,
        "trained_class": TrainedRecommender,
    }
    for argument, kind in kinds.items():
        if argument in metafunc.fixturenames:
            if metafunc.definition.get_closest_marker("parametrize"):
                continue  # the test names its models itself
            models = [model for model in MODELS if issubclass(model, kind)]
            metafunc.parametrize(argument, models, ids=lambda model: model.__name__)


@pytest.fixture
def make(items, codebook, tmp_path_factory):
    """Make a model as its class starts it, with what it is made from drawn from a seed."""

    def from_seed(model_class, seed=0, **settings):
        torch.manual_seed(seed)
        if model_class in STAGES:
            return STAGES[model_class](items, codebook, **settings).eval()
        assert issubclass(model_class, Baseline)
        config = model_class.config_type
        small = {name: value for name, value in SMALL.items() if name in config.model_fields}
        data = make_data(len(items) - 1, tmp_path_factory.mktemp("work"))
        return model_class.build(data, config(**{**small, **settings})).eval()

    return from_seed


@pytest.fixture
def build(make):
    """Make a model in evaluation mode whose parameters, zeros among them, were all moved."""

    def moved(model_class, **settings):
        model = make(model_class, **settings)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        return model.train().eval()  # item vectors computed before are forgotten

    return moved
