"""A challenger that answers beside the champion and is never shown: what would have changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

OVERLAP, SAME_FIRST, LATENCY, CHAMPION_LATENCY, ERROR = (
    "overlap",
    "same_first",
    "latency_ms",
    "champion_latency_ms",
    "error",
)
"""Columns of shadow answers."""


def overlap(champion: Sequence[str], challenger: Sequence[str]) -> float:
    """Share of the champion's items that the challenger has too; 1 of two empty lists."""
    if not champion:
        return float(not challenger)
    return len(set(champion) & set(challenger)) / len(set(champion))


@dataclass(frozen=True)
class Shadowed:
    """A challenger's answers against the champion's.

    Attributes:
        answers: compared.
        errors: of the challenger.
        overlap: mean share of the champion's items that it has too.
        same_first: share of lists with the same first item.
        latency_ms: its median and 95th percentile.
        champion_latency_ms: the champion's.
    """

    answers: int
    errors: int
    overlap: float | None
    same_first: float | None
    latency_ms: tuple[float, float] | None
    champion_latency_ms: tuple[float, float] | None


def summarise(answers: pd.DataFrame) -> Shadowed:
    """Sum up shadow answers, one row each with the columns named above."""
    good = answers[~answers[ERROR].astype(bool)]
    return Shadowed(
        answers=len(answers),
        errors=len(answers) - len(good),
        overlap=float(good[OVERLAP].mean()) if len(good) else None,
        same_first=float(good[SAME_FIRST].mean()) if len(good) else None,
        latency_ms=_percentiles(good[LATENCY]),
        champion_latency_ms=_percentiles(answers[CHAMPION_LATENCY]),
    )


def _percentiles(values: pd.Series[float]) -> tuple[float, float] | None:
    if not len(values):
        return None
    median, high = np.percentile(values.to_numpy(dtype=float), [50, 95])
    return float(median), float(high)
