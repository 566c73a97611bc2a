"""What the numbers of two variants say: lift, intervals, mismatch, guardrails.

Means and ratios with their variances by the delta method, CUPED and the reading at one fixed look
come from tea-tasting; the intervals that hold at every look from `hymirec.abtest.sequential`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import chisquare
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import RatioOfMeans

from hymirec.abtest import early
from hymirec.abtest.metrics import Metric
from hymirec.abtest.sequential import half_width, mismatch_p_value, mixing, p_value

MIN_USERS = 30
"""Of a variant, before anything is said about it: fewer are no normal distribution."""
MIN_FORETOLD = 0.02
"""Share of variance that CUPED has to explain before it is used."""
BALANCE_P = 1e-3
"""Below, users differed before the experiment: a covariate that tells groups apart is none."""
ROUNDING = 1e-12
"""Share of a variance that may be left where nothing is."""

Interval = tuple[float | None, float | None]
"""From, to; None of an end that is nowhere."""


@dataclass(frozen=True)
class FixedLook:
    """The usual reading, which holds if this look was fixed beforehand and is the only one."""

    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Estimate:
    """How much one variant differs from the control in a metric.

    Attributes:
        metric: its name.
        variant: compared with the control.
        num_users: behind it, of control and variant.
        control: the control's value.
        treatment: the variant's.
        difference: variant minus control.
        standard_error: of the difference.
        interval: of the difference; holds at every look.
        lift: difference relative to the control; None where the control is not above 0.
        lift_interval: likewise, by Fieller's theorem.
        p_value: holds at every look; as it is in `corrected`, where several are asked.
        corrected: the p-value corrected for the number of metrics and variants.
        fixed: the reading at one look.
        foretold: share of the variance that CUPED took away, 0 where it was not used.
        note: why it was not, or what else to know.
    """

    metric: str
    variant: str
    num_users: tuple[int, int]
    control: float
    treatment: float
    difference: float
    standard_error: float
    interval: Interval
    lift: float | None
    lift_interval: Interval
    p_value: float
    corrected: float
    fixed: FixedLook | None
    foretold: float
    note: str


@dataclass(frozen=True)
class Sample:
    """One variant's users in one metric, with what they did before where that foretells it.

    Attributes:
        aggregates: counts, means, variances and covariances of the metric's columns.
        coefficient: of CUPED, 0 without.
        foretelling_mean: of the covariate over all users.
    """

    metric: Metric
    aggregates: Aggregates
    coefficient: float = 0.0
    foretelling_mean: float = 0.0

    @property
    def num_users(self) -> int:
        """Users in it."""
        return self.aggregates.count()

    @cached_property
    def value(self) -> float:
        """Mean, or ratio of means; NaN of a ratio to 0."""
        metric = self.metric
        below = self.aggregates.mean(metric.denominator) if metric.denominator else 1.0
        value = self.aggregates.mean(metric.numerator) / below if below else math.nan
        if self.coefficient:
            value -= self.coefficient * (
                self.aggregates.mean(metric.before) - self.foretelling_mean
            )
        return value

    @cached_property
    def variance(self) -> float:
        """Of `value`, by the delta method."""
        metric, aggregates = self.metric, self.aggregates
        if math.isnan(self.value):
            return math.nan
        variance = plain = _variance(aggregates, metric)
        if self.coefficient:
            shared = aggregates.ratio_cov(
                metric.numerator, metric.denominator or None, metric.before, None
            )
            variance += self.coefficient * (
                self.coefficient * aggregates.var(metric.before) - 2 * shared
            )
        return _without_rounding(variance, plain) / self.num_users


def _variance(aggregates: Aggregates, metric: Metric) -> float:
    """Of one user, by the delta method; 0 where all users are alike."""
    variance = aggregates.ratio_var(metric.numerator, metric.denominator or None)
    below = aggregates.mean(metric.denominator) if metric.denominator else 1.0
    return _without_rounding(variance, aggregates.var(metric.numerator) / below**2)


def _without_rounding(variance: float, before: float) -> float:
    """What is left of a variance; so small a part of it is rounding, which may be below 0."""
    return variance if variance > ROUNDING * before else 0.0


def sample(users: pd.DataFrame, metric: Metric) -> Sample:
    """Sum up the users of one variant.

    Args:
        users: columns as `hymirec.abtest.metrics.COLUMNS`, at least those of the metric, and at
            least two rows.
        metric: one over users.
    """
    names = metric.columns
    values = users[names].to_numpy(dtype=float).T
    covariances = np.atleast_2d(np.cov(values))
    pairs = [(a, b) for a in range(len(names)) for b in range(a)]
    return Sample(
        metric,
        Aggregates(
            count_=len(users),
            mean_=dict(zip(names, values.mean(axis=1).tolist(), strict=True)),
            var_=dict(zip(names, np.diag(covariances).tolist(), strict=True)),
            cov_={(names[a], names[b]): float(covariances[a, b]) for a, b in pairs},
        ),
    )


def estimate(
    control: pd.DataFrame, treatment: pd.DataFrame, metric: Metric, variant: str, *,
    alpha: float, planned: float, foretell: bool = True,
) -> Estimate | None:  # fmt: skip
    """Compare a variant with the control.

    Args:
        control: its users, as for `sample`.
        treatment: the variant's users.
        metric: one over users.
        variant: name of the treatment.
        alpha: chance that the interval ever misses.
        planned: number of users of both at which the interval should be narrowest.
        foretell: whether CUPED may be used: not when users were shown variants before.

    Returns:
        None while either has fewer than `MIN_USERS`, or a ratio has nothing to divide by.
    """
    if min(len(control), len(treatment)) < MIN_USERS:
        return None
    first, second = sample(control, metric), sample(treatment, metric)
    foretold, note = 0.0, ""
    if metric.before and foretell:
        first, second, foretold, note = _foretell(control, treatment, first, second)
    return _compare(first, second, variant, alpha=alpha, planned=planned,
                    foretold=foretold, note=note)  # fmt: skip


def _foretell(
    control: pd.DataFrame, treatment: pd.DataFrame, first: Sample, second: Sample
) -> tuple[Sample, Sample, float, str]:
    """Take out of both what the time before the experiment explains (Deng et al., 2013)."""
    metric = first.metric
    parts = first.aggregates, second.aggregates
    both = parts[0] + parts[1]
    spread = both.var(metric.before)
    own = _variance(both, metric) if both.mean(metric.denominator or None) else 0.0
    plain = first, second, 0.0
    if not own > 0:
        return *plain, "every user has the same value: have events been sent?"
    if not spread > 0 or math.isnan(first.value) or math.isnan(second.value):
        return *plain, "CUPED not used: nothing is known of the users from before"
    gap = parts[1].mean(metric.before) - parts[0].mean(metric.before)
    error = math.sqrt(sum(part.var(metric.before) / part.count() for part in parts))
    differ = 2 * float(ndtr(-abs(gap) / error)) if error > 0 else 1.0
    if differ < BALANCE_P:
        return *plain, f"CUPED not used: users differed before the experiment (p {differ:.1g})"
    shared = both.ratio_cov(metric.numerator, metric.denominator or None, metric.before, None)
    coefficient = shared / spread
    explained = coefficient * shared / own
    if not explained >= MIN_FORETOLD:
        return *plain, f"CUPED not used: it would explain {explained:.1%} of the variance"
    mean = both.mean(metric.before)
    return (
        Sample(metric, first.aggregates, coefficient, mean),
        Sample(metric, second.aggregates, coefficient, mean),
        explained,
        "",
    )


def _compare(
    first: Sample, second: Sample, variant: str, *, alpha: float, planned: float,
    foretold: float, note: str,
) -> Estimate | None:  # fmt: skip
    if math.isnan(first.value) or math.isnan(second.value):
        return None
    num_users = first.num_users + second.num_users
    rho2 = mixing(planned, alpha)
    width = half_width(num_users, rho2, alpha)
    difference = second.value - first.value
    error = math.sqrt(first.variance + second.variance)
    p = p_value(difference / error, num_users, rho2) if error > 0 else float(difference == 0)
    return Estimate(
        metric=first.metric.name,
        variant=variant,
        num_users=(first.num_users, second.num_users),
        control=first.value,
        treatment=second.value,
        difference=difference,
        standard_error=error,
        interval=(difference - width * error, difference + width * error),
        lift=difference / first.value if first.value > 0 else None,
        lift_interval=ratio_interval(first, second, width),
        p_value=p,
        corrected=p,
        fixed=_fixed_look(first, second, alpha),
        foretold=foretold,
        note=note,
    )


def _fixed_look(first: Sample, second: Sample, alpha: float) -> FixedLook | None:
    metric = first.metric
    if not first.variance + second.variance > 0 or first.value * second.value == 0:
        return None
    found = RatioOfMeans(
        metric.numerator,
        metric.denominator or None,
        metric.before if first.coefficient else None,
        confidence_level=1 - alpha,
    ).analyze_aggregates(first.aggregates, second.aggregates)
    return FixedLook((found.effect_size_ci_lower, found.effect_size_ci_upper), found.pvalue)


def ratio_interval(first: Sample, second: Sample, width: float) -> Interval:
    """All lifts r − 1 at which treatment − r·control is within `width` standard errors of 0.

    Fieller (1954): it holds 0 exactly when the interval of the difference does. It has no ends
    while the control's own value may be 0.
    """
    square = first.value**2 - width**2 * first.variance
    if not (square > 0 and first.value > 0):
        return (None, None)
    cross = first.value * second.value
    rest = second.value**2 - width**2 * second.variance
    root = math.sqrt(max(0.0, cross**2 - square * rest))
    return ((cross - root) / square - 1, (cross + root) / square - 1)


@dataclass(frozen=True)
class Guarded:
    """How a variant stands to a guardrail.

    Attributes:
        metric: its name.
        variant: compared with the control.
        state: `held`: surely not worse by the margin or more (non-inferior); `broken`: surely
            worse by more; `open`: either may be.
        margin: by how much it may be worse, as the experiment says.
        control: the control's value.
        treatment: the variant's.
        room: what is left to the margin, in the metric's unit, below 0 past it.
        interval: of the room; holds at every look.
        note: how the first users fared, where they alone show that it is broken.
    """

    metric: str
    variant: str
    state: Literal["held", "broken", "open"]
    margin: str
    control: float | None
    treatment: float | None
    room: float | None
    interval: Interval
    note: str = ""


def guard(
    control: pd.DataFrame, treatment: pd.DataFrame, metric: Metric, variant: str, *,
    relative: float | None, absolute: float | None, alpha: float, planned: float,
) -> Guarded:  # fmt: skip
    """Test whether a variant is worse than the control by more than a margin.

    What breaks outright is seen from each user's first request (`hymirec.abtest.early`), all else
    from the intervals of means, once there are `MIN_USERS` of each.

    Args:
        control: its users, as for `sample`.
        treatment: the variant's users.
        metric: one over users.
        variant: name of the treatment.
        relative: margin as a share of the control's value; one of the two is given.
        absolute: margin in the metric's unit.
        alpha: chance that it is ever called broken, or held, without being so.
        planned: as for `estimate`.
    """
    factor = 1.0 if relative is None else 1 - relative if metric.better == "up" else 1 + relative
    margin = f"{relative:.2%}" if relative is not None else f"{absolute:g}"
    nothing = Guarded(metric.name, variant, "open", margin, None, None, None, (None, None))
    if metric.at_first:
        note = early.breaks_at_once(
            control, treatment, metric, factor=factor, absolute=absolute or 0.0,
            alpha=early.SHARE_OF_ALPHA * alpha,
        )  # fmt: skip
        if note:
            values = (users[metric.columns].sum() for users in (control, treatment))
            rates = [float(sums[metric.numerator] / sums[metric.denominator]) for sums in values]
            return replace(nothing, state="broken", control=rates[0], treatment=rates[1], note=note)
        alpha *= 1 - early.SHARE_OF_ALPHA
    if min(len(control), len(treatment)) < MIN_USERS:
        return nothing
    first, second = sample(control, metric), sample(treatment, metric)
    if math.isnan(first.value) or math.isnan(second.value):
        return nothing
    sign = 1 if metric.better == "up" else -1
    room = sign * (second.value - factor * first.value) + (absolute or 0.0)
    error = math.sqrt(second.variance + factor**2 * first.variance)
    if metric.better == "up" and not error > 0:
        return nothing  # no variance of what should happen: it is not logged
    num_users = first.num_users + second.num_users
    width = error * half_width(num_users, mixing(planned, alpha), alpha)
    low, high = room - width, room + width
    state: Literal["held", "broken", "open"] = (
        "held" if low >= 0 else "broken" if high < 0 else "open"
    )
    return Guarded(
        metric.name, variant, state, margin, first.value, second.value, room, (low, high)
    )


@dataclass(frozen=True)
class Mismatch:
    """Whether users come to the variants in the ratio they should.

    Attributes:
        counts: of users, by variant.
        p_value: holds at every look; this one decides.
        chi2_p_value: of the usual test at one look.
        found: whether they do not.
    """

    counts: dict[str, int]
    p_value: float
    chi2_p_value: float
    found: bool


MISMATCH_ALPHA = 1e-3
"""Chance that a sound splitter is ever called broken."""


def mismatch(variants: Sequence[str], counts: Sequence[int], weights: Sequence[float]) -> Mismatch:
    """Test the ratio of users, all variants at once."""
    by_variant = dict(zip(variants, counts, strict=True))
    if not sum(counts):
        return Mismatch(by_variant, 1.0, 1.0, found=False)
    shares = np.asarray(weights, dtype=float) / sum(weights)  # a declaration's may be rounded
    p = mismatch_p_value(counts, shares)
    usual = chisquare(counts, shares * sum(counts)).pvalue
    return Mismatch(by_variant, p, float(usual), found=p < MISMATCH_ALPHA)
