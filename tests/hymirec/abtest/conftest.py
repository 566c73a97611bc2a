"""Tables of users with planted effects."""

import numpy as np
import pandas as pd
import pytest

from hymirec.abtest.definition import Experiment
from hymirec.abtest.metrics import COLUMNS

DECLARED = {
    "name": "longer-histories",
    "hypothesis": "Longer histories, more clicks.",
    "owner": "recommendations",
    "variants": [{"name": "control", "model": "champion"}, {"name": "longer", "model": 8}],
    "primary": "click_through",
    "guardrails": [
        {"metric": "error_rate", "absolute": 0.01},
        {"metric": "latency_ms", "relative": 0.5},
    ],
    "ramp": [
        {"share": 0.01, "min_users": 100},
        {"share": 0.2, "min_users": 500},
        {"share": 1.0, "min_users": 1500},
    ],
    "horizon": {"days": 28},
}


def _an_experiment(**changes):
    return Experiment.model_validate(DECLARED | changes)


def _some_users(
    rng, count=1000, variant="control", *, lift=0.0, error_rate=0.001, latency_ms=20.0, rate=0.08
):
    """Users who differ in activity and in taste, which is as before the experiment."""
    requests = 1 + rng.poisson(3, count)
    taste = rng.beta(1.6, 18.4, count) * rate / 0.08
    errors = rng.binomial(requests, error_rate)
    lists = requests - errors
    shown = 10 * lists
    clicks = rng.binomial(shown, np.minimum(taste * (1 + lift), 1))
    before = rng.poisson(60 * taste)
    conversions = rng.binomial(clicks, 0.1)
    latency = requests * rng.gamma(20, latency_ms / 20, count)
    fails_first = np.random.default_rng(count).random(count) < error_rate
    table = pd.DataFrame(
        dict.fromkeys(COLUMNS, np.zeros(count))
        | {
            "user_id": [f"{variant}-{number}" for number in range(count)],
            "variant": variant,
            "first_exposure": np.where(lists > 0, 1000.0, np.nan),
            "requests": requests,
            "lists": lists,
            "shown": shown,
            "seen": rng.binomial(shown, 0.6),
            "clicks": clicks,
            "clicked": clicks > 0,
            "conversions": conversions,
            "converted": conversions > 0,
            "value": rng.gamma(1 + clicks, 30.0),
            "errors": errors,
            "fallbacks": errors,
            "latency_ms": latency,
            "first_request": np.arange(count),
            "first_error": fails_first,
            "first_fallback": fails_first,
            "first_latency_ms": latency / requests,
            "distinct": np.minimum(shown, 40),
            "interests": 2 * lists,
            "clicks_before": before,
            "history": rng.poisson(60 * taste) * (taste > 0.03),
        }
    )
    return table[list(COLUMNS)]


def _two_variants(rng, count=1000, **treatment):
    return pd.concat(
        [_some_users(rng, count), _some_users(rng, count, "longer", **treatment)], ignore_index=True
    )


@pytest.fixture(scope="session")
def declared():
    """Fields of an experiment."""
    return DECLARED


@pytest.fixture(scope="session")
def an_experiment():
    return _an_experiment


@pytest.fixture(scope="session")
def some_users():
    return _some_users


@pytest.fixture(scope="session")
def two_variants():
    return _two_variants
