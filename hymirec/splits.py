"""Which events are trained on, validated on and tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from hymirec.errors import DataError
from hymirec.inputs import IndexedHistory
from hymirec.schema import MIN_EVENTS


def _nothing() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Case:
    """One question to a recommender: this was known, what came next?

    Attributes:
        known: the events before.
        target: the next item.
        later: int64, items after it that count as found too where a window is asked about.
        user: place of the user among the histories, -1 where it does not matter.
    """

    known: IndexedHistory
    target: int
    later: NDArray[np.int64] = field(default_factory=_nothing)
    user: int = -1


class Split(Protocol):
    """What is trained on, and what validates and tests."""

    @property
    def training(self) -> list[IndexedHistory]:
        """What may be trained on, of every user."""

    @property
    def validation(self) -> list[Case]:
        """Questions to choose by."""

    @property
    def test(self) -> list[Case]:
        """Questions to report."""


def asks_about(history: IndexedHistory, window: int = 1) -> bool:
    """Whether a history is long enough to be validated and tested on."""
    return len(history) >= MIN_EVENTS + 2 * (window - 1)


@dataclass(frozen=True)
class LeaveLastSplit:
    """The paper's protocol: a user's last event is tested, the one before it validates.

    With a window of W, the last W events are tested together and the W before them validate. Users
    with too few events are trained on whole and never asked about.
    """

    histories: Sequence[IndexedHistory]
    window: int = 1

    def __post_init__(self) -> None:
        """Refuse data in which no user can be asked about."""
        if not any(asks_about(history, self.window) for history in self.histories):
            needed = MIN_EVENTS + 2 * (self.window - 1)
            raise DataError(
                f"no user has {needed} events: one to train on, {self.window} to validate, "
                f"{self.window} to test"
            )

    @property
    def training(self) -> list[IndexedHistory]:
        """What may be trained on, of every user."""
        return [
            history.until(len(history) - 2 * self.window)
            if asks_about(history, self.window)
            else history
            for history in self.histories
        ]

    @property
    def validation(self) -> list[Case]:
        """The last event but one (or window but one), after all those before it."""
        return list(self._cases(back=2 * self.window))

    @property
    def test(self) -> list[Case]:
        """The last event (or window), after all those before it."""
        return list(self._cases(back=self.window))

    def _cases(self, back: int) -> Iterator[Case]:
        for user, history in enumerate(self.histories):
            if asks_about(history, self.window):
                yield _case(user, history, len(history) - back, self.window)


@dataclass(frozen=True)
class GlobalTimeSplit:
    """Everybody's past is trained on, everybody's future is asked about: nothing leaks backwards.

    Leave-last trains on events of one user that lie after the test event of another, so a model
    may know what will be popular; here it cannot (Ji et al., TOIS 2023).

    Attributes:
        histories: of all users.
        validate_from: int64 [users], events of each that lie before the time of validation.
        test_from: int64 [users], events of each that lie before the time of the test.
        window: items after the cut that are targets.
    """

    histories: Sequence[IndexedHistory]
    validate_from: NDArray[np.int64]
    test_from: NDArray[np.int64]
    window: int = 1

    @classmethod
    def at(
        cls,
        histories: Sequence[IndexedHistory],
        *,
        validation_share: float = 0.05,
        test_share: float = 0.05,
        window: int = 1,
    ) -> GlobalTimeSplit:
        """Choose the two times so that the last shares of all events lie after them.

        Args:
            histories: of all users.
            validation_share: of all events, between the two times.
            test_share: of all events, from the second time on.
            window: as the attribute.

        Raises:
            DataError: no user has an event before the test and one after.
        """
        times = [history.times for history in histories]
        everything = np.sort(np.concatenate(times))
        places = len(everything) * (1 - np.array([test_share + validation_share, test_share]))
        validate, test = everything[places.astype(int).clip(0, len(everything) - 1)]
        before = np.array(
            [(np.searchsorted(own, validate), np.searchsorted(own, test)) for own in times]
        ).reshape(-1, 2)
        split = cls(histories, before[:, 0], before[:, 1], window)
        if not split.validate_from.any() or not split.validation or not split.test:
            raise DataError(
                "no user has events both before and after the time of the validation, or of the "
                "test: too many events share their time, or the shares are too small"
            )
        return split

    @property
    def training(self) -> list[IndexedHistory]:
        """All events before the time of validation; of some users there are none."""
        pairs = zip(self.histories, self.validate_from, strict=True)
        return [history.until(int(end)) for history, end in pairs]

    @property
    def validation(self) -> list[Case]:
        """The next item of every user with events before and between the two times."""
        return self._cases(self.validate_from, self.test_from)

    @property
    def test(self) -> list[Case]:
        """The next item of every user with events before and after the second time."""
        return self._cases(self.test_from, np.array([len(history) for history in self.histories]))

    def _cases(self, cuts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[Case]:
        return [
            _case(user, history.until(int(end)), int(cut), self.window)
            for user, (history, cut, end) in enumerate(zip(self.histories, cuts, ends, strict=True))
            if 0 < cut < end
        ]


def _case(user: int, history: IndexedHistory, cut: int, window: int) -> Case:
    ahead = history.items[cut : cut + window]
    return Case(history.until(cut), int(ahead[0]), ahead[1:], user)


@dataclass(frozen=True)
class ColdItemSplit:
    """Some items are kept out of training altogether, as if published afterwards.

    Attributes:
        histories: of all users.
        cold: bool [N + 1], True for the items kept out.
    """

    histories: Sequence[IndexedHistory]
    cold: NDArray[np.bool_]

    @classmethod
    def draw(
        cls, histories: Sequence[IndexedHistory], num_items: int, *, share: float, seed: int = 0
    ) -> ColdItemSplit:
        """Keep out a share of the items, drawn at random."""
        generator = np.random.default_rng(seed)
        return cls(histories, np.append(False, generator.random(num_items) < share))

    @property
    def training(self) -> list[IndexedHistory]:
        """The histories without the events of cold items."""
        return [history.only(~self.cold[history.items]) for history in self.histories]

    @property
    def test(self) -> list[Case]:
        """Of each user, the last event with a cold item, after all warm ones before it."""
        cases = []
        for user, history in enumerate(self.histories):
            is_cold = self.cold[history.items]
            if is_cold.any():
                last = int(np.flatnonzero(is_cold)[-1])
                known = history.until(last).only(~is_cold[:last])
                if len(known):
                    cases.append(Case(known, int(history.items[last]), user=user))
        return cases


class SplitConfig(BaseModel):
    """How a data set is split: the paper's protocol unless told otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["last", "time"] = "last"
    """`last`: see `LeaveLastSplit`. `time`: see `GlobalTimeSplit`."""
    window: PositiveInt = 1
    """Next items that are asked about together."""
    validation_share: float = Field(0.05, gt=0, lt=1)
    """Of all events; `time` only, as the next."""
    test_share: float = Field(0.05, gt=0, lt=1)
    """Of all events."""

    def of(self, histories: Sequence[IndexedHistory]) -> Split:
        """Split the histories of all users.

        Raises:
            DataError: nobody is left to be asked about.
        """
        if self.by == "last":
            return LeaveLastSplit(histories, self.window)
        return GlobalTimeSplit.at(
            histories,
            validation_share=self.validation_share,
            test_share=self.test_share,
            window=self.window,
        )


LEAVE_LAST = SplitConfig()
"""The paper's protocol."""


def count_items(histories: Sequence[IndexedHistory], num_items: int) -> Tensor:
    """How often each item occurs: int64 [N + 1]."""
    events: NDArray[np.int64] = np.concatenate([history.items for history in histories])
    return torch.from_numpy(np.bincount(events, minlength=num_items + 1))
