"""From numbers to verdicts. U users.

Paired differences are judged as non-inferiority trials are: a candidate has to be shown to lose
less than a margin, and what cannot be shown either way is inconclusive. Single numbers pass or fail
by MLflow's `MetricThreshold`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlflow
import numpy as np
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException
from numpy.typing import NDArray

from flows.gate.config import Comparison, GateConfig, Limit
from flows.tracking.record import metric_name
from hymirec.evaluation.significance import compare
from hymirec.evaluation.table import per_user

Verdict = Literal["pass", "fail", "inconclusive", "not measured"]

Numbers = Mapping[str, Mapping[str, float]]
"""By group and name."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        group: what it is about.
        name: of the number.
        verdict: what became of it; one that was not measured decides nothing.
        candidate: the candidate's number.
        champion: the champion's, None where there is none to compare with.
        wanted: the limit, in words.
        low: lower end of the interval of candidate minus champion, None of a single number.
        high: upper end.
        detail: more, in a line.
    """

    group: str
    name: str
    verdict: Verdict
    candidate: float
    champion: float | None = None
    wanted: str = ""
    low: float | None = None
    high: float | None = None
    detail: str = ""

    @property
    def difference(self) -> float | None:
        """Candidate minus champion."""
        return None if self.champion is None else self.candidate - self.champion

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; what is no number is null."""
        values = vars(self) | {"difference": self.difference}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }


def overall(checks: Sequence[Check]) -> Verdict:
    """The verdict of all together: one failure fails, one open question leaves it open."""
    found = {one.verdict for one in checks}
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def summary(checks: Sequence[Check]) -> str:
    """Why, in a line: what did not pass, or that all did."""
    wrong = [one for one in checks if one.verdict == overall(checks) != "pass"]
    if not wrong:
        looked_at = sum(one.verdict == "pass" for one in checks)
        return f"all {looked_at} checks"
    return "; ".join(f"{one.name} {one.detail or _beside(one)}" for one in wrong)


def beats_popularity(
    ranks: NDArray[np.float64], popularity: NDArray[np.float64], metric: str, level: float
) -> Check:
    """Whether a candidate is better than the most popular items, beyond its users' luck."""
    own, floor = per_user([ranks], metric), per_user([popularity], metric)
    found = compare(floor, own, level=level)
    verdict: Verdict = "pass" if found.low > 0 else "fail" if found.high <= 0 else "inconclusive"
    return Check(
        "floor", f"{metric} beside popularity", verdict, float(own.mean()), float(floor.mean()),
        "more, for certain", found.low, found.high,
        f"is {own.mean():.4f}, popularity's {floor.mean():.4f}",
    )  # fmt: skip


def comparisons(
    candidate: NDArray[np.float64], champion: NDArray[np.float64], config: GateConfig
) -> list[Check]:
    """The headline metrics, user by user; ranks [U] of the same targets."""
    return [
        _paired("comparison", metric, metric, candidate, champion, wanted, config.level)
        for metric, wanted in config.comparisons.items()
    ]


def slices(
    candidate: NDArray[np.float64], champion: NDArray[np.float64],
    lengths: NDArray[np.int64], cold: NDArray[np.bool_], config: GateConfig,
) -> list[Check]:  # fmt: skip
    """The same among users with long histories and among those whose target is new.

    Args:
        candidate: ranks [U].
        champion: ranks [U].
        lengths: events known of each user, [U].
        cold: [U], whether the target has no event in training.
        config: says what is long, and how much is too much.
    """
    wanted = config.slices
    long = wanted.long_history_events
    rule = Comparison(margin=wanted.margin, must_be_shown=False)
    found = []
    for some, name in (
        (lengths >= long, f"histories of {long} events and more"),
        (cold, "items without an event in training"),
    ):
        count = int(some.sum())
        full = f"{wanted.metric}, {name}"
        if count < wanted.min_users:
            own = float(per_user([candidate[some]], wanted.metric).mean()) if count else math.nan
            detail = f"{count} users, {wanted.min_users} are needed"
            found.append(Check("slice", full, "not measured", own, detail=detail))
        else:
            found.append(
                _paired(
                    "slice", full, wanted.metric, candidate[some], champion[some], rule,
                    config.level,
                )
            )  # fmt: skip
    return found


