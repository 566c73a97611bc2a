"""What the gate saw: numbers of its own, and the page and JSON that MLflow keeps of it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import mlflow
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader

from flows.gate.checks import Check, Verdict, overall, summary
from flows.tracking.plots import differences_from_nothing, recall_by_length
from flows.tracking.record import log_metrics
from hymirec.evaluation.report import LENGTH, RANK

FOLDER = "gate"
PAGE, RECORD = "report.html", "report.json"


class Tried(Protocol):
    """How one version's model server did, see `serving.trial.Tried`."""

    start_seconds: float
    latencies_ms: list[float]
    memory_mb: float
    problems: list[str]


class Trial(Protocol):
    """Model servers under way, see `serving.trial.Trial`."""

    def measure(self, users: Sequence[str], num_requests: int) -> Sequence[Tried]:
        """Ask all of them; one result for each version."""


class StartTrial(Protocol):
    """Starts model servers of versions: the command line hands in `serving.trial.Trial`."""

    def __call__(self, versions: Sequence[int]) -> AbstractContextManager[Trial]:
        """Begin to start them and do not wait."""


@dataclass(frozen=True)
class GateReport:
    """One passage through the gate.

    Attributes:
        candidate: the version that wants to answer.
        champion: the one that does, empty where none.
        alias: that is asked for.
        data: the data set's name and digest.
        checks: all that was looked at.
        users: of each side, rank of the target and length of the history, for the plot.
        notes: what whoever reads the numbers should know.
        config: the limits.
        time: when.
    """

    candidate: str
    champion: str
    alias: str
    data: str
    checks: list[Check]
    users: Mapping[str, pd.DataFrame]
    notes: list[str]
    config: Mapping[str, Any]
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def verdict(self) -> Verdict:
        """See `overall`."""
        return overall(self.checks)

    @property
    def reason(self) -> str:
        """See `summary`."""
        return summary(self.checks)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "candidate": self.candidate,
            "champion": self.champion or None,
            "alias": self.alias,
            "data": self.data,
            "time": self.time.isoformat(timespec="seconds"),
            "machine": machine(),
            "notes": self.notes,
            "checks": [one.to_json() for one in self.checks],
            "config": dict(self.config),
        }

    def page(self) -> str:
        """The report as one HTML page that needs nothing else."""
        environment = Environment(loader=PackageLoader("flows"), autoescape=True)
        paired = [one for one in self.checks if one.low is not None and one.group != "floor"]
        groups: dict[str, list[Check]] = {}
        for one in self.checks:
            groups.setdefault(one.group, []).append(one)
        return environment.get_template("gate.html").render(
            report=self,
            groups=groups,
            intervals=differences_from_nothing(
                [(one.name, one.difference or 0.0, one.low or 0.0, one.high or 0.0)
                 for one in paired]
            ) if paired else "",
            lengths=recall_by_length(self.users),
            machine=machine(),
            config=json.dumps(self.config, indent=2),
        )  # fmt: skip

    def log(self, run_id: str) -> str:
        """Keep page, JSON and numbers with an MLflow run; the page's address."""
        client = mlflow.MlflowClient()
        client.log_text(run_id, self.page(), f"{FOLDER}/{PAGE}")
        client.log_text(run_id, json.dumps(self.to_json(), indent=2), f"{FOLDER}/{RECORD}")
        for side in ("candidate", "champion"):
            values = {one.name: getattr(one, side) for one in self.checks if one.group != "slice"}
            log_metrics(
                run_id,
                {
                    f"{side}/{name}".replace(" beside ", "/"): value
                    for name, value in values.items()
                    if value is not None and np.isfinite(value)
                },
            )
        return f"runs:/{run_id}/{FOLDER}/{PAGE}"


def side(ranks: Any, lengths: Any) -> pd.DataFrame:
    """One side of `GateReport.users`."""
    return pd.DataFrame({RANK: ranks, LENGTH: lengths})


def machine() -> dict[str, str]:
    """What latency and memory were measured on."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "load of the last 1, 5 and 15 minutes": load,
    }


def served_numbers(tried: Tried) -> dict[str, float]:
    """The numbers of a trial, by the names that limits use."""
    numbers = {"problems": float(len(tried.problems))}
    if tried.latencies_ms:
        numbers |= {
            "latency_p50_ms": float(np.percentile(tried.latencies_ms, 50)),
            "latency_p95_ms": float(np.percentile(tried.latencies_ms, 95)),
            "memory_mb": tried.memory_mb,
            "start_seconds": tried.start_seconds,
        }
    return numbers
