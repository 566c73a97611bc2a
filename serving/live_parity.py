"""Whether rows online still say what published history and event log say, watched in traffic."""

from __future__ import annotations

import logging
import os
import queue
import random
import threading

from prometheus_client import CollectorRegistry, Counter

from features.logs.event_log import EventLog
from features.online import list_codebooks
from features.parity import ParityCheck
from hymirec.errors import HymirecError, UsageError

log = logging.getLogger(__name__)

ENV_SHARE = "HYMIREC_PARITY_SHARE"
"""Share of the answers whose user's rows are compared with history and log afterwards; 0.01."""
DEFAULT_SHARE = 0.01
USERS_AT_A_TIME = 50
SECONDS_BETWEEN_CHECKS = 5.0


class LiveParity:
    """Compares the rows of some of the users that were answered, aside from the answers."""

    def __init__(self, event_log: EventLog, metrics: CollectorRegistry) -> None:
        """Register the counters.

        Raises:
            UsageError: the share that the environment names is none.
        """
        self.share = _share()
        self._log = event_log
        self._users: queue.Queue[str] = queue.Queue(maxsize=USERS_AT_A_TIME)
        self._compared = Counter(
            "hymirec_parity_compared", "Rows compared with history and log.", registry=metrics
        )
        self._mismatches = Counter(
            "hymirec_parity_mismatches", "Rows that said something else.", registry=metrics
        )

    def saw(self, user_id: str) -> None:
        """Perhaps remember a user for the next check; costs nothing to speak of."""
        # A sample, not a secret.
        if random.random() < self.share and not self._users.full():  # noqa: S311
            self._users.put(user_id)

    def check(self) -> None:
        """Compare the rows of the users remembered, under every published codebook."""
        users = {self._users.get_nowait() for _ in range(self._users.qsize())}
        if not users:
            return
        for codebook_id in list_codebooks(self._log.home):
            report = ParityCheck(self._log, codebook_id).check(users)
            self._compared.inc(report.compared)
            self._mismatches.inc(len(report.mismatches))
            for one in report.mismatches:
                log.warning("the row of user %r, codebook %s, is wrong: %s missing, %s extra, "
                            "%s with other codes", one.user_id, codebook_id, len(one.missing),
                            len(one.extra), len(one.other_codes))  # fmt: skip

    def run(self, stop: threading.Event) -> None:
        """Check every few seconds until told to stop."""
        while not stop.wait(SECONDS_BETWEEN_CHECKS):
            try:
                self.check()
            except Exception as error:  # whatever it is, the next rows are compared all the same
                known = isinstance(error, HymirecError)
                log.warning("rows cannot be compared: %s", error, exc_info=not known)


def _share() -> float:
    text = os.environ.get(ENV_SHARE, "")
    try:
        share = float(text) if text else DEFAULT_SHARE
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"{ENV_SHARE} is {text!r}: a number from 0 to 1 is needed")
    return share
