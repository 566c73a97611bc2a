"""What the clients keep of the day themselves, to hold it against what the system says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Fate = Literal["acknowledged", "refused", "given up"]


@dataclass(frozen=True)
class Sent:
    """An event as it was sent; ids are this day's own."""

    event_id: str
    user_id: str
    item_id: str
    kind: str
    time: int

    def to_json(self) -> dict[str, object]:
        """As the gateway takes it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Request:
    """One request, of either kind, and what came of it.

    Attributes:
        kind: of request.
        begun: seconds since 1970.
        seconds: until the answer, or until there was none.
        status: of the answer; 0 where there was none.
        problem: of one that failed: what kind of failure.
        request_id: the client's own.
        user_id: who was asked about; empty of a visitor, and of events.
        variant: as the answer says; empty where none.
        version: that answered.
        run_id: its run.
        degraded: why the answer is not as good as it should be; empty where it is.
        served_by: the answer's path.
    """

    kind: Literal["recommendations", "events"]
    begun: float
    seconds: float
    status: int
    problem: str = ""
    request_id: str = ""
    user_id: str = ""
    variant: str = ""
    version: str = ""
    run_id: str = ""
    degraded: str = ""
    served_by: str = ""

    @property
    def ended(self) -> float:
        """Seconds since 1970."""
        return self.begun + self.seconds

    @property
    def failed(self) -> bool:
        """Whether the sender did not get what it asked for."""
        return self.status != 200


@dataclass
class Journal:
    """All requests and the fate of all events; may be written by several threads."""

    requests: list[Request] = field(default_factory=list)
    events: dict[str, Sent] = field(default_factory=dict)
    fates: dict[str, Fate] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, request: Request) -> None:
        """Keep a request."""
        with self._lock:
            self.requests.append(request)

    def sent(self, events: Sequence[Sent], fate: Fate) -> None:
        """Keep what became of events; one that was acknowledged once stays so."""
        with self._lock:
            for one in events:
                self.events.setdefault(one.event_id, one)
                if self.fates.get(one.event_id) != "acknowledged":
                    self.fates[one.event_id] = fate

    def acknowledged(self) -> list[Sent]:
        """Events that are to be there, each once."""
        with self._lock:
            return [self.events[name] for name, fate in self.fates.items()
                    if fate == "acknowledged"]  # fmt: skip

    def with_fate(self, fate: Fate) -> set[str]:
        """Ids of events of one fate."""
        with self._lock:
            return {name for name, its in self.fates.items() if its == fate}

    def since(self, moment: float) -> list[Request]:
        """Requests that began later, seconds since 1970."""
        with self._lock:
            return [one for one in self.requests if one.begun >= moment]
