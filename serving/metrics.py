"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

AGES = (60, 600, 3600, 6 * 3600, 86_400, 3 * 86_400, 7 * 86_400, 30 * 86_400)
"""Seconds at which the histogram of ages is cut."""
LATENCIES = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
STAGES = (
    "total", "gateway", "experiments", "mlflow", "features", "model", "search", "serialisation",
)  # fmt: skip
AGES_KEPT = 1000


class Metrics:
    """The gateway's counters; to be used on one event loop."""

    def __init__(self) -> None:
        """Register them, in a registry of their own."""
        self.registry = registry = CollectorRegistry()
        self.events = Counter("hymirec_events", "Events taken in.", ["kind"], registry=registry)
        self.answers = Counter(
            "hymirec_answers", "Answers given.", ["model_version", "served_by", "degraded"],
            registry=registry,
        )  # fmt: skip
        self.requests = Counter(
            "hymirec_requests", "Requests by route and status.", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self.latency = Histogram(
            "hymirec_latency_seconds",
            "Time of an answer by stage: waiting and gateway, who is shown what and writing it "
            "down, MLflow around the model, reading features, the model, the search, making JSON "
            "values.",
            ["stage"], buckets=LATENCIES, registry=registry,
        )  # fmt: skip
        for stage in STAGES:
            self.latency.labels(stage)  # is there before anything is counted
        self._ages = Histogram(
            "hymirec_feature_age_seconds", "Age of the users' rows answered from.",
            buckets=AGES, registry=registry,
        )  # fmt: skip
        self._recent_ages: deque[float] = deque(maxlen=AGES_KEPT)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a number that is asked for when it is read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    @property
    def feature_age(self) -> float | None:
        """Median age of the rows of the latest answers, seconds."""
        return median(self._recent_ages) if self._recent_ages else None

    def saw(self, answer: Mapping[str, Any], stages: Mapping[str, float]) -> None:
        """Count an answer; `stages` are seconds, by `STAGES` and what a version has beside them."""
        self.answers.labels(
            answer["model_version"], answer["served_by"], answer["degraded"] or ""
        ).inc()
        if (age := answer["feature_age_seconds"]) is not None:
            self._ages.observe(age)
            self._recent_ages.append(age)
        for stage, seconds in stages.items():
            self.latency.labels(stage).observe(seconds)
