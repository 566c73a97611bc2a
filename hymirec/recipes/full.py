"""The whole method at several sizes."""

from __future__ import annotations

from hymirec.codebook import PRESETS, ResidualConfig
from hymirec.encoder import EncoderConfig
from hymirec.models.hymirec import HyMiRecConfig
from hymirec.models.layers import BackboneConfig
from hymirec.models.nextitem import NextItemConfig
from hymirec.recipes.base import Recipe
from hymirec.training import TrainingConfig


def small() -> Recipe:
    """For two CPU cores and up to a few million events: the default."""
    backbone = BackboneConfig(num_layers=2, num_heads=2, dropout=0.2)
    return Recipe(
        name="small",
        encoder=EncoderConfig(width=64, hidden_width=64, texts_per_step=64),
        first_stage=NextItemConfig(backbone=backbone, num_recent=100),
        first_training=TrainingConfig(num_epochs=30, batch_size=16, patience=8),
        codebook=PRESETS["paper"],
        recommender=HyMiRecConfig(backbone=backbone, num_recent=100),
        training=TrainingConfig(num_epochs=12, max_steps=2000, batch_size=16, patience=4),
    )


def base() -> Recipe:
    """The quality of more time: wider, longer, for data with hundreds of events an item.

    An hour or two of two CPU cores for a million events.
    """
    backbone = BackboneConfig(num_layers=3, num_heads=2, dropout=0.2)
    return Recipe(
        name="base",
        encoder=EncoderConfig(width=128, hidden_width=64, texts_per_step=64, text_events=10),
        first_stage=NextItemConfig(backbone=backbone, num_recent=150),
        first_training=TrainingConfig(num_epochs=16, max_steps=20_000, batch_size=16, patience=16),
        codebook=PRESETS["compact"],
        recommender=HyMiRecConfig(backbone=backbone, num_recent=150),
        training=TrainingConfig(
            num_epochs=4, max_steps=20_000, batch_size=16, patience=4, learning_rate=5e-4
        ),
    )


def large() -> Recipe:
    """The quality of a GPU: deeper, and every item of a catalogue up to 4,096 as a negative.

    Some minutes of one GPU for a million events.
    """
    recipe = base()
    backbone = BackboneConfig(num_layers=4, num_heads=2, dropout=0.2)
    wider = {"backbone": backbone, "num_negatives": 4096}
    return recipe.model_copy(
        update={
            "name": "large",
            "first_stage": recipe.first_stage.model_copy(update=wider),
            "first_training": recipe.first_training.model_copy(
                update={"num_epochs": 16, "max_steps": 200_000, "precision": "fp32"}
            ),
            "recommender": recipe.recommender.model_copy(update=wider),
            "training": recipe.training.model_copy(
                update={"max_steps": 50_000, "precision": "fp32"}
            ),
        }
    )


def demo() -> Recipe:
    """The default with fewer epochs and shorter windows: for the built-in world."""
    recipe = small()
    return recipe.model_copy(
        update={
            "name": "demo",
            "first_stage": recipe.first_stage.model_copy(update={"num_recent": 50}),
            "first_training": recipe.first_training.model_copy(
                update={"num_epochs": 8, "batch_size": 32}
            ),
            "recommender": recipe.recommender.model_copy(update={"num_recent": 50}),
            "training": recipe.training.model_copy(update={"num_epochs": 3, "batch_size": 32}),
        }
    )


def tiny() -> Recipe:
    """Seconds of training, for tests on a tiny world."""
    backbone = BackboneConfig(num_layers=1, num_heads=2, dropout=0.1)
    return Recipe(
        name="tiny",
        encoder=EncoderConfig(
            width=32,
            hidden_width=32,
            backbone=BackboneConfig(num_layers=1, num_heads=2, dropout=0.0),
            vocab_size=512,
            texts_per_step=32,
            text_events=100,
        ),
        first_stage=NextItemConfig(backbone=backbone, num_recent=20, num_negatives=128),
        first_training=TrainingConfig(num_epochs=6, batch_size=16, learning_rate=3e-3),
        codebook=ResidualConfig(num_layers=3, num_entries=32),
        recommender=HyMiRecConfig(
            backbone=backbone, num_recent=20, num_cuts=8, coarse_layers=1, num_negatives=128
        ),
        training=TrainingConfig(num_epochs=3, batch_size=16, learning_rate=3e-3),
    )
