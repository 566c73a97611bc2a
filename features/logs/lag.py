"""How long events may wait for their consumer: past the limit, answers say that they lack some."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from features.limits import read_seconds
from hymirec.errors import HymirecError

log = logging.getLogger(__name__)

ENV_MAX_LAG = "HYMIREC_MAX_EVENT_LAG"
"""Seconds an event may wait for the feature store, past which answers are marked as degraded; 60.
"""
DEFAULT_MAX_LAG = 60.0
SECONDS_BETWEEN_LOOKS = 1.0
LATE_EVENTS = "late events"


class LagLimit:
    """Watches a consumer of events from a thread, so that no request waits for the event log.

    Attributes:
        degraded: `LATE_EVENTS` while events have waited for longer than the limit, or while nobody
            can tell; else None.
    """

    def __init__(self, lag_seconds: Callable[[], float]) -> None:
        """Read the limit.

        Args:
            lag_seconds: `features.updates.EventConsumer.lag_seconds`.

        Raises:
            UsageError: the limit that the environment names is none.
        """
        self.limit = read_seconds(ENV_MAX_LAG, DEFAULT_MAX_LAG)
        self.degraded: str | None = None
        self._lag_seconds = lag_seconds

    def look(self) -> None:
        """Compare the lag with the limit."""
        try:
            lag = self._lag_seconds()
            reason = f"an event has waited for {lag:.0f} s" if lag > self.limit else ""
        except HymirecError as error:
            reason = str(error)
        if reason and self.degraded is None:
            log.warning("answers are marked %r: %s", LATE_EVENTS, reason)
        self.degraded = LATE_EVENTS if reason else None

    def run(self, stop: threading.Event) -> None:
        """Look every second until told to stop."""
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            self.look()
