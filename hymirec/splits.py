"""Which events are trained on, validated on and tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hymirec.errors import DataError
from hymirec.inputs import IndexedHistory
from hymirec.schema import MIN_EVENTS


@dataclass(frozen=True)
class Case:
    """One question to a recommender: this was known, what came next?"""

    known: IndexedHistory
    target: int


def asks_about(history: IndexedHistory) -> bool:
    """Whether a history is long enough to be validated and tested on."""
    return len(history) >= MIN_EVENTS


@dataclass(frozen=True)
class LeaveLastSplit:
    """The paper's protocol: a user's last event is tested, the one before it validates.

    Users with fewer than `MIN_EVENTS` events are trained on whole and never asked about.
    """

    histories: Sequence[IndexedHistory]

    def __post_init__(self) -> None:
        """Refuse data in which no user can be asked about."""
        if not any(map(asks_about, self.histories)):
            raise DataError(
                f"no user has {MIN_EVENTS} events: one to train on, one to validate, one to test"
            )

    @property
    def training(self) -> list[IndexedHistory]:
        """What may be trained on, of every user."""
        return [
            history.until(len(history) - 2) if asks_about(history) else history
            for history in self.histories
        ]

    @property
    def validation(self) -> list[Case]:
        """The last event but one, after all those before it."""
        return list(self._cases(back=2))

    @property
    def test(self) -> list[Case]:
        """The last event, after all those before it."""
        return list(self._cases(back=1))

    def _cases(self, back: int) -> Iterator[Case]:
        for history in self.histories:
            if asks_about(history):
                cut = len(history) - back
                yield Case(known=history.until(cut), target=int(history.items[cut]))


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
        for history in self.histories:
            is_cold = self.cold[history.items]
            if is_cold.any():
                last = int(np.flatnonzero(is_cold)[-1])
                known = history.until(last).only(~is_cold[:last])
                if len(known):
                    cases.append(Case(known, int(history.items[last])))
        return cases


def count_items(histories: Sequence[IndexedHistory], num_items: int) -> Tensor:
    """How often each item occurs: int64 [N + 1]."""
    events: NDArray[np.int64] = np.concatenate([history.items for history in histories])
    return torch.from_numpy(np.bincount(events, minlength=num_items + 1))
