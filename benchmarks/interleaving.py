"""How many users an A/B test needs, and how many interleaving, to be sure of the same difference.

    python benchmarks/interleaving.py [--quick]

Both compare the two versions of the scenario `better` (`hymirec simulate`) on the same crowd, with
the analyses that readouts use, here without the gateway, for one course tells little. The answer is
the fewest users with which at least 80 % of the runs are sure of the better version, each design
planned for as many as it has. It depends on the crowd, so there are several: how often users come,
and how much they differ in eagerness. Prints JSON; `users_needed` and what follows it are of the
simulator's own crowd, all are under `crowds`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hymirec.abtest.analysis import estimate
from hymirec.abtest.interleaving import TREATMENT, preference, team_draft
from hymirec.abtest.metrics import CLICKS, CLICKS_BEFORE, METRICS, SHOWN
from hymirec.simulation.crowd import UNEVENNESS, Crowd
from hymirec.simulation.recommender import MOST_ITEMS, SimulatedRecommender
from hymirec.simulation.scenarios import LIST_LENGTH, SCENARIOS, VISITS

Pair = list[SimulatedRecommender]
"""Champion and challenger."""

ALPHA, POWER = 0.05, 0.8
RUNS, QUICK_RUNS, USERS = 100, 10, 3200
SIZES = (
    50, 75, 100, 125, 150, 175, 200, 250, 300, 400, 500, 600, 800, 1000, 1200, 1600, 2400, 3200,
)  # fmt: skip
CROWDS = {
    "simulator": (VISITS, UNEVENNESS),
    "seldom": (4.0, UNEVENNESS),
    "seldom, less uneven": (4.0, 1.0),
    "seldom, most alike": (4.0, 0.8),
}
"""Visits of a user on the average, and how much users differ in eagerness."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="Fewer runs.")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    runs = QUICK_RUNS if asked.quick else RUNS
    started = time.monotonic()
    crowds = {}
    for name, (visits, unevenness) in CROWDS.items():
        crowds[name] = _compared(visits, unevenness, runs, asked.seed)
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps(crowds["simulator"] | {"runs": runs, "crowds": crowds, "seconds": seconds}))


def _compared(mean_visits: float, unevenness: float, runs: int, seed: int) -> dict[str, Any]:
    """Both designs on one crowd."""
    scenario = SCENARIOS["better"]
    crowd = Crowd.make(USERS, seed, unevenness)
    pair = [SimulatedRecommender(crowd, one) for one in (scenario.champion, scenario.challenger)]
    worth = [one.true_worth(LIST_LENGTH) for one in pair]
    rng = np.random.default_rng(seed)
    visits = 1 + rng.poisson(mean_visits - 1, USERS)
    sure = {
        "ab": _ab(crowd, pair, visits, runs, rng),
        "interleaving": _interleaved(crowd, pair, visits, runs, rng),
    }
    needed = {name: _needed(found) for name, found in sure.items()}
    ab, mixed = needed["ab"], needed["interleaving"]
    return {
        "visits": mean_visits,
        "unevenness": unevenness,
        "true_lift": worth[1] / worth[0] - 1,
        "users_needed": needed,
        "times_fewer": ab / mixed if ab and mixed else None,
        "power": sure,
    }


def _ab(
    crowd: Crowd, pair: Pair, visits: NDArray[np.int64], runs: int, rng: np.random.Generator
) -> dict[int, float]:
    """Share of runs that are sure, by number of users of both variants."""
    everybody = np.arange(len(visits))
    chances = [
        crowd.chances(everybody, np.stack([one.items(user, LIST_LENGTH) for user in everybody]))
        for one in pair
    ]
    sure = dict.fromkeys(SIZES, 0)
    for _ in range(runs):
        users = rng.permutation(everybody)
        arms = rng.integers(0, 2, len(users))
        clicks = np.zeros(len(users))
        for arm in (0, 1):
            its = arms == arm
            drawn = rng.binomial(visits[users[its], None], chances[arm][users[its]])
            clicks[its] = drawn.sum(axis=1)
        table = pd.DataFrame(
            {CLICKS: clicks, SHOWN: LIST_LENGTH * visits[users], CLICKS_BEFORE: 0.0}
        )
        for size in SIZES:
            some, arm = table[:size], arms[:size]
            found = estimate(
                some[arm == 0], some[arm == 1], METRICS["click_through"], "", alpha=ALPHA,
                planned=size,
            )  # fmt: skip
            sure[size] += found is not None and (found.interval[0] or 0.0) > 0
    return {size: count / runs for size, count in sure.items()}


def _interleaved(
    crowd: Crowd, pair: Pair, visits: NDArray[np.int64], runs: int, rng: np.random.Generator
) -> dict[int, float]:
    """Likewise, by number of users who come, whether they click or not."""
    coin = random.Random(0)
    per_visit = np.repeat(np.arange(len(visits)), visits)
    lists = [[one.items(user, MOST_ITEMS).tolist() for user in range(len(visits))] for one in pair]
    drafted = [
        team_draft(lists[0][user], lists[1][user], LIST_LENGTH, coin) for user in per_visit.tolist()
    ]
    items = np.array([[item for item, _ in draft] for draft in drafted])
    is_treatment = np.array([[team == TREATMENT for _, team in draft] for draft in drafted])
    chances = crowd.chances(per_visit, items)
    sure = dict.fromkeys(SIZES, 0)
    for _ in range(runs):
        clicked = rng.random(chances.shape) < chances
        by_team = [
            np.bincount(per_visit, (clicked & its).sum(axis=1), len(visits))
            for its in (~is_treatment, is_treatment)
        ]
        users = rng.permutation(len(visits))
        for size in SIZES:
            some = users[:size]
            found = preference(
                by_team[0][some], by_team[1][some], alpha=ALPHA, planned=0.8 * size
            )  # fmt: skip
            sure[size] += found is not None and (found.interval[0] or 0.0) > 0
    return {size: count / runs for size, count in sure.items()}


def _needed(sure: dict[int, float]) -> int | None:
    """The fewest users from which on the power is reached."""
    for size in SIZES:
        if all(sure[larger] >= POWER for larger in SIZES if larger >= size):
            return size
    return None


if __name__ == "__main__":
    main()
