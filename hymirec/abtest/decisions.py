"""What follows from a readout, by rules that are fixed before anybody looks.

In this order: a broken guardrail rolls back, a sample-ratio mismatch pauses, a primary metric that
is surely worse rolls back, one that is surely better with all guardrails held concludes, and a step
with samples enough and nothing broken ramps. All else holds: no data is no good news. Interleaving
goes by which version is preferred, on any step; a shadow only ramps, or pauses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from hymirec.abtest.analysis import Estimate, Guarded, Interval
from hymirec.abtest.definition import Experiment
from hymirec.abtest.metrics import METRICS
from hymirec.abtest.readout import Readout

Action = Literal["ramp", "hold", "pause", "roll_back", "conclude"]
PERSON = "a person has to decide"
"""Ends the reason of what holds and will go on holding."""
MAX_CROSSOVERS = 0.01
"""Share of users seen in two variants from which the split is not to be believed."""


@dataclass(frozen=True)
class Progress:
    """Where a running experiment stands.

    Attributes:
        step: of the ramp, from 0.
        started: seconds since 1970 UTC.
        step_since: when the step began, later by as long as it was paused since.
    """

    step: int
    started: float
    step_since: float


@dataclass(frozen=True)
class Decision:
    """What is to be done.

    Attributes:
        action: what.
        reason: in a line.
        evidence: the numbers behind it, as JSON values.
        winner: variant that becomes champion, of `conclude`.
    """

    action: Action
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    winner: str = ""


def decide(experiment: Experiment, progress: Progress, readout: Readout) -> Decision:
    """Decide on a running experiment."""
    broken = [one for one in readout.guardrails if one.state == "broken"]
    if broken:
        evidence = {"guardrails": [vars(one) for one in broken]}
        return Decision("roll_back", _says_of_guardrail(broken[0]), evidence)
    for said, evidence in _unbelievable(readout):
        return Decision("pause", said, evidence)
    if experiment.mode == "ab":
        return _of_samples(experiment, progress, readout)
    if experiment.mode == "shadow":
        found = Decision("hold", "a shadow decides nothing")
    else:
        found = _of_preference(experiment, readout)
    if found.action == "hold" and _has_users(experiment, progress, readout):
        return _onward(experiment, progress, readout, found.evidence) or found
    return found


def doubts(experiment: Experiment, readout: Readout, winner: str) -> list[str]:
    """Why the numbers do not support a winner that a person names, a line each; none where they do.

    That nothing is better than the control takes no proof, so the control may win unless something
    is.

    Args:
        experiment: which.
        readout: of it.
        winner: a variant's name.
    """
    found = [said for said, _ in _unbelievable(readout)]
    if experiment.mode == "shadow":
        return [*found, "a shadow is shown to nobody: no user has chosen"]
    if experiment.mode == "interleaving":
        decision = _of_preference(experiment, readout)
        is_control = winner == experiment.control.name
        if (decision.action == "conclude") == is_control:
            found.append(decision.reason)
        return found
    for one in readout.guardrails:
        if one.variant == winner and one.state != "held":
            found.append(
                _says_of_guardrail(one) if one.state == "broken"
                else f"guardrail {one.metric} of {winner} is not settled"
            )  # fmt: skip
    if winner == experiment.control.name:
        better = [one for one in readout.primary if _verdict(one) == "better"]
        return [*found, *(_says(one, "is better") for one in better)]
    own = [one for one in readout.primary if one.variant == winner]
    users = readout.exposed.counts.get(winner, 0)
    if not own:
        return [*found, f"nothing is known of {winner} in {experiment.primary}, with {users} users"]
    words = {"worse": "is worse", "open": "is not surely better"}
    return [*found, *(f"{_says(one, words[_verdict(one)])} of {users} users"
                      for one in own if _verdict(one) != "better")]  # fmt: skip


def _unbelievable(readout: Readout) -> Iterator[tuple[str, dict[str, Any]]]:
    """Why no number of a readout is to be believed, each with the numbers behind it."""
    for what, found in (("assigned", readout.assigned), ("shown lists", readout.exposed)):
        if found.found:
            counts = ", ".join(f"{name} {count}" for name, count in found.counts.items())
            said = f"sample-ratio mismatch: users {what} are {counts} (p {found.p_value:.1g})"
            yield said, {"mismatch": vars(found)}
    users = sum(readout.assigned.counts.values())
    if readout.crossovers > MAX_CROSSOVERS * (users + readout.crossovers):
        yield readout.warnings[0], {"crossovers": readout.crossovers}


def _of_samples(experiment: Experiment, progress: Progress, readout: Readout) -> Decision:
    step = experiment.ramp[progress.step]
    evidence = {
        "primary": [_brief(one) for one in readout.primary],
        "users": readout.exposed.counts,
    }
    if _has_users(experiment, progress, readout):
        verdicts = {one.variant: _verdict(one) for one in readout.primary}
        if verdicts and all(verdicts.get(v.name) == "worse" for v in experiment.treatments):
            return Decision("roll_back", _says(readout.primary[0], "is worse"), evidence)
        onward = _onward(experiment, progress, readout, evidence)
        return onward or _conclusion(experiment, progress, readout, evidence)
    fewest = _fewest(readout)
    if _is_over(experiment, progress, readout):
        return Decision(
            "hold", f"the horizon is reached with {fewest} of {step.min_users} users of a variant: "
            f"too few to go on, {PERSON}", evidence,
        )  # fmt: skip
    return Decision("hold", f"{fewest} of {step.min_users} users of each variant", evidence)


def _fewest(readout: Readout) -> int:
    return min(readout.exposed.counts.values())


def _has_users(experiment: Experiment, progress: Progress, readout: Readout) -> bool:
    return _fewest(readout) >= experiment.ramp[progress.step].min_users


def _onward(
    experiment: Experiment, progress: Progress, readout: Readout, evidence: dict[str, Any]
) -> Decision | None:
    """From a step that has its users to the next, or why not yet; none after the last."""
    if progress.step == len(experiment.ramp) - 1:
        return None
    step, following = experiment.ramp[progress.step : progress.step + 2]
    hours = (readout.time - progress.step_since) / 3600
    if hours < step.min_hours:
        said = f"{hours:.1f} of {step.min_hours:g} hours at {step.share:.4g}"
        return Decision("hold", said, evidence)
    return Decision(
        "ramp",
        f"{_fewest(readout)} users of each variant at {step.share:.4g} of the traffic, no "
        f"guardrail broken: on to {following.share:.4g}",
        evidence,
    )


def _conclusion(
    experiment: Experiment, progress: Progress, readout: Readout, evidence: dict[str, Any]
) -> Decision:
    better = [one for one in readout.primary if _verdict(one) == "better"]
    better.sort(key=lambda one: one.lift if one.lift is not None else one.difference)
    if METRICS[experiment.primary].better == "down":
        better.reverse()
    while better:
        best = better.pop()
        open_ones = [
            one.metric for one in readout.guardrails
            if one.variant == best.variant and one.state == "open"
        ]  # fmt: skip
        if not open_ones:
            return Decision(
                "conclude", _says(best, "is better"),
                evidence | {"guardrails": [vars(one) for one in readout.guardrails]},
                winner=best.variant,
            )  # fmt: skip
        if not better:
            return Decision(
                "hold",
                f"{_says(best, 'is better')}; guardrails not settled: {', '.join(open_ones)}",
                evidence,
            )
    if _is_over(experiment, progress, readout):
        return Decision("hold", f"inconclusive at the horizon: {PERSON}", evidence)
    return Decision("hold", "not conclusive yet", evidence)


def _of_preference(experiment: Experiment, readout: Readout) -> Decision:
    found = readout.preference
    if found is None or found.interval[0] is None or found.interval[1] is None:
        return Decision("hold", "too few users have clicked")
    evidence = {"preference": vars(found)}
    treatment = experiment.treatments[0].name
    said = f"preference for {treatment} is {found.preference:+.3f} ({found.interval[0]:+.3f} to "
    said += f"{found.interval[1]:+.3f}) of {found.num_users} users"
    if found.interval[1] < 0:
        return Decision("roll_back", said, evidence)
    if found.interval[0] > 0:
        return Decision("conclude", said, evidence, winner=treatment)
    return Decision("hold", said, evidence)


def verdict(metric: str, interval: Interval) -> Literal["better", "worse", "open"]:
    """Whether a difference in a metric is surely good, surely bad, or neither."""
    low, high = interval
    if low is None or high is None or low <= 0 <= high:
        return "open"
    is_up = low > 0
    return "better" if is_up == (METRICS[metric].better == "up") else "worse"


def _verdict(estimate: Estimate) -> Literal["better", "worse", "open"]:
    return verdict(estimate.metric, estimate.interval)


def _is_over(experiment: Experiment, progress: Progress, readout: Readout) -> bool:
    return readout.time - progress.started >= experiment.horizon.days * 86_400


def _says(estimate: Estimate, what: str) -> str:
    low, high = estimate.lift_interval
    if estimate.lift is None or low is None or high is None:
        begin, end = (f"{one:+.4g}" if one is not None else "open" for one in estimate.interval)
        return (
            f"{estimate.variant} {what} in {estimate.metric}: {estimate.difference:+.4g} "
            f"({begin} to {end})"
        )
    return (
        f"{estimate.variant} {what} in {estimate.metric}: {estimate.lift:+.1%} "
        f"({low:+.1%} to {high:+.1%})"
    )


def _says_of_guardrail(one: Guarded) -> str:
    return (
        f"guardrail {one.metric} is broken: {one.variant} {_number(one.treatment)}, "
        f"control {_number(one.control)}, margin {one.margin}"
        + (f" ({one.note})" if one.note else "")
    )


def _brief(estimate: Estimate) -> dict[str, Any]:
    names = ("metric", "variant", "control", "treatment", "lift", "lift_interval", "p_value")
    return {name: getattr(estimate, name) for name in names}


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
