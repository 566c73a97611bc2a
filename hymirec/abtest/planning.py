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

    def needs(self, experiment: Experiment) -> str:
        """In a line, what it takes to see the effect that the experiment looks for."""
        days = ""
        if self.days:
            days = f", about {self.days:.1f} days" if self.days >= 1 else ", less than a day"
        return (
            f"to see {experiment.minimum_lift:.1%} in {experiment.primary} it needs "
            f"{self.users_per_variant} users of each variant{days}"
        )

    def shortfalls(self, experiment: Experiment) -> list[str]:
        """Where the experiment does not give that: a line each, a word and a colon ahead."""
        found = []
        wanted = experiment.ramp[-1].min_users
        if wanted < self.users_per_variant:
            found.append(
                f"underpowered: the ramp's last step asks for {wanted} users of each variant, "
                f"{self.users_per_variant} are needed: raise its min_users, or minimum_lift if "
                "smaller differences are not worth finding"
            )
        if self.days and self.days > experiment.horizon.days:
            found.append(
                f"too short: the horizon is {experiment.horizon.days:g} days, {self.days:.1f} are "
                "needed: raise it or minimum_lift, or ask with mode: interleaving, which takes far "
                "fewer users"
            )
        return found


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
