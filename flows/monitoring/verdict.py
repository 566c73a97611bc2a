"""Which thresholds a series has crossed, and what its policy asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.monitoring.series import Point
from flows.monitoring.settings import MonitorConfig, Policy
from hymirec.drift import trend

TRENDS = {
    "served/hit_rate_trend": "served/hit_rate",
    "served/click_through_trend": "served/click_through",
}
"""Metrics that are made of another one's series."""


@dataclass(frozen=True)
class Crossing:
    """A metric that is too far, for as many looks as patience asks."""

    metric: str
    value: float
    threshold: str
    policy: Policy

    def __str__(self) -> str:
        return f"{self.metric} is {self.value:.4g}, {self.threshold}"

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return vars(self)


def trends(
    series: Mapping[str, Sequence[Point]], now: Mapping[str, float], steps: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Trends as of a look, and why there is none.

    Args:
        series: points of earlier looks, by metric.
        now: values of this look.
        steps: looks on either side.
    """
    found, missing = {}, {}
    for name, of in TRENDS.items():
        values = [point.value for point in series.get(of, [])]
        if of not in now:
            missing[name] = f"{of} is not judged"
            continue
        values.append(now[of])
        value = trend(values, steps)
        if value is None:
            missing[name] = f"{len(values)} looks of {2 * steps} that are needed"
        else:
            found[name] = value
    return found, missing


def crossings(
    series: Mapping[str, Sequence[Point]], step: int, config: MonitorConfig
) -> list[Crossing]:
    """Find what is too far at a look.

    Args:
        series: points by metric, those of the look among them.
        step: the look; a metric that it has no value of is passed over.
        config: thresholds.
    """
    found = []
    for name, threshold in config.thresholds.items():
        points = series.get(name, [])
        if not points or points[-1].step != step or len(points) < threshold.patience:
            continue
        if all(threshold.crossed(point.value) for point in points[-threshold.patience :]):
            found.append(Crossing(name, points[-1].value, str(threshold), threshold.policy))
    return found
