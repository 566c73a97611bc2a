"""A/A experiments: every one has users and a world of its own, nothing differs, and ten looks.

What is measured is as awkward as in life: few are eager, most click nothing, values have long
tails, and the first look comes as soon as anything is said at all.
"""

import numpy as np
import pandas as pd
import pytest

from hymirec.abtest.analysis import MIN_USERS, estimate
from hymirec.abtest.decisions import Progress, decide
from hymirec.abtest.metrics import METRICS
from hymirec.abtest.readout import read_out
from hymirec.abtest.sequential import half_width, mixing

ALPHA, EXPERIMENTS = 0.05, 400
LOOKS = np.array([MIN_USERS, 45, 70, 100, 150, 220, 320, 480, 700, 1000])
"""Users of each variant at a look."""
PLANNED = (400, 4000)
"""Users of both; experiments are often planned for more than they get."""
LISTS_OF = 10
BEFORE = ["clicks_before", "conversions_before", "value_before"]


def users(rng, experiments, count):
    """What users are shown and do, alike in both variants; each an array [experiments, users]."""
    shape = experiments, count
    shown = LISTS_OF * (1 + rng.poisson(3, shape))
    clicks = rng.binomial(shown, np.minimum(0.05 * rng.lognormal(-0.72, 1.2, shape), 0.9))
    return {
        "shown": shown.astype(float),
        "clicks": clicks.astype(float),
        "conversions": rng.binomial(clicks, 0.1).astype(float),
        "value": clicks * rng.lognormal(3, 1.5, shape),
    }


def looked_at(found, metric):
    """Value and its variance at every look, [experiments, looks]."""
    above = found[metric.numerator]
    below = found[metric.denominator] if metric.denominator else np.ones_like(above)
    x, y, xx, yy, xy = (
        np.cumsum(one, axis=1)[:, LOOKS - 1] / LOOKS
        for one in (above, below, above**2, below**2, above * below)
    )
    ratio = x / y
    spread = (xx - x * x) - 2 * ratio * (xy - x * y) + ratio**2 * (yy - y * y)
    return ratio, spread / y**2 / (LOOKS - 1)


@pytest.fixture(scope="module")
def worlds():
    rng = np.random.default_rng(0)
    return [users(rng, EXPERIMENTS, LOOKS[-1]) for _ in range(2)]


@pytest.mark.parametrize(
    "name", ["click_through", "clicks_per_user", "conversions_per_user", "value_per_user"]
)
def test_ten_looks_raise_false_alarms_at_most_as_often_as_allowed(worlds, name):
    (first, first_var), (second, second_var) = (looked_at(one, METRICS[name]) for one in worlds)
    error = np.sqrt(first_var + second_var)
    z = np.abs(np.divide(second - first, error, out=np.zeros_like(error), where=error > 0))
    for planned in PLANNED:
        widths = [half_width(2 * count, mixing(planned, ALPHA), ALPHA) for count in LOOKS]
        assert (z > widths).any(axis=1).mean() <= ALPHA
    assert (z > 1.96).any(axis=1).mean() > 2 * ALPHA  # what one look's interval would do
    # What is counted here at once is what an experiment is told.
    for number, look in ((0, 0), (1, 4), (2, 9)):
        tables = [
            pd.DataFrame({column: values[number, : LOOKS[look]] for column, values in one.items()})
            for one in worlds
        ]
        tables = [one.assign(**dict.fromkeys(BEFORE, 0.0)) for one in tables]
        told = estimate(*tables, METRICS[name], "new", alpha=ALPHA, planned=4000, foretell=False)
        assert told.difference == pytest.approx((second - first)[number, look], abs=1e-12)
        assert told.standard_error == pytest.approx(error[number, look], rel=1e-9)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_decisions_on_nothing_are_as_rare_as_they_should_be(an_experiment, some_users):
    """The whole of it, with CUPED, guardrails and the test of the split, user by user."""
    experiment = an_experiment(ramp=[{"share": 1.0, "min_users": MIN_USERS}])
    progress = Progress(0, 0.0, 0.0)
    wrong = {"conclude": 0, "roll_back": 0, "pause": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        names = experiment.control.name, experiment.treatments[0].name
        sides = [some_users(rng, LOOKS[-1], name) for name in names]
        for count in LOOKS:
            seen = pd.concat([one[:count] for one in sides], ignore_index=True)
            found = read_out(experiment, seen, time=3600.0, share=1.0)
            action = decide(experiment, progress, found).action
            if action in wrong:
                wrong[action] += 1
                break
    print(wrong)
    # The primary metric in either direction, and the guardrails, have a chance of α each.
    assert wrong["conclude"] <= 300 * ALPHA
    assert wrong["roll_back"] <= 300 * 2 * ALPHA
    assert sum(wrong.values()) <= 300 * 2 * ALPHA
