"""Whether a variant breaks outright, which the first few users tell.

Intervals of means want users by the dozen; a version that answers nobody should not have to wait
for them. Here the tests are exact at any number of users and hold at every look. Only the first
request of each user counts, for users come independently of each other, and what fails for one of
them fails for him again and again. The n-th user of the variant is put beside the n-th of the
control.

Rates (errors, fallbacks, slow answers): an E-variable for two streams of yes and no (Turner, Ly and
Grünwald, 2021, arXiv 2106.02693; with a margin, Turner and Grünwald, 2022, arXiv 2203.09785).
Latency: a sign test, mixed over how often the variant may be the slower one (Robbins, 1970).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betainc, betaln

from hymirec.abtest.metrics import FIRST_REQUEST, LATENCY, Metric

Floats = NDArray[np.float64]

FIRST_USERS = 30
"""Of each variant that are looked at; of more, intervals tell."""
SHARE_OF_ALPHA = 0.2
"""Of a guardrail's chance to be called broken without being so, what is spent here."""
SLOWER = 2.0
"""Times the latency that the margin allows, from which an answer counts as slow here: first answers
vary more than means do."""
_EXPECTED = (0.9, 0.05)
"""What is expected of a variant and of the control until there is data; counts as one user each. A
guess that is wrong costs users, never false alarms."""
_HALVINGS = 40


def breaks_at_once(
    control: pd.DataFrame, treatment: pd.DataFrame, metric: Metric, *, factor: float,
    absolute: float, alpha: float,
) -> str:  # fmt: skip
    """Say how a variant's first users fared if that cannot be within the margin.

    Args:
        control: its users, columns as `hymirec.abtest.metrics.COLUMNS`.
        treatment: the variant's.
        metric: one with `at_first`.
        factor: what the variant may have is `factor` · control + `absolute`.
        absolute: see there.
        alpha: chance that this is ever said of a variant that is within the margin.

    Returns:
        A line, or nothing.
    """
    both = [_first(users, metric.at_first) for users in (treatment, control)]
    count = min(map(len, both))
    variant, beside = (values[:count] for values in both)
    if not count:
        return ""
    if metric.numerator == LATENCY:
        slow = variant > SLOWER * (factor * beside + absolute)
        logs = sign_evidence(slow)
        says = f"the variant more than {SLOWER:g} times as slow as the margin allows for {{}}"
        counts = slow
    else:
        logs = rate_evidence(variant, beside, factor, absolute)
        says = f"{metric.says.removeprefix('share of ')}: {{}}"
        counts = variant > 0
    surely = np.flatnonzero(logs >= -math.log(alpha))
    if not len(surely):
        return ""
    users = int(surely[0]) + 1
    found = f"{int(counts[:users].sum())}"
    if metric.numerator != LATENCY:
        found += f", the control's {int((beside[:users] > 0).sum())}"
    return f"first requests of the first {users} users of each, {says.format(found)}"


def rate_evidence(
    variant: Sequence[float] | Floats, control: Sequence[float] | Floats, factor: float,
    absolute: float,
) -> Floats:  # fmt: skip
    """Evidence that a variant's rate is above `factor` · the control's + `absolute`.

    Each pair multiplies it by how likely the pair is by what was learned from those before it, over
    how likely it is by the nearest rates that are within the margin.

    Args:
        variant: 0 or 1 of each user, in the order they came, [n].
        control: likewise, [n].
        factor: at least 1.
        absolute: at least 0.

    Returns:
        Logarithms after each pair, [n]; the chance that one is ever above −log α is at most α if
        the variant is within the margin.
    """
    seen = np.array([variant, control], dtype=np.float64)
    before = np.cumsum(seen, axis=1) - seen
    learned = (before + np.array(_EXPECTED)[:, None]) / (np.arange(seen.shape[1]) + 1)
    nearest = nearest_within(learned[0], learned[1], factor, absolute)
    logs = sum(
        np.log(np.where(yes > 0, mine / null, (1 - mine) / (1 - null)))
        for yes, mine, null in zip(seen, learned, nearest, strict=True)
    )
    return np.asarray(np.cumsum(logs))


def nearest_within(
    variant: Floats, control: Floats, factor: float, absolute: float
) -> tuple[Floats, Floats]:
    """The rates within the margin that are nearest to others, by relative entropy.

    Args:
        variant: rates between 0 and 1, [n].
        control: likewise, [n].
        factor: as for `rate_evidence`.
        absolute: likewise.

    Returns:
        The variant's and the control's, [n]; the same as given where those are within.
    """
    low, high = np.zeros_like(control), np.full_like(control, (1 - absolute) / factor)
    for _ in range(_HALVINGS):  # of the slope, which rises along the margin
        middle = (low + high) / 2
        other = np.clip(factor * middle + absolute, 1e-300, 1 - 1e-16)
        slope = factor * (other - variant) / (other * (1 - other))
        slope += (middle - control) / (middle * (1 - middle))
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    at = (low + high) / 2
    is_within = variant <= factor * control + absolute
    return (
        np.where(is_within, variant, factor * at + absolute),
        np.where(is_within, control, at),
    )


def sign_evidence(is_worse: Sequence[bool] | NDArray[np.bool_]) -> Floats:
    """Evidence that more than half of all pairs are so.

    Args:
        is_worse: of each pair, in the order they came, [n].

    Returns:
        Logarithms after each pair, as of `rate_evidence`.
    """
    worse = np.asarray(is_worse, dtype=np.float64)
    pairs = np.arange(1, len(worse) + 1)
    worse = np.cumsum(worse)
    first, second = worse + 1, pairs - worse + 1
    above_half = 1 - betainc(first, second, 0.5)
    with np.errstate(divide="ignore"):
        return np.asarray((pairs + 1) * math.log(2) + betaln(first, second) + np.log(above_half))


def _first(users: pd.DataFrame, column: str) -> Floats:
    """What the first users' first requests were, in the order they came."""
    ordered = users.nsmallest(FIRST_USERS, [FIRST_REQUEST], keep="first")
    return ordered[column].to_numpy(dtype=np.float64)
