"""Two versions in one list: who is clicked more, of the same user, at the same moment.

Team-draft interleaving (Radlinski, Kurup and Joachims, 2008): the two pick in turn, as captains
pick teams, and a click goes to the team that picked the item. Each user compares both versions, so
what differs between users falls away, and far fewer are needed than for an A/B test.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from hymirec.abtest.analysis import MIN_USERS, Interval
from hymirec.abtest.sequential import half_width, mixing, p_value

T = TypeVar("T", bound=Hashable)
CONTROL, TREATMENT = 0, 1
"""The two teams."""
SPREAD_CLICKS = 8
"""Clicks at which a user's own taste hides as much as the luck of the clicks does: a user's share
of one team has the variance 1 / clicks of luck and 1 / `SPREAD_CLICKS` of users that truly differ.
Weights by the inverse of the sum are the best (as of a random-effects mean, DerSimonian and Laird,
1986); any others would only be less sure, not wrong, for the coin that makes teams knows none."""


def team_draft(
    control: Sequence[T], treatment: Sequence[T], k: int, rng: random.Random
) -> list[tuple[T, int]]:
    """Mix two ranked lists.

    Args:
        control: the one version's items, best first, each once.
        treatment: the other's.
        k: items wanted; fewer come where the lists have no more.
        rng: tosses the coin of each round.

    Returns:
        Items in their order, each once, with the team that picked it.
    """
    drafted: list[tuple[T, int]] = []
    taken: set[T] = set()
    lists, at = (control, treatment), [0, 0]
    while len(drafted) < k:
        before = len(drafted)
        for team in rng.choice(((CONTROL, TREATMENT), (TREATMENT, CONTROL))):
            while at[team] < len(lists[team]) and lists[team][at[team]] in taken:
                at[team] += 1
            if at[team] < len(lists[team]) and len(drafted) < k:
                item = lists[team][at[team]]
                taken.add(item)
                drafted.append((item, team))
        if len(drafted) == before:
            break
    return drafted


@dataclass(frozen=True)
class Preference:
    """Which version users prefer.

    Attributes:
        num_users: with any click.
        wins: users who clicked the treatment's items more often, and the control's.
        preference: mean over users of (treatment's clicks − control's) / clicks, from −1 to 1,
            weighted by clicks / (clicks + `SPREAD_CLICKS`): who clicks once says little.
        interval: of it; holds at every look.
        p_value: likewise.
        sign_p_value: of the sign test at one look.
    """

    num_users: int
    wins: tuple[int, int]
    preference: float
    interval: Interval
    p_value: float
    sign_p_value: float


def preference(
    control_clicks: NDArray[np.float64], treatment_clicks: NDArray[np.float64], *,
    alpha: float, planned: float,
) -> Preference | None:  # fmt: skip
    """Say which version users prefer.

    Args:
        control_clicks: [U] clicks of each user on items that the control picked.
        treatment_clicks: [U] on the treatment's.
        alpha: chance that the interval ever misses.
        planned: users with clicks at which the interval should be narrowest.

    Returns:
        None while fewer than `MIN_USERS` have clicked anything.
    """
    clicks = control_clicks + treatment_clicks
    clicked = clicks > 0
    difference = (treatment_clicks - control_clicks)[clicked]
    num_users = len(difference)
    if num_users < MIN_USERS:
        return None
    scores = difference / clicks[clicked]
    weights = clicks[clicked] / (clicks[clicked] + SPREAD_CLICKS)
    weights /= weights.mean()
    mean = float((weights * scores).mean())
    # Of a ratio of two means, by the delta method.
    error = float((weights * (scores - mean)).std(ddof=1) / np.sqrt(num_users))
    rho2 = mixing(planned, alpha)
    width = error * half_width(num_users, rho2, alpha)
    wins = int((difference > 0).sum()), int((difference < 0).sum())
    sign = min(1.0, 2 * bdtr(min(wins), sum(wins), 0.5)) if sum(wins) else 1.0
    p = p_value(mean / error, num_users, rho2) if error > 0 else float(mean == 0)
    return Preference(num_users, wins, mean, (mean - width, mean + width), p, float(sign))
