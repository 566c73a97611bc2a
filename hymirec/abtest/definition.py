"""An experiment as its owner declares it: one YAML document, or the same on the command line.

name: longer-histories
hypothesis: Version 8 reads longer histories, so users click more of what they are shown.
owner: recommendations
variants:
  - {name: control, model: champion}
  - {name: longer, model: 8}
primary: click_through
minimum_lift: 0.05
guardrails:
  - {metric: error_rate, absolute: 0.01}
  - {metric: latency_ms, relative: 0.5}
ramp:
  - {share: 0.01, min_users: 100}
  - {share: 0.1, min_users: 1000}
  - {share: 1.0, min_users: 5000}
horizon: {days: 28}
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from hymirec.abtest.assignment import PLACES, Split
from hymirec.abtest.metrics import METRICS, Metric
from hymirec.declared import parse_yaml, validate
from hymirec.errors import UsageError

Mode = Literal["ab", "shadow", "interleaving"]
Setting = bool | int | float | str


def _as_text(value: Any) -> Any:
    """YAML reads an id of digits as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, Field(min_length=1), BeforeValidator(_as_text)]


def _small(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", value):
        raise ValueError("up to 63 small letters, digits and hyphens, no hyphen first")
    return value


Slug = Annotated[str, AfterValidator(_small)]


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Variant(_Declared):
    """What some of the users are shown.

    Attributes:
        name: of the variant.
        model: an alias such as `champion`, taken for the version it points at when the experiment
            starts, or the number of a version.
        weight: share of the users who take part; where no variant says, all have the same.
        settings: parameters the model is asked with, such as `exclude_seen`.
    """

    name: Slug
    model: int | str
    weight: float | None = Field(default=None, gt=0, lt=1)
    settings: dict[str, Setting] = Field(default_factory=dict)


class Guardrail(_Declared):
    """What must not become worse by more than a margin: one of the two, as a share or as is."""

    metric: str
    relative: float | None = Field(default=None, gt=0, lt=10)
    absolute: float | None = Field(default=None, gt=0)

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        return _over_users(value)

    @model_validator(mode="after")
    def _one_margin(self) -> Guardrail:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError(f"guardrail {self.metric} needs one margin: relative or absolute")
        return self


class Step(_Declared):
    """One step of a ramp.

    Attributes:
        share: of the experiment's traffic that takes part.
        min_users: of each variant, before the next step.
        min_hours: running on this step, pauses not counted, before the next.
    """

    share: float = Field(gt=0, le=1)
    min_users: PositiveInt
    min_hours: float = Field(default=0.0, ge=0)


class Traffic(_Declared):
    """Which part of which layer's users an experiment may have.

    Attributes:
        layer: experiments of one layer never share a user; those of different layers do, so only
            one of them may choose versions, and others what these are asked with.
        begin: where its part of the layer begins, from 0.
        end: up to where it goes, 1 at most.
    """

    layer: Slug = "ranking"
    begin: float = Field(default=0.0, ge=0, lt=1)
    end: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _not_empty(self) -> Traffic:
        if round((self.end - self.begin) * PLACES) < 1:
            raise ValueError(f"from {self.begin:g} to {self.end:g} there is nobody")
        return self

    def overlaps(self, other: Traffic) -> bool:
        """Whether some users would be in both."""
        if self.layer != other.layer:
            return False
        return self.begin < other.end and other.begin < self.end


class Targeting(_Declared):
    """Who takes part.

    Attributes:
        attributes: values that a request's attributes must be among, such as `country: [de, at]`.
        exclude: user ids.
    """

    attributes: dict[str, list[Text]] = Field(default_factory=dict)
    exclude: list[Text] = Field(default_factory=list)


class Horizon(_Declared):
    """When an experiment that shows nothing has gone on for long enough."""

    days: float = Field(gt=0)
    """Since the start."""


class Experiment(_Declared):
    """What is compared, on whom, by which measure, and how far it may go by itself.

    Attributes:
        name: of the experiment; it salts the hash that splits users, so it is used once.
        hypothesis: what is expected, and why.
        owner: who answers for it.
        mode: `ab`; `shadow`, where the second variant is asked and never shown; `interleaving`,
            where both are mixed in one list.
        variants: the first is the control.
        unit: what is assigned.
        traffic: which users it may have.
        targeting: which of them take part.
        overrides: variants of testers by user id; they count for nothing.
        primary: the metric that decides.
        minimum_lift: smallest relative difference in it worth finding.
        secondary: metrics that are shown.
        guardrails: metrics that must not become worse.
        ramp: how the share grows.
        horizon: when to stop waiting.
        attribution_hours: how long after a list what happens to its items is counted for it.
        alpha: chance to find a difference in the primary metric where there is none.
        power: chance to find one of `minimum_lift`.
        on_win: make the winner champion, or leave that to a person.
    """

    name: Slug
    hypothesis: Text
    owner: Text
    mode: Mode = "ab"
    variants: list[Variant] = Field(min_length=2, max_length=10)
    unit: Literal["user"] = "user"
    traffic: Traffic = Traffic()
    targeting: Targeting = Targeting()
    overrides: dict[Text, str] = Field(default_factory=dict)
    primary: str = "click_through"
    minimum_lift: float = Field(default=0.05, gt=0, lt=10)
    secondary: list[str] = Field(default_factory=list)
    guardrails: list[Guardrail] = Field(default_factory=list)
    ramp: list[Step] = Field(min_length=1)
    horizon: Horizon
    attribution_hours: float = Field(default=24.0, gt=0)
    alpha: float = Field(default=0.05, gt=0, le=0.2)
    power: float = Field(default=0.8, gt=0.5, lt=1)
    on_win: Literal["promote", "report"] = "promote"

    @field_validator("primary")
    @classmethod
    def _decides(cls, value: str) -> str:
        return _over_users(value)

    @field_validator("secondary")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        return [_metric(name).name for name in value]

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        names = [variant.name for variant in self.variants]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two variants are called {name!r}")
        given = [variant.weight for variant in self.variants if variant.weight is not None]
        if given and (len(given) < len(names) or abs(sum(given) - 1) > 1e-6):
            raise ValueError("weights have to be given for all variants and add up to 1")
        for user_id, variant in self.overrides.items():
            if variant not in names:
                raise ValueError(f"override of user {user_id!r}: there is no variant {variant!r}")
        shares = [step.share for step in self.ramp]
        if shares != sorted(set(shares)):
            raise ValueError(f"the ramp's shares have to grow: {shares}")
        if self.mode != "ab" and len(names) != 2:
            raise ValueError(f"{self.mode} compares two variants, not {len(names)}")
        asked = [(variant.model, sorted(variant.settings.items())) for variant in self.variants]
        if self.mode == "interleaving" and asked[0] == asked[1]:
            raise ValueError("interleaving of a version with itself shows nothing")
        return self

    @property
    def control(self) -> Variant:
        """What the others are compared with."""
        return self.variants[0]

    @property
    def treatments(self) -> list[Variant]:
        """The others."""
        return self.variants[1:]

    @property
    def weights(self) -> list[float]:
        """Of the variants, in their order."""
        return [variant.weight or 1 / len(self.variants) for variant in self.variants]

    @property
    def settings(self) -> set[str]:
        """Names of all that its variants set."""
        return {name for variant in self.variants for name in variant.settings}

    @property
    def planned_users(self) -> int:
        """Of two variants together at the ramp's end: where intervals should be narrowest."""
        return 2 * self.ramp[-1].min_users

    def variant(self, name: str) -> Variant:
        """The variant of a name.

        Raises:
            UsageError: there is none.
        """
        for one in self.variants:
            if one.name == name:
                return one
        raise UsageError(f"experiment {self.name} has no variant {name!r}")

    def split(self, share: float) -> Split:
        """The experiment as assignment sees it, at a share of its traffic."""
        return Split(
            name=self.name,
            salt=f"experiment:{self.name}:",
            layer=self.traffic.layer,
            slice=(self.traffic.begin, self.traffic.end),
            variants=tuple(variant.name for variant in self.variants),
            weights=tuple(self.weights),
            share=share,
            attributes={
                name: frozenset(values) for name, values in self.targeting.attributes.items()
            },
            excluded=frozenset(self.targeting.exclude),
            overrides=dict(self.overrides),
        )


def example() -> str:
    """A declaration to begin with: the one above."""
    return (__doc__ or "").partition("\n\n")[2]


def parse(text: str, source: str) -> Experiment:
    """Read an experiment from YAML.

    Args:
        text: one document.
        source: its name, for messages.

    Raises:
        UsageError: it is no experiment; the message says where and why.
    """
    return check(parse_yaml(text, source, "an experiment"), source)


def check(values: dict[str, Any], source: str) -> Experiment:
    """Make an experiment of its fields.

    Raises:
        UsageError: they are none; the message names the first that is wrong.
    """
    return validate(Experiment, values, source)


ALWAYS_WRITTEN = ("primary", "minimum_lift")
"""What an owner is told to change, so that it is there to be changed."""


def to_yaml(experiment: Experiment) -> str:
    """The experiment as a document that `parse` reads, written as an owner would."""
    values = experiment.model_dump(exclude_none=True, exclude_defaults=True)
    values |= experiment.model_dump(include=set(ALWAYS_WRITTEN))
    in_order = {name: values[name] for name in Experiment.model_fields if name in values}
    return yaml.safe_dump(
        in_order, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000
    )


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise ValueError(f"no metric is called {name!r}; there are {', '.join(METRICS)}")
    return METRICS[name]


def _over_users(name: str) -> str:
    if _metric(name).counts_items:
        raise ValueError(f"{name} counts items, not users: it can be secondary only")
    return name
