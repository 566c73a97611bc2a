"""Intervals that hold at every look, for as long as anybody cares to look.

A usual 95 % interval holds at one look that was fixed beforehand. Who looks daily and stops at the
first significant day finds something in a third of experiments with nothing in them. The intervals
here miss the truth at any look, ever, in at most α of experiments: asymptotic confidence sequences
(Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, 2021, arXiv 2103.06476, theorem 2.2), which need
an estimate, its standard error and the number of users behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import dirichlet_multinomial, multinomial


def mixing(planned: float, alpha: float) -> float:
    """ρ², with which intervals are narrowest at a planned number of users (appendix B.2)."""
    spend = -2 * math.log(alpha)
    return (spend + math.log(spend + 1)) / planned


def half_width(num_users: float, rho2: float, alpha: float) -> float:
    """Half an interval's width in standard errors of its estimate (1.96 of one look at 5 %).

    Args:
        num_users: behind the estimate, above 0.
        rho2: of `mixing`.
        alpha: chance that any interval ever misses.
    """
    gathered = num_users * rho2
    return math.sqrt(2 * (gathered + 1) / gathered * math.log(math.sqrt(gathered + 1) / alpha))


def p_value(z: float, num_users: float, rho2: float) -> float:
    """The α at which an interval just begins to hold 0: valid at every look, 1 at most.

    Args:
        z: the estimate in standard errors.
        num_users: behind it.
        rho2: of `mixing`.
    """
    gathered = num_users * rho2
    exponent = 0.5 * math.log1p(gathered) - z * z * gathered / (2 * (gathered + 1))
    return math.exp(min(0.0, exponent))


def mismatch_p_value(
    counts: Sequence[int], weights: Sequence[float] | NDArray[np.float64]
) -> float:
    """Whether users come in the ratio they should, asked at every look.

    A Bayes factor between a Dirichlet prior around the weights and the weights themselves
    (Lindon and Malek, 2022, arXiv 2011.03567): its inverse stays above α forever in all
    but α of experiments whose splitter is sound.

    Args:
        counts: of users, for each variant.
        weights: shares they should have, adding up to 1.

    Returns:
        A p-value, 1 at most.
    """
    seen, total = np.asarray(counts), np.asarray(sum(counts))
    prior = _PRIOR * np.asarray(weights, dtype=float)
    log_factor = float(
        dirichlet_multinomial.logpmf(seen, prior, total) - multinomial.logpmf(seen, total, weights)
    )
    return math.exp(min(0.0, -log_factor))


_PRIOR = 1000.0
"""How firmly the prior holds to the weights: among mismatches, small ones are likelier."""
