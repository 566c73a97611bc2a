"""Events as senders write them: checked one by one, refused with the field's name.

    {"event_id": "3f2a", "user_id": "42", "item_id": "1288", "kind": "click",
     "time": "2026-11-03T10:00:00Z", "value": 1.5, "context": {"request_id": "r1"}}

`time` may be seconds since 1970 as well, and is the time of arrival where it is left out; `value`
and `context` may be left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from features.logs.event_log import Event, EventLog, Kind
from hymirec import long_work
from hymirec.errors import DataError

MAX_ID = 1024
"""Characters of an id."""
MAX_CONTEXT = 10_000
"""Characters of a context as JSON."""
CLOCKS_DIFFER = 300
"""Seconds by which a sender's clock may be ahead of ours."""
EVENTS_PER_CALL = 1000
EARLIEST = -9_000_000_000
"""Seconds since 1970: what tables of times in nanoseconds can hold."""


def _as_text(value: Any) -> Any:
    """Whole numbers are ids too; anything else is left for pydantic to judge."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def storable(value: str) -> str:
    """Refuse what no database takes for text."""
    if "\0" in value:
        raise ValueError("a NUL character cannot be stored")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair is no text") from error
    return value


Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ID),
    BeforeValidator(_as_text),
    AfterValidator(storable),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "minLength": 1, "maxLength": MAX_ID}, {"type": "integer"}]}
    ),
]
Moment = Annotated[
    int,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "number", "minimum": EARLIEST, "maximum": 1e11},
            ],
            "description": "ISO 8601 with a time zone, or seconds since 1970; the time of arrival "
            "where it is left out.",
        }
    ),
]


class EventIn(BaseModel):
    """One event as it comes in."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    event_id: Id
    user_id: Id
    item_id: Id
    kind: Kind
    time: Moment = Field(default_factory=lambda: int(time.time()))
    value: float | None = Field(default=None, strict=True)
    context: dict[str, Any] = Field(default_factory=dict)

    @field_validator("time", mode="before")
    @classmethod
    def _read_time(cls, value: Any) -> int:
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError as error:
                raise ValueError(f"{value[:40]!r} is not an ISO 8601 time") from error
            if moment.tzinfo is None:
                raise ValueError(f"{value!r} has no time zone (append Z for UTC)")
            seconds = moment.timestamp()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value
        else:
            raise ValueError("a time is ISO 8601 text or seconds since 1970")
        now = time.time()
        if not seconds >= EARLIEST:  # NaN too
            raise ValueError(f"{value} is no time from 1685 on")
        if seconds > 1e11:
            raise ValueError(f"{value} is too large for seconds: are these milliseconds?")
        if seconds > now + CLOCKS_DIFFER:
            raise ValueError(f"{value} is {seconds - now:.0f} s in the future")
        return int(seconds // 1)

    @field_validator("context")
    @classmethod
    def _small(cls, value: dict[str, Any]) -> dict[str, Any]:
        # NaN and infinity are read as numbers, but no JSON can have them.
        if len(json.dumps(value, allow_nan=False)) > MAX_CONTEXT:
            raise ValueError(f"more than {MAX_CONTEXT} characters as JSON")
        return value

    def to_event(self) -> Event:
        """The event as the log takes it."""
        return Event(**self.model_dump())


def first_problem(error: ValidationError) -> str:
    """One line of the first thing wrong: `user_id: Field required`."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")


def ingest(log: EventLog, lines: Iterable[str | bytes], name: str) -> tuple[int, int]:
    """Append events from JSON lines, a thousand at a time.

    Args:
        log: where to.
        lines: one event each; empty ones are passed over.
        name: of the source, for messages.

    Returns:
        How many events there were, and how many were new.

    Raises:
        DataError: a line is no event; those of the thousands before it are in the log, so the same
            call on the corrected source adds the rest.
    """
    read = new = 0
    tell = long_work.lines("ingest", "events")
    for part in _parts(lines, name):
        new += log.append(part)
        read += len(part)
        tell(read, None)
    return read, new


def _parts(lines: Iterable[str | bytes], name: str) -> Iterator[list[Event]]:
    part: list[Event] = []
    done = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            part.append(EventIn.model_validate_json(line).to_event())
        except ValidationError as error:
            raise DataError(
                f"{name} line {number}: {first_problem(error)} "
                f"(the log has the lines up to line {done})"
            ) from error
        if len(part) == EVENTS_PER_CALL:
            yield part
            part, done = [], number
    if part:
        yield part
