"""What can be simulated: how good the two versions are, and what is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hymirec.abtest.definition import Experiment, Mode, check
from hymirec.simulation.recommender import Skill

CHAMPION_SKILL, BETTER_SKILL = 0.55, 0.85
LIST_LENGTH = 10
VISITS = 8.0
"""Of a user in all, on the average."""
RETURNS = 0.25
"""Share of them that are not in the user's first sitting."""
STEP_HOURS = 12.0
"""Of simulated time between two readouts."""
NAME, CONTROL, TREATMENT = "simulated", "control", "challenger"


@dataclass(frozen=True)
class Scenario:
    """One course of events.

    Attributes:
        says: what happens, and what should come of it.
        challenger: how good the challenger is.
        verdict: what should come of it.
        num_users: of the crowd.
        days: simulated.
        ramp: steps of the experiment.
        misrouted: share of the control's users that a broken splitter gives to the challenger.
        visits: of a user in all, on the average.
    """

    says: str
    challenger: Skill
    verdict: str
    num_users: int
    days: float
    ramp: tuple[tuple[float, int], ...]
    misrouted: float = 0.0
    visits: float = VISITS

    @property
    def champion(self) -> Skill:
        """How good the champion is."""
        return Skill(seed=1, skill=CHAMPION_SKILL)

    def experiment(self, mode: Mode) -> Experiment:
        """The experiment as an owner would declare it."""
        # Interleaving needs no ramp here; its number of users says where intervals are narrowest.
        ramp = self.ramp if mode == "ab" else ((1.0, self.ramp[-1][1] // 4),)
        values: dict[str, Any] = {
            "name": NAME,
            "hypothesis": self.says,
            "owner": "simulation",
            "mode": mode,
            "variants": [
                {"name": CONTROL, "model": "champion"},
                {"name": TREATMENT, "model": 2},
            ],
            "minimum_lift": 0.1,
            "secondary": ["clickers", "diversity_shown"],
            "guardrails": [
                {"metric": "error_rate", "absolute": 0.02},
                {"metric": "fallback_rate", "absolute": 0.02},
            ],
            "ramp": [{"share": share, "min_users": users} for share, users in ramp],
            "horizon": {"days": self.days},
            "attribution_hours": 6.0,
        }
        return check(values, "the simulation")


_RAMP = ((0.1, 40), (0.5, 200), (1.0, 600))
SCENARIOS = {
    "better": Scenario(
        "The challenger is truly better: it is found out, and becomes champion without a person.",
        Skill(seed=2, skill=BETTER_SKILL), "ramped", num_users=3000, days=14, ramp=_RAMP,
    ),
    "equal": Scenario(
        "The challenger answers as the champion does: nothing is found, and nothing promoted.",
        Skill(seed=1, skill=CHAMPION_SKILL), "held", num_users=3000, days=14, ramp=_RAMP,
    ),
    "broken": Scenario(
        "The challenger cannot answer half of its users: it is rolled back before many see it.",
        Skill(seed=2, skill=BETTER_SKILL, fails=0.5), "rolled_back", num_users=20_000, days=14,
        ramp=((0.01, 60), (0.1, 600), (1.0, 5000)), visits=2.0,
    ),
    "skewed": Scenario(
        "A broken splitter gives some of the control's users to the challenger: it is paused.",
        Skill(seed=1, skill=CHAMPION_SKILL), "paused", num_users=3000, days=14,
        ramp=((1.0, 600),), misrouted=0.3,
    ),
}  # fmt: skip
"""By name."""
