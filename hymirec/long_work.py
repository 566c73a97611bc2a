"""What long work tells while it goes on; a training's lines are `hymirec.progress`'s."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15.0


def lines(name: str, what: str) -> Callable[[int, int | None], None]:
    """Tell how far a long count has come, in a line every `SECONDS_BETWEEN_LINES`.

    Args:
        name: of the work.
        what: is counted.

    Returns:
        To be called with the number done and that of all, None where nobody knows.
    """
    started = last = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        if total is None:
            log.info("%s: %s %s so far", name, f"{done:,}", what)
        elif not done:
            log.info("%s: 0 of %s %s", name, f"{total:,}", what)
        else:
            left = (now - started) / done * (total - done)
            log.info(
                "%s: %s of %s %s, %s left", name, f"{done:,}", f"{total:,}", what, duration(left)
            )

    return tell


def duration(seconds: float) -> str:
    """Spell a time as a person would: `45 s`, `12 min`, `3 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
