"""Which variant a user is in: a function of the user's id and the experiment, and of nothing else.

    0                     0.5                     1
    |== control ==·········|== challenger =·······|     share 0.2: what is marked takes part
    |======= control ======|===== challenger =====|     share 1

A user's place between 0 and 1 is a salted hash, so it is the same in every process, after every
restart and in every month. A variant's range begins where it always begins and only grows with the
share, so a ramp brings users in and moves nobody. Experiments of one layer hold slices of another
hash of the user, the same for all of them, so that nobody is in two.

The hash and the ranges are those of GrowthBook's SDKs, version 2
(docs.growthbook.io/lib/build-your-own, "hashing" and "getBucketRanges"); their published cases are
in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

PLACES = 10_000
"""Different places of users between 0 and 1."""

_OFFSET, _PRIME, _WORD = 0x811C9DC5, 0x01000193, 0xFFFFFFFF
"""Of the 32-bit FNV-1a hash."""


def place(user_id: str, salt: str) -> float:
    """Where a user stands under a salt: one of `PLACES` places from 0 to below 1."""
    return _fnv1a(str(_fnv1a(salt + user_id))) % PLACES / PLACES


def ranges(weights: Sequence[float], share: float) -> list[tuple[float, float]]:
    """From where to below where each variant's users stand.

    Args:
        weights: of the variants, adding up to 1.
        share: of the users who take part, 0 to 1.
    """
    found, start = [], 0.0
    for weight in weights:
        found.append((start, start + share * weight))
        start += weight
    return found


@dataclass(frozen=True)
class Split:
    """One running experiment, as far as assignment needs to know it.

    Attributes:
        name: of the experiment.
        salt: of its hash; two experiments of one salt would split users alike.
        layer: experiments of one layer never share a user.
        slice: part of the layer's users that are this experiment's, from and to below.
        variants: names.
        weights: of the variants, adding up to 1.
        share: of the slice's users who take part.
        attributes: values that a request's attributes must be among, by name; none: anyone.
        excluded: users who never take part.
        overrides: variants of testers by user id, whoever else takes part.
    """

    name: str
    salt: str
    layer: str
    slice: tuple[float, float]
    variants: tuple[str, ...]
    weights: tuple[float, ...]
    share: float
    attributes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()
    overrides: Mapping[str, str] = field(default_factory=dict)

    def assign(
        self, user_id: str, attributes: Mapping[str, str] | None = None
    ) -> Assignment | None:
        """The user's variant, None who does not take part."""
        if (tester := self.overrides.get(user_id)) is not None:
            return Assignment(self.name, tester, 0.0, is_override=True)
        if user_id in self.excluded or not self._is_meant(attributes or {}):
            return None
        low, high = self.slice
        if (low, high) != (0.0, 1.0) and not low <= place(user_id, f"layer:{self.layer}:") < high:
            return None
        stands = place(user_id, self.salt)
        for which, (start, end) in enumerate(self._ranges):
            if start <= stands < end:
                return Assignment(self.name, self.variants[which], self.weights[which])
        return None

    @cached_property
    def _ranges(self) -> list[tuple[float, float]]:
        return ranges(self.weights, self.share)

    def _is_meant(self, attributes: Mapping[str, str]) -> bool:
        return all(attributes.get(name) in allowed for name, allowed in self.attributes.items())


@dataclass(frozen=True)
class Assignment:
    """A user's part in an experiment.

    Attributes:
        experiment: its name.
        variant: the user's.
        propensity: chance of this variant among those who take part; 0 of an override.
        is_override: whether the user is a tester, whose answers count for nothing.
    """

    experiment: str
    variant: str
    propensity: float
    is_override: bool = False


def assign(
    splits: Sequence[Split], user_id: str, attributes: Mapping[str, str] | None = None
) -> list[Assignment]:
    """All experiments a user takes part in: one of each layer at most, a tester's first."""
    found: dict[str, Assignment] = {}
    for split in splits:
        assignment = split.assign(user_id, attributes)
        if assignment is None:
            continue
        if split.layer not in found or assignment.is_override:
            found[split.layer] = assignment
    return list(found.values())


def _fnv1a(text: str) -> int:
    # Over UTF-16 code units, as the SDK in JavaScript does and the others after it.
    units: Iterable[int] = (
        text.encode()
        if text.isascii()
        else memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")
    )
    value = _OFFSET
    for unit in units:
        value = (value ^ unit) * _PRIME & _WORD
    return value
