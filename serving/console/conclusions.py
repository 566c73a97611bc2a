"""Experiments that are being concluded: aside, for the gate may take a minute or two to judge."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hymirec.errors import HymirecError, UsageError

log = logging.getLogger(__name__)

PATIENT_SECONDS = 2.0
"""For a conclusion to be made before the page goes on without it."""


@dataclass
class Conclusion:
    """One that was asked for.

    Attributes:
        winner: the variant.
        began: seconds since 1970 UTC.
        ended: whether it has come to its end, good or bad.
        problem: why it came to nothing, empty until it has.
    """

    winner: str
    began: float
    ended: threading.Event = field(default_factory=threading.Event)
    problem: str = ""


class Conclusions:
    """Those of one gateway, by experiment; may be asked from several threads."""

    def __init__(self) -> None:
        """Begin with none."""
        self._last: dict[str, Conclusion] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Conclusion | None:
        """The one that is being made or has failed; None of others."""
        found = self._last.get(name)
        return found if found and (found.problem or not found.ended.is_set()) else None

    def make(self, name: str, winner: str, work: Callable[[], object]) -> None:
        """Conclude an experiment; what takes longer goes on after this returns.

        Args:
            name: of the experiment.
            winner: the variant.
            work: concludes it.

        Raises:
            UsageError: it is being concluded already.
            HymirecError: as `work`, if that fails soon; later it is the conclusion's `problem`.
        """
        with self._lock:
            before = self._last.get(name)
            if before and not before.ended.is_set():
                raise UsageError(f"{name} is being concluded already, with {before.winner}")
            conclusion = self._last[name] = Conclusion(winner, time.time())
        failed: list[Exception] = []

        def conclude() -> None:
            try:
                work()
            except Exception as error:  # whatever it is, whoever asked has to be told
                failed.append(error)
                conclusion.problem = str(error) or type(error).__name__
                if not isinstance(error, HymirecError):
                    log.exception("experiment %s could not be concluded", name)
            conclusion.ended.set()

        # One that is at the gate keeps no gateway from ending: the experiment goes on, and the
        # gate's verdict is on record for the next time.
        threading.Thread(target=conclude, name=f"conclude {name}", daemon=True).start()
        if not conclusion.ended.wait(PATIENT_SECONDS):
            return
        with self._lock:
            if self._last.get(name) is conclusion:  # else another was begun as this one ended
                del self._last[name]
        if failed:
            raise failed[0]
