"""Who is answered by which version and with which settings: the seam for experiments.

The gateway asks a `Rollout` for the route of each request and tells it of each answer. Without
experiments everybody is answered by the champion.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hymirec.query import Query


@dataclass(frozen=True)
class Beside:
    """A second version that is asked the same.

    Attributes:
        version: which registered version.
        settings: as of `Route`.
        is_mixed: whether its list is mixed into the first's, by team draft; otherwise nobody is
            shown it, and it is asked when the answer is on its way.
    """

    version: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_mixed: bool = False


@dataclass(frozen=True)
class Route:
    """How one request is to be answered.

    Attributes:
        version: which registered version answers; None is the champion.
        settings: values that take the place of the request's, by the names of `Query`'s fields.
        variant: what the answer calls this, such as `ranking-4/treatment`; empty outside of
            experiments.
        beside: a second version to be asked as well.
        context: for whoever made the route to find again in `Answered`; the gateway leaves it be.
    """

    version: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    beside: Beside | None = None
    context: Any = None


@dataclass(frozen=True)
class Answered:
    """One answer that is about to be sent.

    Attributes:
        request_id: as in the answer and its header `X-Request-Id`.
        user_id: None for a visitor.
        query: what was asked, with the route's settings.
        route: as it was given.
        answer: the answer's JSON values: `model_version`, `run_id`, `codebook_id`, `served_by`,
            `degraded`, `feature_age_seconds`, `recommendations` …
        seconds: since the request came in.
        teams: of a mixed list, which version picked each item, 0 the route's, 1 the one beside.
    """

    request_id: str
    user_id: str | None
    query: Query
    route: Route
    answer: Mapping[str, Any]
    seconds: float
    teams: Sequence[int] = ()


@dataclass(frozen=True)
class Shadowed:
    """What a version said that nobody is shown.

    Attributes:
        answered: what was shown instead.
        recommendations: its list; empty where it gave none.
        error: why it gave none, empty where it did.
        seconds: that it took.
        shown_seconds: that the version took whose list was shown.
    """

    answered: Answered
    recommendations: Sequence[Mapping[str, Any]]
    error: str
    seconds: float
    shown_seconds: float


class Rollout(Protocol):
    """Assigns requests to versions. Called on the gateway's event loop: nothing here may block."""

    def versions(self) -> Collection[int]:
        """Versions to be kept ready beside the champion; asked once a second."""
        ...

    def route(self, user_id: str | None, query: Query, attributes: Mapping[str, str]) -> Route:
        """How this request is to be answered; in a request of several, asked for each."""
        ...

    async def on_answer(self, answered: Answered) -> None:
        """Take note of an answer; it is sent when this returns, so what is written is not lost.

        Whatever is raised here is logged, and the answer is sent.
        """
        ...

    async def on_shadow(self, shadowed: Shadowed) -> None:
        """Take note of an answer that nobody is shown."""
        ...


class ChampionOnly:
    """The rollout without experiments."""

    def versions(self) -> Collection[int]:
        """None."""
        return ()

    def route(self, user_id: str | None, query: Query, attributes: Mapping[str, str]) -> Route:
        """Always the champion."""
        return Route()

    async def on_answer(self, answered: Answered) -> None:
        """Nothing to note."""

    async def on_shadow(self, shadowed: Shadowed) -> None:
        """There is none."""
