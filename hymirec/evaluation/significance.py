"""Is one model better than another, or were its users lucky?

Two models ranked the same targets, so their metrics are compared user by user. U users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
_AT_ONCE = 10_000_000
"""Numbers drawn at once."""


@dataclass(frozen=True)
class Comparison:
    """What changes from one model to the other.

    Attributes:
        difference: mean over users of second minus first.
        low: lower end of the interval of the difference.
        high: upper end.
        p_value: chance of a difference at least as large, either way, if both were alike.
    """

    difference: float
    low: float
    high: float
    p_value: float


def compare(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare a metric of the same users under two models.

    The interval is a paired percentile bootstrap (Efron and Tibshirani, 1993, chapter 13); the
    p-value a paired permutation test, which swaps the two models of a user at random (the same,
    chapter 15). Only users who differ matter to either.

    Args:
        first: [U].
        second: [U], in the same order of users.
        level: of the interval.
        num_resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: the two are not of the same users, or there are none.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"{first.shape} and {second.shape} values of users cannot be paired")
    differences = np.asarray(second, dtype=np.float64) - first
    observed = float(differences.mean())
    changed = differences[differences != 0]
    if not len(changed):
        return Comparison(0.0, 0.0, 0.0, 1.0)
    rng = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    swapped = np.empty(num_resamples)
    step = max(1, _AT_ONCE // len(changed))
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        # How many of U draws fall on users who differ, and then on whom of those.
        counts = rng.binomial(len(differences), len(changed) / len(differences), rows)
        for row, count in enumerate(counts):
            drawn = rng.integers(0, len(changed), count)
            resampled[start + row] = changed[drawn].sum()
        signs = rng.integers(0, 2, (rows, len(changed)), dtype=np.int8) * 2 - 1
        swapped[start : start + rows] = signs @ changed
    tail = (1 - level) / 2
    low, high = np.quantile(resampled / len(differences), [tail, 1 - tail])
    as_large = np.abs(swapped) >= abs(changed.sum()) * (1 - 1e-12)
    # The observed assignment is one of them (Phipson and Smyth, 2010).
    p_value = (1 + int(as_large.sum())) / (1 + num_resamples)
    return Comparison(observed, float(low), float(high), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979), in the order they come in.

    Below α, they keep the chance of any false finding at α.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    highest = 0.0
    for place, which in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[which]))
        corrected[which] = highest
    return corrected.tolist()
