"""How many users, and how many days, until an experiment can see what it is looking for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import norm
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import Mean

from hymirec.abtest.definition import Experiment
from hymirec.abtest.sequential import half_width, mixing


@dataclass(frozen=True)
class Plan:
    """What an experiment needs.

    Attributes:
        users_per_variant: of control and of treatment, each, to see the effect at some look.
        users_at_one_look: the same if there was only one look, at the end.
        days: until enough users have come; None where it is not known how many come.
    """

    users_per_variant: int
    users_at_one_look: int
    days: float | None


def plan(
    mean: float, standard_deviation: float, lift: float, *,
    alpha: float = 0.05, power: float = 0.8, users_per_day: float | None = None,
) -> Plan:  # fmt: skip
    """Plan a comparison of two equally large variants.

    Args:
        mean: of the metric, over users.
        standard_deviation: likewise; of a ratio, that of its linearised numerator.
        lift: smallest relative difference worth seeing.
        alpha: chance to see one that is not there.
        power: chance to see one of this size.
        users_per_day: new users of both variants together.

    Raises:
        ValueError: the mean or the lift is 0, or the deviation not above 0.
    """
    if not standard_deviation > 0 or not mean or not lift:
        raise ValueError("a plan needs a mean and a lift that are not 0, and a deviation above 0")
    baseline = Aggregates(count_=2, mean_={"y": abs(mean)}, var_={"y": standard_deviation**2})
    solved = Mean("y", rel_effect_size=abs(lift), alpha=alpha, power=power, use_t=False)
    once = solved.solve_power_from_aggregates(baseline, "n_obs")[0].n_obs / 2
    reach = norm.ppf(power)
    # Planned for N users, intervals are equally wide at N whatever N is: width and N part company.
    width = half_width(1.0, mixing(1.0, alpha), alpha)
    always = once * ((width + reach) / (norm.ppf(1 - alpha / 2) + reach)) ** 2
    days = 2 * always / users_per_day if users_per_day else None
    return Plan(math.ceil(always), math.ceil(once), days)


@dataclass(frozen=True)
class Needs:
    """A plan in words.

    Attributes:
        says: what the experiment needs, in a line.
        warns: lines on what it will not get, and what to do about that.
        plan: the numbers; None where they are not known.
    """

    says: str
    warns: list[str]
    plan: Plan | None


def needs(experiment: Experiment, planned: Plan | str) -> Needs:
    """Put a plan, or why there is none, beside what an experiment asks for."""
    if isinstance(planned, str):
        return Needs(planned, [], None)
    users, days = planned.users_per_variant, planned.days
    says = (
        f"to see {experiment.minimum_lift:.1%} in {experiment.primary} it needs {users} users of "
        "each variant"
    )
    if days:
        says += f", about {days:.1f} days of the traffic there was of late"
    warns = []
    wanted = experiment.ramp[-1].min_users
    if wanted < users:
        warns.append(
            f"underpowered: the ramp's last step asks for {wanted} users of each variant; raise "
            "its min_users, or minimum_lift if smaller differences are not worth finding"
        )
    if days and days > experiment.horizon.days:
        warns.append(
            f"too short: the horizon is {experiment.horizon.days:g} days; raise it or "
            "minimum_lift, or ask with mode: interleaving, which takes far fewer users"
        )
    return Needs(says, warns, planned)
