"""The gate's limits, as a file has them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    model_validator,
)

from hymirec.declared import parse_yaml, validate
from hymirec.errors import UsageError
from hymirec.home import Home

FILE = "gate.yaml"
BUILT_IN = Path(__file__).with_name(FILE)

Metric = Literal["R@10", "R@50", "R@100", "R@200", "N@10", "N@50", "N@100", "N@200"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Comparison(_Settings):
    """How a paired difference is judged."""

    margin: NonNegativeFloat
    """Share of the champion's value."""
    must_be_shown: bool


class Slices(_Settings):
    """How slices are judged: see `Comparison`, with `must_be_shown` false."""

    metric: Metric
    margin: NonNegativeFloat
    min_users: PositiveInt
    long_history_events: PositiveInt


class Limit(_Settings):
    """Bounds of one number: at least one of them, all in one direction."""

    at_least: float | None = None
    may_fall_by: NonNegativeFloat | None = None
    at_most: float | None = None
    may_rise_by: NonNegativeFloat | None = None

    @model_validator(mode="after")
    def _one_direction(self) -> Self:
        upwards = self.at_least is not None or self.may_fall_by is not None
        downwards = self.at_most is not None or self.may_rise_by is not None
        if upwards == downwards:
            raise ValueError("either at_least and may_fall_by or at_most and may_rise_by")
        return self

    @property
    def more_is_better(self) -> bool:
        """Which way a number should go."""
        return self.at_least is not None or self.may_fall_by is not None


class GateConfig(_Settings):
    """See `gate.yaml`, which says what each part means."""

    max_users: PositiveInt
    level: float = Field(gt=0, lt=1)
    comparisons: dict[Metric, Comparison]
    slices: Slices
    beats_popularity: Metric
    limits: dict[str, dict[str, Limit]]
    requests: PositiveInt


def read_config(home: Home, path: Path | None = None) -> tuple[GateConfig, Path]:
    """Read the limits.

    Args:
        home: whose `gate.yaml` is read, if it has one.
        path: another file.

    Returns:
        The limits and the file they are of.

    Raises:
        UsageError: the file cannot be read or says something else; the message names the place.
    """
    own = home.root / FILE
    found = path or (own if own.exists() else BUILT_IN)
    try:
        text = found.read_bytes()
    except OSError as error:
        raise UsageError(f"{found} cannot be read: {error.strerror}") from error
    return validate(GateConfig, parse_yaml(text, str(found)), str(found)), found
