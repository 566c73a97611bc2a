"""How the gateway does: numbers out of its own counters, now and over the last hour."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from serving.console.charts import Chart, Point, draw

LATENCY, ANSWERS, LAG = (
    "hymirec_latency_seconds", "hymirec_answers", "hymirec_event_lag_seconds",
)  # fmt: skip
SECONDS_BETWEEN_LOOKS = 10.0
LOOKS_KEPT = 360
TAIL = 0.95

Buckets = dict[float, float]
"""Answers up to a number of seconds, by that number."""


@dataclass(frozen=True)
class Counters:
    """What the gateway has counted so far.

    Attributes:
        latency: buckets by stage.
        answers: by version, path (`served_by`) and why it is not as good as it should be.
        values: of everything that has no labels and can be told at present, by name.
    """

    latency: dict[str, Buckets]
    answers: dict[tuple[str, str, str], float]
    values: dict[str, float]

    @property
    def num_answers(self) -> float:
        """Answers given."""
        return sum(self.answers.values())

    @property
    def num_degraded(self) -> float:
        """Answers that were not as good as they should be."""
        return sum(count for (_, _, why), count in self.answers.items() if why)

    @property
    def num_fallbacks(self) -> float:
        """Answers that a model server did not give, though it should have."""
        return sum(
            count for (_, path, why), count in self.answers.items() if why and path == "popular"
        )

    @property
    def mismatch_rate(self) -> float | None:
        """Share of rows compared that said something else; None before the first."""
        compared = self.values.get("hymirec_parity_compared_total", 0.0)
        wrong = self.values.get("hymirec_parity_mismatches_total", 0.0)
        return wrong / compared if compared else None


def read(registry: CollectorRegistry) -> Counters:
    """Read all counters."""
    latency: dict[str, Buckets] = {}
    answers: dict[tuple[str, str, str], float] = {}
    values: dict[str, float] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            labels = sample.labels
            if sample.name == f"{LATENCY}_bucket":
                latency.setdefault(labels["stage"], {})[float(labels["le"])] = sample.value
            elif sample.name == f"{ANSWERS}_total":
                key = labels["model_version"], labels["served_by"], labels["degraded"]
                answers[key] = sample.value
            elif not labels and not math.isnan(sample.value):
                values[sample.name] = sample.value
    return Counters(latency, answers, values)


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Seconds within which a share of answers came; None of no answer.

    Between two bounds answers are taken to lie evenly, as Prometheus does.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return None
    below, counted = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            if bound == float("inf"):
                return below
            inside = buckets[bound] - counted
            return below + (bound - below) * ((share * total - counted) / inside if inside else 1)
        below, counted = bound, buckets[bound]
    return below


def between(later: Mapping[float, float], earlier: Mapping[float, float]) -> Buckets:
    """Buckets of what came between two looks."""
    return {bound: count - earlier.get(bound, 0.0) for bound, count in later.items()}


class Pulse:
    """Looks at the counters every few seconds and remembers the last hour; run in a thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Name the counters."""
        self._registry = registry
        self._looks: deque[tuple[float, Counters]] = deque(maxlen=LOOKS_KEPT)

    def look(self) -> None:
        """Remember the counters as they are."""
        self._looks.append((time.time(), read(self._registry)))

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop."""
        self.look()
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            self.look()

    def charts(self) -> list[Chart]:
        """Traffic, latency, degraded answers and lag over the last hour."""
        looks = list(self._looks)
        series: dict[str, list[Point]] = {name: [] for name in TITLES}
        for (before, earlier), (now, later) in itertools.pairwise(looks):
            answers = later.num_answers - earlier.num_answers
            series["rate"].append(Point(now, answers / max(now - before, 1e-3)))
            if LAG in later.values:
                series["lag"].append(Point(now, later.values[LAG]))
            if not answers:
                continue
            came = between(later.latency.get("total", {}), earlier.latency.get("total", {}))
            tail = quantile(came, TAIL)
            if tail is not None:
                series["tail"].append(Point(now, 1000 * tail))
            worse = later.num_degraded - earlier.num_degraded
            series["degraded"].append(Point(now, worse / answers))
        drawn = [
            draw(key, title, series[key], as_percent=key == "degraded")
            for key, title in TITLES.items()
        ]  # fmt: skip
        return [one for one in drawn if one]


TITLES = {
    "rate": "Answers a second",
    "tail": "Milliseconds of 95 % of answers",
    "degraded": "Answers not as good as they should be",
    "lag": "Seconds the oldest event has waited for the feature store",
}
"""Of the charts over the last hour, by key."""


def latency_rows(counters: Counters) -> list[dict[str, Any]]:
    """Milliseconds by stage: median, 95 and 99 %."""
    rows = []
    for stage, buckets in counters.latency.items():
        found = [quantile(buckets, share) for share in (0.5, TAIL, 0.99)]
        if found[0] is not None:
            rows.append({"stage": stage, "ms": [1000 * (one or 0.0) for one in found]})
    return rows


def answer_rows(counters: Counters) -> list[dict[str, Any]]:
    """Answers by version, path and reason, each with its share."""
    total = counters.num_answers
    return [
        {"version": version, "path": path, "why": why, "count": int(count),
         "share": count / total}
        for (version, path, why), count in sorted(counters.answers.items())
    ]  # fmt: skip
