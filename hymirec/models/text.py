"""What models that read the items' texts share: a tower of their own, and how it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors.torch import load_file, save_file
from torch import nn

from hymirec.catalogue import make_tower
from hymirec.encoder import EncoderConfig, ItemTower
from hymirec.models.base import Baseline, TrainingData
from hymirec.models.pretrained import save_architecture, without_adapters
from hymirec.models.sequence import SequenceConfig, SequenceRecommender


class TextRecommender(SequenceRecommender):
    """Reads a sequence of items whose vectors a content encoder makes.

    A subclass takes `(tower, config, *, saved=None)`, with `saved` as in
    `hymirec.models.layers.build_backbone`, and has `settings`.
    """

    tower: ItemTower
    settings: SequenceConfig
    config_type: ClassVar[type[SequenceConfig]]

    def save(self, directory: Path) -> None:
        """Write settings and weights, those of pretrained backbones among them."""
        directory.mkdir(parents=True)
        settings = {
            "encoder": self.tower.settings.model_dump(mode="json"),
            "model": self.settings.model_dump(mode="json"),
            "vocab_size": self.tower.encoder.vocab_size,
        }
        (directory / "settings.json").write_text(json.dumps(settings, indent=2))
        save_file(without_adapters(self).state_dict(), directory / "weights.safetensors")
        save_architecture(self.tower.encoder.backbone, directory / "encoder")
        if isinstance(backbone := getattr(self, "backbone", None), nn.Module):
            save_architecture(backbone, directory / "backbone")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        settings = json.loads((directory / "settings.json").read_text())
        weights = load_file(directory / "weights.safetensors")
        tower = ItemTower(
            EncoderConfig.model_validate(settings["encoder"]),
            weights["tower.tokens"],
            settings["vocab_size"],
            weights["tower.occurrences"],
            saved=directory / "encoder",
        )
        config = cls.config_type.model_validate(settings["model"])
        # A subclass's own constructor, as the class says.
        model = cls(tower, config, saved=directory / "backbone")  # type: ignore[call-arg]
        model.load_state_dict(weights)
        return model.eval()


class TextConfig(SequenceConfig):
    """Settings of baselines by text."""

    encoder: EncoderConfig = EncoderConfig(free_vectors=False)
    """What reads the item texts."""


class TextBaseline(TextRecommender, Baseline):
    """One that is made from data and settings alone."""

    config_type: ClassVar[Any]

    @classmethod
    def build(cls, data: TrainingData, settings: Any) -> Self:
        """Make an untrained model that has read the catalogue once."""
        tower, _ = make_tower(data.items, settings.encoder, data.occurrences, data.directory)
        # A subclass's own constructor, likewise.
        return cls(tower, settings)  # type: ignore[call-arg]
