"""Thresholds and policies, from a file that people edit."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from hymirec.declared import parse_yaml, validate
from hymirec.errors import UsageError
from hymirec.home import Home

FILE = "monitor.yaml"
Policy = Literal["alarm", "retrain"]

METRICS = {
    "data/popularity_psi": "clicks by popularity of their item, stability index",
    "data/unknown_share": "clicks on items that the version does not know",
    "data/history_length_ks": "histories of users who click, as the model reads them, largest gap",
    "data/text_length_ks": "words of items published since training, largest gap",
    "embedding/axis_ks": "vectors of clicked items along their main axes, largest gap",
    "embedding/codebook_error_ratio": "cosine error of items published since, in training's",
    "codes/in_use_ratio": "codebook entries in effective use, share of training's",
    "predictions/popularity_psi": "recommended items by popularity, stability index",
    "predictions/score_ks": "best score of each list, largest gap",
    "predictions/coverage_ratio": "different items recommended, share of training's",
    "features/age_p95_hours": "age of users' rows, 95th percentile",
    "features/lag_seconds": "how long the oldest event has waited for the feature store",
    "served/hit_rate": "new clicks that were among the 10 recommended before them",
    "served/hit_rate_ratio": "the same as a share of R@10 at training",
    "served/hit_rate_trend": "the same, the last looks over those before",
    "served/click_through": "impressions that were followed by a click on the item",
    "served/click_through_trend": "the same, the last looks over those before",
}
"""What is measured and kept, with what it is."""


class Threshold(BaseModel):
    """From where on a metric is too far, and what follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    above: float | None = None
    below: float | None = None
    policy: Policy = "alarm"
    patience: PositiveInt = 1

    @model_validator(mode="after")
    def _one_side(self) -> Threshold:
        if (self.above is None) == (self.below is None):
            raise ValueError("either above or below is needed")
        return self

    @property
    def limit(self) -> float:
        """The number that is not to be crossed."""
        return self.above if self.above is not None else self.below or 0.0

    def crossed(self, value: float) -> bool:
        """Whether a value is too far."""
        return value > self.limit if self.above is not None else value < self.limit

    def __str__(self) -> str:
        return f"{'above' if self.above is not None else 'below'} {self.limit:g}"


class MonitorConfig(BaseModel):
    """All of the file; see there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_events: PositiveInt
    min_events: PositiveInt
    min_items: PositiveInt
    sample_users: PositiveInt
    sample_clicks: PositiveInt
    trend_steps: PositiveInt
    retrain_again_hours: float = Field(ge=0)
    thresholds: dict[str, Threshold]

    @model_validator(mode="after")
    def _known(self) -> MonitorConfig:
        if unknown := sorted(self.thresholds.keys() - METRICS.keys()):
            raise ValueError(f"no metric is called {unknown[0]!r}; there are {', '.join(METRICS)}")
        return self


def read_config(home: Home, path: Path | None = None) -> MonitorConfig:
    """Read the file named, else the home's, else the one that comes with the package.

    Raises:
        UsageError: it cannot be read, or says something that is not understood.
    """
    own = home.root / FILE
    source = path or (own if own.exists() else None)
    name = str(source or f"flows/monitoring/{FILE}")
    try:
        text = (source or files(__package__).joinpath(FILE)).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from error
    return validate(MonitorConfig, parse_yaml(text, name), name)