def limits(candidate: Numbers, champion: Numbers | None, config: GateConfig) -> list[Check]:
    """Single numbers against their limits.

    Args:
        candidate: by group and name; one that a limit asks for and that is missing was not
            measured.
        champion: the same of the champion, where there is one; a number it has not is passed over.
        config: the limits.
    """
    found = []
    for group, wanted in config.limits.items():
        for name, limit in wanted.items():
            value = candidate.get(group, {}).get(name, math.nan)
            other = (champion or {}).get(group, {}).get(name)
            found.append(_single(group, name, float(value), other, limit))
    return found


def _paired(
    group: str, name: str, metric: str, candidate: NDArray[np.float64],
    champion: NDArray[np.float64], wanted: Comparison, level: float,
) -> Check:  # fmt: skip
    own, other = per_user([candidate], metric), per_user([champion], metric)
    found = compare(other, own, level=level)
    margin = wanted.margin * float(other.mean())
    sure = found.low >= -margin
    worse = found.high < 0 and found.difference < -margin
    verdict: Verdict = "pass"
    if worse:
        verdict = "fail"
    elif wanted.must_be_shown and not sure:
        verdict = "inconclusive"
    detail = (
        f"differs by {found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}) on "
        f"{len(own)} users; {margin:.4f} may be lost"
    )
    if verdict == "inconclusive" and found.difference > -margin:
        # The interval's width shrinks with the root of the number of users.
        ratio = (found.difference - found.low) / (found.difference + margin)
        detail += f"; about {math.ceil(len(own) * ratio**2)} users would tell"
    return Check(
        group, name, verdict, float(own.mean()), float(other.mean()),
        f"{'at most' if wanted.must_be_shown else 'not for certain more than'} "
        f"{wanted.margin:.0%} less",
        found.low, found.high, detail,
    )  # fmt: skip


def _single(group: str, name: str, value: float, other: float | None, limit: Limit) -> Check:
    wanted = _in_words(limit)
    if math.isnan(value):
        return Check(group, name, "not measured", value, other, wanted)
    sign = 1 if limit.more_is_better else -1
    bounds = [limit.at_least if limit.more_is_better else limit.at_most]
    share = limit.may_fall_by if limit.more_is_better else limit.may_rise_by
    if share is not None and other is not None:
        bounds.append(other - sign * share * abs(other))
    given = [float(bound) for bound in bounds if bound is not None]
    if not given:
        return Check(group, name, "pass", value, other, wanted, detail="nothing to compare with")
    strictest = max(given) if limit.more_is_better else min(given)
    passed = _meets(name, value, strictest, limit.more_is_better)
    detail = "" if passed else (
        f"is {value:.4g}, {strictest:.4g} is the {'least' if limit.more_is_better else 'most'}"
    )  # fmt: skip
    return Check(group, name, "pass" if passed else "fail", value, other, wanted, detail=detail)


def _meets(name: str, value: float, bound: float, more_is_better: bool) -> bool:
    metric = metric_name(name)
    try:
        mlflow.validate_evaluation_results(
            validation_thresholds={
                metric: MetricThreshold(threshold=bound, greater_is_better=more_is_better)
            },
            candidate_result=EvaluationResult(metrics={metric: value}, artifacts={}),
        )
    except ModelValidationFailedException:
        return False
    return True


def _in_words(limit: Limit) -> str:
    said = []
    if limit.at_least is not None:
        said.append(f"at least {limit.at_least:g}")
    if limit.at_most is not None:
        said.append(f"at most {limit.at_most:g}")
    for share, word in ((limit.may_fall_by, "less"), (limit.may_rise_by, "more")):
        if share is not None:
            said.append(f"at most {share:.0%} {word}")
    return ", ".join(said)


def _beside(check: Check) -> str:
    return f"{check.candidate:.4g} beside {check.champion}"
