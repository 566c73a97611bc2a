"""What a recipe fixes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, SerializeAsAny

from hymirec.codebook import CodebookConfig
from hymirec.encoder import EncoderConfig
from hymirec.models.base import Baseline
from hymirec.models.hymirec import HyMiRecConfig
from hymirec.models.nextitem import NextItemConfig
from hymirec.models.pretrained import PretrainedConfig
from hymirec.training import TrainingConfig
from hymirec.transitions import TransitionConfig


class Settings(BaseModel):
    """Every setting of a run; logged whole with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What the run is called."""

    def flat(self) -> dict[str, Any]:
        """Settings as `part.name: value`, the form that experiment trackers take."""
        return dict(_flatten("", self.model_dump(mode="json")))


class BaselineRecipe(Settings):
    """A run of a model that HyMiRec is compared with."""

    title: str
    """As tables name it."""
    paper: str
    """Who proposed it, where; empty where nobody in particular did."""
    model: Annotated[type[Baseline], PlainSerializer(lambda model: model.__name__)]
    settings: SerializeAsAny[BaseModel]
    """Of the model's `config_type`."""
    training: TrainingConfig | None = None
    """None for a model that learns nothing by steps."""

    def with_seed(self, seed: int) -> BaselineRecipe:
        """The same from another seed."""
        if self.training is None:
            return self
        return self.model_copy(update={"training": self.training.model_copy(update={"seed": seed})})

    def times_rate(self, factor: float) -> BaselineRecipe:
        """The same with its learning rate multiplied."""
        if self.training is None:
            return self
        return self.model_copy(update={"training": self.training.times_rate(factor)})


class Recipe(Settings):
    """A run of HyMiRec."""

    encoder: EncoderConfig
    """Reads item texts; trained in the first stage, then frozen."""
    first_stage: NextItemConfig
    """The model that the encoder is trained with."""
    first_training: TrainingConfig
    """Of encoder and first stage."""
    codebook: CodebookConfig
    """Turns the encoder's embeddings into codes."""
    recommender: HyMiRecConfig
    """The model that is served."""
    training: TrainingConfig
    """Of the recommender."""
    transitions: TransitionConfig = TransitionConfig()
    """What follows what: counted, and weighed on validation, when the recommender is trained."""

    def at_rate(self, learning_rate: float | None) -> Recipe:
        """The same with another learning rate in all trainings; None changes nothing."""
        return self if learning_rate is None else self._training(learning_rate=learning_rate)

    def times_rate(self, factor: float) -> Recipe:
        """The same with the learning rates of both trainings multiplied."""
        return self.model_copy(
            update={
                "first_training": self.first_training.times_rate(factor),
                "training": self.training.times_rate(factor),
            }
        )

    def with_seed(self, seed: int) -> Recipe:
        """The same from another seed."""
        return self._training(seed=seed)

    def _training(self, **other: Any) -> Recipe:
        return self.model_copy(
            update={
                "first_training": self.first_training.model_copy(update=other),
                "training": self.training.model_copy(update=other),
            }
        )

    def with_text_model(self, pretrained: PretrainedConfig) -> Recipe:
        """Return the recipe with a pretrained model reading the item texts.

        A frozen model never learns what the item token is for: the mean over a text's tokens
        stands in for it.
        """
        backbone = self.encoder.backbone.model_copy(update={"pretrained": pretrained})
        pooling = "mean" if pretrained.tuning == "frozen" else "last"
        encoder = self.encoder.model_copy(update={"backbone": backbone, "pooling": pooling})
        return self.model_copy(update={"encoder": encoder})


def _flatten(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [
        pair
        for key, inner in value.items()
        for pair in _flatten(f"{prefix}.{key}" if prefix else key, inner)
    ]
