"""Everything that is known of an experiment at one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from hymirec.abtest.analysis import Estimate, Guarded, Mismatch, estimate, guard, mismatch
from hymirec.abtest.catalogue import ItemEstimate
from hymirec.abtest.definition import Experiment
from hymirec.abtest.interleaving import Preference
from hymirec.abtest.metrics import FIRST, HISTORY, METRICS, VARIANT, Metric
from hymirec.abtest.shadow import Shadowed
from hymirec.evaluation.significance import holm

PLANNED_FOR_GUARDS = 500
"""Users at which guardrails see best: early, so that what is broken is broken before many see it;
it costs them little later."""
LONG_HISTORY = 50
"""Clicks on record from which a history is long."""
SEGMENTS: dict[str, Callable[[pd.DataFrame], pd.Series[bool]]] = {
    "new users": lambda users: users[HISTORY] == 0,
    "short histories": lambda users: (users[HISTORY] > 0) & (users[HISTORY] < LONG_HISTORY),
    "long histories": lambda users: users[HISTORY] >= LONG_HISTORY,
}
"""Kinds of users, by what was known of them before their first list."""


@dataclass(frozen=True)
class SegmentEstimate:
    """The primary metric of one kind of users; corrected for the number of kinds and variants."""

    segment: str
    estimate: Estimate


@dataclass(frozen=True)
class Readout:
    """What is known.

    Attributes:
        experiment: its name.
        time: of the reading, seconds since 1970 UTC.
        share: of the traffic that takes part.
        assigned: whether users come in the ratio they should.
        exposed: whether they are shown lists in that ratio.
        crossovers: users seen in two variants, who are left out.
        primary: one for each treatment that has users enough.
        secondary: the metrics shown, likewise.
        segments: the primary metric by kind of user.
        items: metrics whose unit is an item.
        guardrails: one for each guardrail and treatment.
        preference: of interleaving.
        shadow: of shadow mode.
        warnings: what to know before believing any of it.
    """

    experiment: str
    time: float
    share: float
    assigned: Mismatch
    exposed: Mismatch
    crossovers: int
    primary: list[Estimate] = field(default_factory=list)
    secondary: list[Estimate] = field(default_factory=list)
    segments: list[SegmentEstimate] = field(default_factory=list)
    items: list[ItemEstimate] = field(default_factory=list)
    guardrails: list[Guarded] = field(default_factory=list)
    preference: Preference | None = None
    shadow: Shadowed | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def num_exposed(self) -> int:
        """Users who were shown lists, of all variants."""
        return sum(self.exposed.counts.values())

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def read_out(
    experiment: Experiment, users: pd.DataFrame, *, time: float, share: float,
    crossovers: int = 0, foretell: bool = True,
) -> Readout:  # fmt: skip
    """Sum up an experiment.

    Args:
        experiment: its declaration.
        users: one row for each user of the experiment without testers and crossovers; columns as
            `hymirec.abtest.metrics.COLUMNS`, NaN as first exposure of who was never shown a list.
        time: of the reading.
        share: of the traffic that takes part.
        crossovers: users left out.
        foretell: whether CUPED may be used.
    """
    names = [variant.name for variant in experiment.variants]
    shown = users[users[FIRST].notna()]
    assigned, exposed = (
        mismatch(names, [int((part[VARIANT] == name).sum()) for name in names], experiment.weights)
        for part in (users, shown)
    )
    readout = Readout(
        experiment.name, time, share, assigned, exposed, crossovers,
        warnings=_warnings(crossovers, len(users)),
    )  # fmt: skip
    if experiment.mode == "shadow":
        return readout
    by_variant = {name: (part(users, name), part(shown, name)) for name in names}
    return replace(
        readout,
        primary=_estimates(experiment, by_variant, [experiment.primary], foretell=foretell),
        secondary=_estimates(
            experiment, by_variant,
            [name for name in experiment.secondary if not METRICS[name].counts_items],
            foretell=foretell,
        ),
        segments=_segments(experiment, by_variant, foretell=foretell),
        guardrails=_guardrails(experiment, by_variant),
    )  # fmt: skip


def part(users: pd.DataFrame, variant: str) -> pd.DataFrame:
    """The users of one variant."""
    return users[users[VARIANT] == variant]


_Parts = dict[str, tuple[pd.DataFrame, pd.DataFrame]]
"""Assigned and shown users by variant."""


def _of(parts: _Parts, variant: str, metric: Metric) -> pd.DataFrame:
    assigned, shown = parts[variant]
    return assigned if metric.of_assigned else shown


def _estimates(
    experiment: Experiment, parts: _Parts, names: list[str], *, foretell: bool
) -> list[Estimate]:
    """All metrics of all treatments; primary ones share α, so that their intervals say it too."""
    found = []
    is_primary = names == [experiment.primary]
    alpha = experiment.alpha / (len(experiment.treatments) if is_primary else 1)
    for name in names:
        metric = METRICS[name]
        control = _of(parts, experiment.control.name, metric)
        for variant in experiment.treatments:
            one = estimate(
                control, _of(parts, variant.name, metric), metric, variant.name,
                alpha=alpha, planned=experiment.planned_users, foretell=foretell,
            )  # fmt: skip
            if one is not None:
                found.append(one)
    return _corrected(found)


def _corrected(estimates: list[Estimate]) -> list[Estimate]:
    corrected = holm([one.p_value for one in estimates]) if estimates else []
    return [replace(one, corrected=p) for one, p in zip(estimates, corrected, strict=True)]


def _segments(experiment: Experiment, parts: _Parts, *, foretell: bool) -> list[SegmentEstimate]:
    metric = METRICS[experiment.primary]
    control = _of(parts, experiment.control.name, metric)
    found = []
    for variant in experiment.treatments:
        treatment = _of(parts, variant.name, metric)
        for segment, belongs in SEGMENTS.items():
            one = estimate(
                control[belongs(control)], treatment[belongs(treatment)], metric, variant.name,
                alpha=experiment.alpha, planned=experiment.planned_users, foretell=foretell,
            )  # fmt: skip
            if one is not None:
                found.append(SegmentEstimate(segment, one))
    corrected = _corrected([one.estimate for one in found])
    return [replace(one, estimate=p) for one, p in zip(found, corrected, strict=True)]


def _guardrails(experiment: Experiment, parts: _Parts) -> list[Guarded]:
    """Each at its share of α, so that all together are broken by chance in at most α."""
    asked = len(experiment.guardrails) * len(experiment.treatments)
    found = []
    for rail in experiment.guardrails:
        metric = METRICS[rail.metric]
        control = _of(parts, experiment.control.name, metric)
        for variant in experiment.treatments:
            found.append(
                guard(
                    control, _of(parts, variant.name, metric), metric, variant.name,
                    relative=rail.relative, absolute=rail.absolute,
                    alpha=experiment.alpha / asked, planned=PLANNED_FOR_GUARDS,
                )
            )  # fmt: skip
    return found


def _warnings(crossovers: int, users: int) -> list[str]:
    if not crossovers:
        return []
    share = crossovers / (crossovers + users)
    return [f"{crossovers} users ({share:.2%}) were seen in two variants and are left out"]
