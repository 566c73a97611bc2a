"""How far what comes now is from what a model was made with: numbers, and nothing of where from.

n and m are sizes of samples, C categories.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import entropy, ks_2samp

NUM_BINS = 10
_PRIOR = 0.5
"""Events added to each category, so that an empty one makes no infinity (Jeffreys' prior)."""


def population_stability(reference: ArrayLike, current: ArrayLike) -> float:
    """Population stability index of two counts over the same categories, Σ (p - q)·ln(p / q).

    Credit scoring reads 0.1 as little and 0.25 as much (Siddiqi, Credit Risk Scorecards, 2006).
    Two samples of one distribution have about (C - 1)·(1/n + 1/m).

    Args:
        reference: [C] counts.
        current: [C] counts.
    """
    old, new = _shares(reference), _shares(current)
    return float(np.sum((new - old) * np.log(new / old)))


def largest_gap(reference: ArrayLike, current: ArrayLike) -> float:
    """Kolmogorov-Smirnov statistic of two samples: 0 alike, 1 apart; 0 where one is empty.

    Two samples of one distribution stay below 1.36·√(1/n + 1/m) nineteen times of twenty.
    """
    old, new = np.asarray(reference), np.asarray(current)
    return float(ks_2samp(old, new).statistic) if len(old) and len(new) else 0.0


def entries_in_use(indices: NDArray[np.int64], num_entries: int) -> float:
    """Entries in effective use, 1..C: the perplexity of a sample [n] of indices 0..C - 1."""
    return float(np.exp(entropy(np.bincount(indices, minlength=num_entries))))


def popularity_bands(occurrences: NDArray[np.int64], num_bands: int = NUM_BINS) -> NDArray[np.int8]:
    """Put items into bands that share the events equally, 0 the most popular.

    Args:
        occurrences: int64 [N + 1], events of each item; 0 is padding.
        num_bands: B.

    Returns:
        int8 [N + 1]; B for items without events and for padding.
    """
    order = (-occurrences).argsort(kind="stable")
    # Where an item's events begin among all, the most popular first.
    before = np.cumsum(occurrences[order]) - occurrences[order]
    bands = np.empty(len(occurrences), dtype=np.int8)
    bands[order] = np.minimum(before * num_bands // max(1, occurrences.sum()), num_bands - 1)
    bands[occurrences == 0] = num_bands
    bands[0] = num_bands
    return bands


def trend(values: Sequence[float], steps: int) -> float | None:
    """The mean of the last `steps` values over the mean of as many before; None of fewer."""
    if len(values) < 2 * steps:
        return None
    before = float(np.mean(values[-2 * steps : -steps]))
    return float(np.mean(values[-steps:])) / before if before > 0 else None


def _shares(counts: ArrayLike) -> NDArray[np.float64]:
    counts = np.asarray(counts, dtype=np.float64) + _PRIOR
    return counts / counts.sum()
