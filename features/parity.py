"""Whether the online store says what published history and event log say.

A row online is made of a published history and of the clicks in the log (`features.updates`), which
come one after another. A row is right when it is what was published together with all clicks that
the consumer has taken in, and with any first part of those it has yet to take in: it may be ahead
of the consumer's mark, never behind. Events that wait are counted apart; they are no mismatch.

Who serves compares some of the users it answers and exports the rate; `hymirec features diff` does
so by hand. Training sets are cut from the same histories (`features.training_sets`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.logs.event_log import Click, EventLog
from features.offline import read_histories, read_item_codes
from features.online import FeatureReader
from features.updates import CONSUMER, no_history, with_clicks
from hymirec.additions import publications, read
from hymirec.history import History
from hymirec.home import Home

ItemAndTime = tuple[str, int]
_MAX_STATES = 100
"""Of a row, that are thought possible while its clicks wait."""


@dataclass(frozen=True)
class Mismatch:
    """How a user's row online differs from what it should be.

    Attributes:
        user_id: whose.
        missing: events that the row lacks, (item id, seconds since 1970 UTC).
        extra: events that nothing accounts for.
        other_codes: items whose codes in the row are not those published.
        order: whether events of one second stand in another order, all else being equal.
    """

    user_id: str
    missing: tuple[ItemAndTime, ...] = ()
    extra: tuple[ItemAndTime, ...] = ()
    other_codes: tuple[str, ...] = ()
    order: bool = False

    def __len__(self) -> int:
        """How many things differ."""
        return len(self.missing) + len(self.extra) + len(self.other_codes) + self.order

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


@dataclass(frozen=True)
class ParityReport:
    """What a comparison came to.

    Attributes:
        compared: users who have a row or should have one.
        unknown: users of whom nobody knows anything.
        mismatches: one for each user whose row is wrong.
        waiting: clicks of these users that the consumer has yet to take in.
    """

    compared: int
    unknown: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    waiting: int

    @property
    def rate(self) -> float:
        """Share of the compared users whose row is wrong; 0 where none was compared."""
        return len(self.mismatches) / self.compared if self.compared else 0.0


class ParityCheck:
    """Compares rows of one codebook; may be shared by threads."""

    def __init__(self, event_log: EventLog, codebook_id: str) -> None:
        """Open the store of the log's home. Raises as `FeatureReader`."""
        self.home: Home = event_log.home
        self.codebook_id = codebook_id
        self._log = event_log
        self._reader = FeatureReader(self.home, codebook_id)

    def check(self, user_ids: Collection[str]) -> ParityReport:
        """Read the rows of users and compare them.

        Raises:
            VersionError: the codebook is no longer published.
            HymirecError: a store cannot be read, or a row is damaged.
        """
        users = list(dict.fromkeys(user_ids))
        taken_in = self.taken_in()
        rows = self._reader.read_users(users)
        return self.compare({user: row.history for user, row in rows.items()}, users, taken_in)

    def taken_in(self) -> int:
        """Position up to which the consumer had taken events in: to be asked before rows are read.

        See `compare`.
        """
        return self._log.offset(CONSUMER)

    def compare(
        self, rows: Mapping[str, History], user_ids: Sequence[str], taken_in: int
    ) -> ParityReport:
        """Compare rows that were read before, such as those a request was answered from.

        Args:
            rows: histories by user id as they were online; users without a row are left out.
            user_ids: the users to compare, with or without a row.
            taken_in: `taken_in()` from before the rows were read.
        """
        published = read_histories(self.home, self.codebook_id, user_ids)
        clicks = self._log.clicks_of(user_ids)
        items = {one.item_id for its in clicks.values() for one in its}
        codes = self._reader.read_item_codes(sorted(items))
        empty = no_history(self.codebook_id, _code_bytes(codes, published, rows))
        older = self._codes_so_far()
        mismatches, unknown, waiting = [], [], 0
        for user in user_ids:
            if not (user in rows or user in published or clicks[user]):
                unknown.append(user)
                continue
            late = [one for one in clicks[user] if one.position > taken_in]
            waiting += len(late)
            mismatch = _nearest(
                user, rows.get(user, empty), published.get(user, empty), clicks[user], late, codes
            )
            if mismatch.other_codes:
                # A changed item's events keep the code they were given.
                held = dict(zip(rows[user].item_ids, map(bytes, rows[user].codes), strict=True))
                wrong = [one for one in mismatch.other_codes if (one, held[one]) not in older]
                mismatch = replace(mismatch, other_codes=tuple(wrong))
            if len(mismatch):
                mismatches.append(mismatch)
        compared = len(user_ids) - len(unknown)
        return ParityReport(compared, tuple(unknown), tuple(mismatches), waiting)

    def _codes_so_far(self) -> set[tuple[str, bytes]]:
        """Items that were published again, each with all the codes it has had."""
        parts = [
            part
            for path in publications(self.home.catalogue / self.codebook_id)
            if (part := read([path])) is not None
        ]
        found = {
            (item, bytes(code))
            for part in parts
            for item, code in zip(part.item_ids, part.codes, strict=True)
        }
        items = sorted({item for item, _ in found})
        if items:
            first = read_item_codes(self.home, self.codebook_id, items, since=False)
            found |= {(item, bytes(code)) for item, code in first.items()}
        return found


def difference(user_id: str, row: History, expected: History) -> Mismatch:
    """Compare a row with what it should be, event by event."""
    held, wanted = (
        Counter(zip(h.item_ids, h.times.tolist(), strict=True)) for h in (row, expected)
    )
    missing, extra = sorted((wanted - held).elements()), sorted((held - wanted).elements())
    right = dict(zip(expected.item_ids, map(bytes, expected.codes), strict=True))
    actual = zip(row.item_ids, map(bytes, row.codes), strict=True)
    other = {item for item, code in actual if item in right and right[item] != code}
    order = not missing and not extra and list(row.item_ids) != list(expected.item_ids)
    return Mismatch(user_id, tuple(missing), tuple(extra), tuple(sorted(other)), order)


def _nearest(
    user_id: str, row: History, published: History, clicks: Sequence[Click],
    late: Sequence[Click], codes: Mapping[str, NDArray[np.uint8]],
) -> Mismatch:  # fmt: skip
    """Compare a row with each state it may be in by now; the least difference."""
    ends = sorted(one.position for one in late)
    first = ends[0] - 1 if ends else max((one.position for one in clicks), default=0)
    found = []
    for end in [first, *ends[-1:], *ends[:-1]][:_MAX_STATES]:
        known = [one for one in clicks if one.position <= end]
        found.append(difference(user_id, row, with_clicks(published, known, codes)))
        if not len(found[-1]):
            break
    return min(found, key=len)


def _code_bytes(codes: Mapping[str, NDArray[np.uint8]], *histories: Mapping[str, History]) -> int:
    widths = [len(code) for code in codes.values()]
    widths += [one.codes.shape[1] for some in histories for one in some.values()]
    return widths[0] if widths else 0
