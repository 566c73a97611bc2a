"""Estimates against independent tools, and what they say of planted effects."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind
from tea_tasting import Experiment as TeaTasting
from tea_tasting import RatioOfMeans

from hymirec.abtest.analysis import MIN_USERS, estimate, guard, mismatch
from hymirec.abtest.definition import Experiment
from hymirec.abtest.metrics import METRICS

CLOSE = {"rel": 1e-6, "abs": 1e-12}


def the_table():
    """Made without random numbers, so that the figures below can be had again elsewhere."""
    i = np.arange(400)
    treated = i % 2
    base = (i * i + 3 * i) % 5
    clicks = base + (treated & ((i // 2) % 3 == 0))
    users = {"clicks": clicks, "shown": 5 + (i * 7) % 11, "clicks_before": base + i % 3}
    table = pd.DataFrame(users | {"variant": treated})
    return table[table.variant == 0], table[table.variant == 1]


# gbstats 0.8.0 (PyPI; numpy 1.26): TwoSidedTTest and SequentialTwoSidedTTest at their defaults
# (α 0.05, tuned to 5,000) on `the_table`, absolute differences: SampleMeanStatistic,
# RatioStatistic, and RegressionAdjustedStatistic with compute_theta.
GBSTATS = {
    "mean": {
        "difference": 0.33499999999999996,
        "error": 0.17105606063334028,
        "fixed": (-0.0012878507571559838, 0.6712878507571559, 0.05087957298800361),
        "always": (-0.36391183973761776, 1.0339118397376177, 0.6071784416971222),
    },
    "ratio": {
        "difference": 0.03198314179348699,
        "error": 0.018369198011274488,
        "fixed": (-0.004130028975397951, 0.06809631256237193, 0.08243641477522656),
        "always": (-0.043070907323683655, 0.10703719091065764, 0.7097502962833102),
    },
    "cuped": {
        "difference": 0.339049272057502,
        "error": 0.08100479849222304,
        "fixed": (0.17978454727640436, 0.49831399683859967, 3.524488926776037e-05),
        "always": (0.008074663311368968, 0.6700238808036351, 0.042603198674961866),
    },
}


@pytest.mark.parametrize(
    ("case", "metric", "foretell"),
    [
        ("mean", "clicks_per_user", False),
        ("ratio", "click_through", False),
        ("cuped", "clicks_per_user", True),
    ],
)
def test_numbers_are_those_of_gbstats(case, metric, foretell):
    found = estimate(
        *the_table(), METRICS[metric], "b", alpha=0.05, planned=5000, foretell=foretell
    )
    expected = GBSTATS[case]
    assert found.difference == pytest.approx(expected["difference"], **CLOSE)
    assert found.standard_error == pytest.approx(expected["error"], **CLOSE)
    assert (*found.fixed.interval, found.fixed.p_value) == pytest.approx(expected["fixed"], **CLOSE)
    assert (*found.interval, found.p_value) == pytest.approx(expected["always"], **CLOSE)


def test_numbers_are_those_of_scipy():
    control, treatment = the_table()
    found = estimate(control, treatment, METRICS["clicks_per_user"], "b", alpha=0.05, planned=5000,
                     foretell=False)  # fmt: skip
    other = ttest_ind(treatment.clicks, control.clicks, equal_var=False)
    interval = other.confidence_interval(0.95)
    assert found.fixed.p_value == pytest.approx(other.pvalue, **CLOSE)
    assert found.fixed.interval == pytest.approx((interval.low, interval.high), **CLOSE)


def test_cuped_of_a_ratio_is_that_of_tea_tasting(some_users):
    rng = np.random.default_rng(0)
    control, treatment = some_users(rng), some_users(rng, variant="new", lift=0.1)
    found = estimate(control, treatment, METRICS["click_through"], "new", alpha=0.05, planned=2000)
    experiment = TeaTasting(rate=RatioOfMeans("clicks", "shown", "clicks_before"))
    both = pd.concat([control.assign(variant=0), treatment.assign(variant=1)])
    other = experiment.analyze(both)["rate"]
    assert found.foretold > 0.02
    assert found.control == pytest.approx(other.control, **CLOSE)
    assert found.difference == pytest.approx(other.effect_size, **CLOSE)
    assert found.lift == pytest.approx(other.rel_effect_size, **CLOSE)
    assert found.standard_error == pytest.approx(other.effect_size / other.statistic, **CLOSE)


def test_cuped_narrows_the_interval_and_only_where_it_may(some_users):
    rng = np.random.default_rng(1)
    control, treatment = some_users(rng), some_users(rng, variant="new")
    metric = METRICS["clicks_per_user"]

    def found(control, treatment, *, foretell=True):
        return estimate(control, treatment, metric, "new", alpha=0.05, planned=2000,
                        foretell=foretell)  # fmt: skip

    with_it, without = found(control, treatment), found(control, treatment, foretell=False)
    assert with_it.foretold > 0.2
    assert with_it.standard_error < 0.9 * without.standard_error
    assert (without.foretold, without.note) == (0.0, "")

    unknown = found(control.assign(clicks_before=0), treatment.assign(clicks_before=0))
    assert (unknown.foretold, unknown.standard_error) == (0.0, without.standard_error)
    assert "nothing is known" in unknown.note
    differing = treatment.assign(clicks_before=treatment.clicks_before + 3)
    assert "differed before the experiment" in found(control, differing).note
    shuffled = [
        part.assign(clicks_before=rng.permutation(part.clicks_before.to_numpy()))
        for part in (control, treatment)
    ]
    assert "would explain" in found(*shuffled).note


def test_the_interval_of_the_lift_and_of_the_difference_agree_on_nothing(some_users):
    rng = np.random.default_rng(2)
    for lift in (0.0, 0.05, 0.15, 0.3):
        control, treatment = some_users(rng), some_users(rng, variant="new", lift=lift)
        found = estimate(control, treatment, METRICS["click_through"], "new", alpha=0.05,
                         planned=2000)  # fmt: skip
        assert (found.interval[0] > 0) == (found.lift_interval[0] > 0)
        assert found.lift_interval[0] < found.lift < found.lift_interval[1]


def test_the_interval_of_the_lift_covers_the_truth(some_users):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        control, treatment = some_users(rng, 400), some_users(rng, 400, "new", lift=0.2)
        found = estimate(control, treatment, METRICS["click_through"], "new", alpha=0.05,
                         planned=800)  # fmt: skip
        covered += found.lift_interval[0] <= 0.2 <= found.lift_interval[1]
    assert covered >= 95


def test_nothing_is_said_of_few_users_or_of_nothing(some_users):
    rng = np.random.default_rng(4)
    few, many = some_users(rng, MIN_USERS - 1), some_users(rng, 100)
    arguments = {"alpha": 0.05, "planned": 1000}
    assert estimate(few, many, METRICS["click_through"], "new", **arguments) is None
    assert estimate(many, many, METRICS["cold_click_through"], "new", **arguments) is None
    empty = many.assign(shown=0, clicks=0)
    assert estimate(empty, empty, METRICS["click_through"], "new", **arguments) is None
    same = estimate(many, many, METRICS["conversions_per_user"], "new", **arguments)
    assert same.difference == 0
    assert same.p_value == 1
    nobody = many.assign(conversions=0)
    constant = estimate(nobody, nobody, METRICS["conversions_per_user"], "new", **arguments)
    assert (constant.p_value, constant.fixed, constant.lift) == (1.0, None, None)


@pytest.mark.parametrize("count", [31, 40, 57, 100])
def test_what_is_alike_for_all_users_has_no_variance(some_users, count):
    """Rounding leaves a variance a little below or above 0 where there is none."""
    rng = np.random.default_rng(count)
    first, second = (
        users.assign(interests=3 * users.lists, value=0.3 * users.clicks_before)
        for users in (some_users(rng, count), some_users(rng, count + 1))
    )
    arguments = {"alpha": 0.05, "planned": 1000}
    interests = METRICS["interests_per_list"]
    found = estimate(first, second, interests, "new", **arguments)
    assert (found.standard_error, found.fixed) == (0, None)
    assert found.interval == pytest.approx((0, 0), abs=1e-12)
    judged = guard(first, second, interests, "new", relative=0.1, absolute=None, **arguments)
    assert judged.state == "open"
    # The time before says all of what comes after.
    users = [part.assign(value_before=part.clicks_before) for part in (first, second)]
    foretold = estimate(*users, METRICS["value_per_user"], "new", **arguments)
    assert (foretold.foretold, foretold.standard_error) == (pytest.approx(1), 0)


def test_nobody_has_clicked_since_it_began(some_users):
    users = some_users(np.random.default_rng(6), 100).assign(clicks=0)
    assert users.clicks_before.var() > 0
    found = estimate(users, users, METRICS["click_through"], "new", alpha=0.05, planned=1000)
    assert (found.control, found.treatment, found.p_value, found.foretold) == (0, 0, 1.0, 0.0)
    assert "have events been sent?" in found.note


@pytest.fixture
def guarded(some_users):
    def judge(metric, *, relative=None, absolute=None, count=1000, **treatment):
        rng = np.random.default_rng(5)
        return guard(
            some_users(rng, count), some_users(rng, count, "new", **treatment), METRICS[metric],
            "new", relative=relative, absolute=absolute, alpha=0.025, planned=500,
        )  # fmt: skip

    return judge


def test_guardrails_hold_break_or_stay_open(guarded):
    assert guarded("error_rate", absolute=0.01).state == "held"
    assert guarded("error_rate", absolute=0.01, error_rate=0.2).state == "broken"
    assert guarded("latency_ms", relative=0.5, latency_ms=25.0).state == "held"
    assert guarded("latency_ms", relative=0.5, latency_ms=60.0).state == "broken"
    assert guarded("click_through", relative=0.02).state == "open"
    assert guarded("click_through", relative=0.02, lift=-0.6).state == "broken"
    assert guarded("click_through", relative=0.5).state == "held"
    assert guarded("error_rate", absolute=0.01, count=MIN_USERS - 1).state == "open"


def test_a_model_that_fails_often_is_found_among_few_users(guarded):
    assert guarded("error_rate", absolute=0.01, error_rate=0.3, count=40).state == "broken"


def test_a_model_that_never_answers_is_found_though_it_shows_nothing(guarded):
    found = guarded("error_rate", absolute=0.01, error_rate=1.0, count=40)
    assert (found.state, found.treatment) == ("broken", 1.0)


def test_mismatch_is_that_of_gbstats():
    # check_srm of gbstats 0.8.0.
    assert mismatch("ab", [1000, 1100], [0.5, 0.5]).chi2_p_value == pytest.approx(
        0.029096331741252267, **CLOSE
    )
    assert mismatch("abc", [310, 290, 640], [0.25, 0.25, 0.5]).chi2_p_value == pytest.approx(
        0.37993999923303906, **CLOSE
    )
    assert not mismatch("ab", [1000, 1100], [0.5, 0.5]).found
    assert mismatch("ab", [1000, 1400], [0.5, 0.5]).found
    assert not mismatch("ab", [0, 0], [0.5, 0.5]).found


def test_weights_may_be_rounded(declared):
    """As a declaration's three thirds are."""
    weights = [0.3333333] * 3
    names = ["control", "longer", "wider"]
    variants = [
        {"name": name, "model": number, "weight": weight}
        for number, (name, weight) in enumerate(zip(names, weights, strict=True), start=1)
    ]
    declaration = Experiment.model_validate(declared | {"variants": variants})
    assert declaration.weights == weights
    found, even = (mismatch("abc", [310, 290, 305], each) for each in (weights, [1 / 3] * 3))
    assert found.chi2_p_value == pytest.approx(even.chi2_p_value)
    assert found.p_value == pytest.approx(even.p_value)
