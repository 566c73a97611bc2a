"""What flows and registry know, as the console asks for it (`serving.console.desk.Desk`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from mlflow.exceptions import MlflowException

from features.logs.audit_log import Entry
from features.logs.standing import StoredExperiment
from flows.monitoring.series import Series
from flows.monitoring.settings import METRICS, read_config
from flows.registry import lifecycle
from flows.registry.aliases import Aliases
from flows.registry.inventory import describe, describe_all
from flows.runtime.settings import CHAMPION, MODEL_NAME
from hymirec.abtest.definition import Experiment
from hymirec.home import Home


class Desk:
    """Of one home; may be asked from several threads. Errors are as of what it calls."""

    def __init__(self, home: Home) -> None:
        """Name the home; nothing is read yet."""
        self.home = home

    def versions(self) -> list[dict[str, Any]]:
        """See `describe_all`; the newest first."""
        with self._aliases() as aliases:
            return describe_all(aliases)[::-1]

    def version(self, name: str) -> dict[str, Any]:
        """See `describe`; with the version's `card` and its run's `params`."""
        with self._aliases() as aliases:
            found = aliases.find(name)
            try:
                params = dict(aliases.client.get_run(str(found.run_id)).data.params)
            except MlflowException:  # its run is gone
                params = {}
            card = {"card": found.description or "", "params": params}
            return describe(aliases, found) | card

    def history(self, *, version: str = "", limit: int = 20) -> list[Entry]:
        """See `Aliases.history`."""
        with self._aliases() as aliases:
            return aliases.history(version=version, limit=limit)

    def roll_back(self, *, reason: str, actor: str) -> Entry:
        """See `Aliases.rollback`."""
        with self._aliases() as aliases:
            return aliases.rollback(reason, actor=actor)

    def resolve(self, experiment: Experiment) -> dict[str, int]:
        """See `lifecycle.resolve_versions`."""
        return lifecycle.resolve_versions(self.home, experiment)

    def start(self, name: str, *, reason: str, actor: str) -> StoredExperiment:
        """See `lifecycle.start`."""
        return lifecycle.start(self.home, name, reason=reason, actor=actor)

    def conclude(
        self, name: str, winner: str, *, reason: str, actor: str, promote: bool, force: bool
    ) -> StoredExperiment:
        """See `lifecycle.conclude`."""
        return lifecycle.conclude(
            self.home, name, winner, reason=reason, actor=actor, promote=promote, force=force
        )

    def gate_says(self, version: int) -> str:
        """What the gate found of a version beside the present champion, in a line."""
        with self._aliases() as aliases:
            champion = aliases.get(CHAMPION)
            if champion == str(version):
                return "it is champion"
            found = aliases.verdict_on(str(version), champion)
        if found is None:
            return f"the gate has not compared it with version {champion or 'none'} yet"
        word = {"pass": "passed", "fail": "failed"}.get(
            found.evidence["verdict"], found.evidence["verdict"]
        )
        return f"{word} the gate beside version {champion}, {found.time:%Y-%m-%d %H:%M}"

    def monitoring(self) -> list[dict[str, Any]]:
        """The champion's series by metric, those that have points."""
        with self._aliases() as aliases:
            champion = aliases.get(CHAMPION)
        series = Series.find(self.home, f"{MODEL_NAME}/{champion}")
        if series is None:
            return []
        thresholds = read_config(self.home).thresholds
        found = []
        for metric, points in series.read().items():
            limit = thresholds.get(metric)
            found.append(
                {
                    "metric": metric,
                    "what": METRICS[metric],
                    "points": [(one.time, one.value) for one in points],
                    "limit": limit.limit if limit else None,
                    "side": str(limit).partition(" ")[0] if limit else "",
                    "is_crossed": bool(limit and points and limit.crossed(points[-1].value)),
                }
            )
        return found

    @contextmanager
    def _aliases(self) -> Iterator[Aliases]:
        with closing(Aliases(self.home)) as found:
            found.notice()
            yield found
