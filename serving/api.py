"""What the gateway takes and gives: the bodies of its requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from features.logs.events import EventIn, Id, storable
from hymirec.query import Query

EVENTS_PER_REQUEST = 10_000
USERS_PER_REQUEST = 256
ServedBy = Literal["full", "recent_only", "popular"]


AttributeValue = Annotated[str, StringConstraints(max_length=200)]


class Ask(Query):
    """A request for recommendations to one user or visitor."""

    model_config = ConfigDict(
        # That one of two fields is needed can be written as a schema, but then generated clients
        # know no class of this name any more.
        json_schema_extra={"examples": [{"user_id": "42", "k": 10, "explain": True}]}
    )

    user_id: Id | None = Field(
        default=None,
        description="Without one, recent_items are needed, and tell what to go by; they may be "
        "empty.",
    )

    attributes: dict[str, AttributeValue] = Field(
        default={}, max_length=20,
        description="Of the user or the request, for experiments that ask for them.",
    )  # fmt: skip

    @field_validator("recent_items")
    @classmethod
    def _texts(cls, value: list[str]) -> list[str]:
        return [storable(item) for item in value]

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.user_id is None and "recent_items" not in self.model_fields_set:
            raise ValueError("user_id or recent_items is needed")
        return self

    @property
    def query(self) -> Query:
        """What is asked, without who asks."""
        return Query.model_construct(**{name: getattr(self, name) for name in Query.model_fields})


class Asks(BaseModel):
    """Requests for several users: all are answered, in their order."""

    model_config = ConfigDict(extra="forbid")

    requests: list[Ask] = Field(min_length=1, max_length=USERS_PER_REQUEST)


class Item(BaseModel):
    """An item by id and title."""

    item_id: str
    title: str


class Recommended(Item):
    """One recommended item."""

    score: float = Field(
        description="Cosine with the interest that found it, and what is added where it often "
        "comes after the user's last items; 0 where no interest found it."
    )
    interest: int = Field(description="Which interest found it, from 1; 0 where none did.")
    categories: list[str]
    because: list[Item] | None = Field(
        default=None, description="Items of the history nearest to that interest, if asked for."
    )


class Answer(BaseModel):
    """What is recommended, and how it came about."""

    request_id: str = Field(description="As in the header X-Request-Id.")
    user_id: str | None
    served_by: ServedBy = Field(
        description="full: the model, from the user's history. recent_only: the model, from "
        "recent_items alone. popular: the fallback where there is neither."
    )
    degraded: str | None = Field(
        description="Why the answer is not as good as it should be; null where it is."
    )
    model_version: str
    run_id: str
    codebook_id: str
    feature_age_seconds: float | None = Field(
        description="Since the user's row was written; null without one."
    )
    variant: str | None = Field(description="The experiment and variant this belongs to, if any.")
    recommendations: list[Recommended]
    recent: list[str] | None = Field(
        default=None, description="Latest titles of the history, if reasons were asked for."
    )


class Answers(BaseModel):
    """Answers in the order of the requests."""

    answers: list[Answer]


class EventsIn(BaseModel):
    """Events of one request: all are taken or none."""

    model_config = ConfigDict(extra="forbid")

    events: list[EventIn] = Field(min_length=1, max_length=EVENTS_PER_REQUEST)


class EventsTaken(BaseModel):
    """What became of them."""

    accepted: int = Field(description="Events in the log now, those known before among them.")
    duplicates: int = Field(description="Events whose id was known.")


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    error: str


class ServedVersionState(BaseModel):
    """One version that is served, or on its way."""

    model_version: str
    run_id: str
    codebook_id: str
    role: Literal["champion", "previous", "experiment", "ready"] = Field(
        description="ready: it may be the next champion, by its alias or already on its way."
    )
    servers: int = Field(description="Model servers that answer.")
    wanted: int = Field(description="Model servers there should be.")
    restarts: int
    problem: str | None = Field(description="What went wrong last, until it is put right.")


class VersionState(BaseModel):
    """Who answers, and what else is ready."""

    model: str
    model_version: str = Field(description="The champion's.")
    run_id: str
    codebook_id: str
    feature_age_seconds: float | None = Field(
        description="Median over the latest answers; null before the first."
    )
    switches: int = Field(description="Changes of champion since the gateway started.")
    versions: list[ServedVersionState]
    hymirec: str = Field(description="Version of this gateway.")


class Health(BaseModel):
    """Whether the gateway can do its work."""

    status: Literal["ok"]


class Ready(BaseModel):
    """Whether it can answer, and how well."""

    status: Literal["ok", "degraded"]
    model_version: str
    servers: int


RETRY_AFTER = {
    "Retry-After": {"description": "Seconds, where it is known.", "schema": {"type": "integer"}}
}
PROBLEMS: dict[int, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is no JSON text."},
    401: {"model": Problem, "description": "A bearer token is needed, or this one is unknown."},
    403: {"model": Problem, "description": "The token does not have the role."},
    408: {"model": Problem, "description": "The body did not come in time."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The body is not JSON."},
    422: {"model": Problem, "description": "The body says something that cannot be."},
    429: {"model": Problem, "description": "Too many requests from this sender: try later.",
          "headers": RETRY_AFTER},
    431: {"model": Problem, "description": "The header fields are too large."},
    503: {"model": Problem, "description": "Too much at once, or a store is away: try later.",
          "headers": RETRY_AFTER},
}  # fmt: skip


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of a route: how it may refuse."""
    return {status: PROBLEMS[status] for status in statuses}
