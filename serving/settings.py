"""Settings of the gateway."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt


class GatewaySettings(BaseModel):
    """What `hymirec serve` can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    replicas: PositiveInt = 2
    """Model servers of each version that answers: when one is lost the other goes on."""
    standby: bool = True
    """Keep a process that has imported all a model needs, so that a version is up in seconds."""
    answer_seconds: PositiveFloat = 2.0
    """After which an answer is given without the model."""
    most_waiting: PositiveInt = 256
    """Requests in the gateway at once; more are told to come back later."""
    rate: NonNegativeFloat = 0.0
    """Requests a second of one sender on the average; 0 sets no limit."""
    burst: PositiveInt = 100
    """Requests a sender may make at once before the rate counts."""
    ready: tuple[str, ...] = ("previous", "challenger")
    """Aliases whose versions are kept ready with one server each: they may be the next champion."""
    full_seconds: PositiveFloat = 600.0
    """How long the version before the champion keeps all of its servers; then one."""
