"""What the console asks of flows and registry, which serving does not know.

`flows.desk.Desk` is one; the command line hands it in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from features.logs.audit_log import Entry
from features.logs.standing import StoredExperiment
from hymirec.abtest.definition import Experiment


class Desk(Protocol):
    """Called from threads; errors are `UsageError`s and `HymirecError`s, each one line."""

    def versions(self) -> list[dict[str, Any]]:
        """All registered versions as JSON values, the newest first."""
        ...

    def version(self, name: str) -> dict[str, Any]:
        """A version by number or alias: the same values, its `card` and its `params`."""
        ...

    def history(self, *, version: str = "", limit: int = 20) -> list[Entry]:
        """What was decided about versions, the newest first."""
        ...

    def roll_back(self, *, reason: str, actor: str) -> Entry:
        """Make the version before the champion champion again."""
        ...

    def resolve(self, experiment: Experiment) -> dict[str, int]:
        """Version of each variant as aliases stand; refuses what could not be served."""
        ...

    def start(self, name: str, *, reason: str, actor: str) -> StoredExperiment:
        """Begin a draft."""
        ...

    def conclude(
        self, name: str, winner: str, *, reason: str, actor: str, promote: bool, force: bool
    ) -> StoredExperiment:
        """End an experiment with a winner, and make its version champion if asked.

        Without `force` the version has to pass the gate, which may take a minute.
        """
        ...

    def gate_says(self, version: int) -> str:
        """What the gate found of a version beside the present champion, in a line."""
        ...

    def monitoring(self) -> Sequence[dict[str, Any]]:
        """Series of the champion's monitoring.

        Returns:
            For each metric: `metric`, `what`, `points` of seconds since 1970 UTC and value,
            `limit` or None, `side` of it that is too far, and `is_crossed`.
        """
        ...
