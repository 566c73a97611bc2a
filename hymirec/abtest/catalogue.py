"""Metrics whose unit is an item: coverage, and whether new items become known.

A user's lists are one draw, so intervals come from resampling users (Efron and Tibshirani, 1993,
chapter 6), of both variants alike. Variants are compared at the same number of users, because more
users see more items whatever shows them.

U users, I items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

NUM_RESAMPLES = 400
_AT_ONCE = 50


@dataclass(frozen=True)
class NewItems:
    """Which items are new, and when one counts as known.

    Attributes:
        is_new: [I] whether an item is.
        needed: impressions within its first days that make it known.
        publisher: [I] who published an item, as numbers from 0, −1 of one that is not on record;
            None where none is.
    """

    is_new: NDArray[np.bool_]
    needed: float
    publisher: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class ItemEstimate:
    """How a variant differs from the control in a metric of items.

    Attributes:
        metric: its name.
        variant: compared with the control.
        control: the control's value.
        treatment: the variant's.
        difference: variant minus control.
        interval: of the difference, at 1 − α and at one look.
    """

    metric: str
    variant: str
    control: float
    treatment: float
    difference: float
    interval: tuple[float, float]


def compare_items(
    control: csr_array, treatment: csr_array, variant: str, *,
    new: NewItems | None, early_control: csr_array | None = None,
    early_treatment: csr_array | None = None, alpha: float = 0.05, seed: int = 0,
) -> list[ItemEstimate]:  # fmt: skip
    """Compare what two variants show of the catalogue.

    Args:
        control: [U, I] times each user of the control was shown each item.
        treatment: [U', I] likewise.
        variant: name of the treatment.
        new: for item cold start; without it there is coverage only.
        early_control: [U, I] the same of new items in their first days; `control` if not given.
        early_treatment: [U', I] likewise.
        alpha: of the interval.
        seed: of the draws.
    """
    users = min(control.shape[0], treatment.shape[0])
    if not users:
        return []
    rng = np.random.default_rng(seed)
    early = (
        control if early_control is None else early_control,
        treatment if early_treatment is None else early_treatment,
    )
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    for shown, shown_early in zip((control, treatment), early, strict=True):
        parts = [
            _measure(shown, shown_early, times, new) for times in _draws(rng, shown.shape[0], users)
        ]
        for name in parts[0]:
            drawn.setdefault(name, []).append(np.concatenate([part[name] for part in parts]))
    return [_estimate(name, variant, values, alpha) for name, values in drawn.items()]


def _draws(rng: np.random.Generator, total: int, users: int) -> Iterator[NDArray[np.int64]]:
    """How often each user is drawn, [total, draws]; the first draw is of as many as there are."""
    first = np.zeros((total, 1), dtype=np.int64)
    first[rng.permutation(total)[:users]] = 1
    yield first
    for start in range(0, NUM_RESAMPLES, _AT_ONCE):
        several = min(_AT_ONCE, NUM_RESAMPLES - start)
        yield rng.multinomial(users, np.full(total, 1 / total), several).T


def _measure(
    shown: csr_array, early: csr_array, times: NDArray[np.int64], new: NewItems | None
) -> dict[str, NDArray[np.float64]]:
    """Each metric of each draw: [draws]."""
    found = {"coverage": (shown.T @ times > 0).mean(axis=0)}
    if new is not None and new.is_new.any():
        known = (early.T @ times >= new.needed) & new.is_new[:, None]
        found["item_cold_start"] = known.sum(axis=0) / new.is_new.sum()
        if new.publisher is not None:
            known &= (new.publisher >= 0)[:, None]
            active = [float(len(np.unique(new.publisher[one]))) for one in known.T]
            found["active_publishers"] = np.array(active)
    return found


def _estimate(
    name: str, variant: str, values: list[NDArray[np.float64]], alpha: float
) -> ItemEstimate:
    control, treatment = (one[0] for one in values)
    differences = values[1][1:] - values[0][1:]
    observed = treatment - control
    # Resampled users repeat, so they see fewer items than as many different ones: the spread of
    # the draws is right, their middle is not.
    low, high = np.quantile(differences - differences.mean(), [alpha / 2, 1 - alpha / 2])
    return ItemEstimate(
        name, variant, float(control), float(treatment), float(observed),
        (float(observed + low), float(observed + high)),
    )  # fmt: skip
