"""Training examples: what is cut out of a history, drawn anew every time.

C cut points, W window, N recent items. Positions are drawn from torch's global generator, which the
trainer seeds for every example (`hymirec.batches`), so that a resumed training sees what an
uninterrupted one would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hymirec.errors import DataError
from hymirec.inputs import IndexedHistory
from hymirec.tensors import assemble, pad

T = TypeVar("T")


class Examples(Dataset[T], ABC):
    """Drawn out of histories, long ones more often: about once per `events_per_example` events."""

    def __init__(self, histories: Sequence[IndexedHistory], events_per_example: int) -> None:
        self.histories = [history for history in histories if len(history) >= 2]
        if not self.histories:
            raise DataError(
                "no user has two events to train on, not counting those held back for "
                "validation and test"
            )
        self._which = [
            user
            for user, history in enumerate(self.histories)
            for _ in range(max(1, round(len(history) / events_per_example)))
        ]

    def __len__(self) -> int:
        return len(self._which)

    def user_of(self, example: int) -> int:
        """Place among `histories` of the user that an example is drawn from."""
        return self._which[example]

    def _history(self, example: int) -> IndexedHistory:
        return self.histories[self._which[example]]

    @abstractmethod
    def __getitem__(self, example: int) -> T: ...

    @abstractmethod
    def collate(self, examples: list[T]) -> dict[str, Tensor]:
        """Make a batch: the arguments of a model's `forward`."""


class NextItemExamples(Examples[IndexedHistory]):
    """Runs of at most `num_recent` + 1 items; every item is predicted from those before it."""

    def __init__(self, histories: Sequence[IndexedHistory], num_recent: int) -> None:
        super().__init__(histories, events_per_example=num_recent)
        self.num_items = num_recent + 1

    def __getitem__(self, example: int) -> IndexedHistory:
        """At most `num_recent` + 1 events, ending anywhere past the first half."""
        history = self._history(example)
        if len(history) <= self.num_items:
            return history
        end = _draw(self.num_items // 2 + 1, len(history))
        return history.until(end).last(self.num_items)

    def collate(self, examples: list[IndexedHistory]) -> dict[str, Tensor]:
        """Arguments of `SequenceRecommender.forward`."""
        return {
            "items": pad([example.items for example in examples]),
            "times": pad([example.times for example in examples]),
        }


@dataclass(frozen=True)
class CutPoints:
    """A history as it was at its last cut, and the windows after C cuts.

    Attributes:
        known: the events before the last cut.
        cuts: int64 [C], events of `known` that lie before each cut.
        targets: int64 [C, W], the next items after each cut, 0 where there are no more; a row
            of zeros where the history has fewer than C places to cut.
    """

    known: IndexedHistory
    cuts: NDArray[np.int64]
    targets: NDArray[np.int64]


class CutPointExamples(Examples[CutPoints]):
    """Histories cut at several points within their last `num_recent` events."""

    def __init__(
        self,
        histories: Sequence[IndexedHistory],
        *,
        num_recent: int,
        max_history: int,
        num_cuts: int,
        window: int,
    ) -> None:
        super().__init__(histories, events_per_example=num_recent)
        self.num_recent = num_recent
        self.max_history = max_history
        self.num_cuts = num_cuts
        self.window = window

    def __getitem__(self, example: int) -> CutPoints:
        """Draw where the history ends, then where it is cut; an item at least follows each cut."""
        history = self._history(example)
        end = _draw(min(self.num_recent // 2 + 1, len(history) - 1), len(history) - 1)
        places = np.arange(max(0, end - self.num_recent) + 1, end + 1)
        chosen = places[torch.randperm(len(places))[: self.num_cuts].numpy()]
        cuts = np.full(self.num_cuts, end)
        cuts[: len(chosen)] = chosen
        targets = np.zeros((self.num_cuts, self.window), dtype=np.int64)
        for row, cut in zip(targets, chosen, strict=False):
            ahead = history.items[cut : cut + self.window]
            row[: len(ahead)] = ahead
        return CutPoints(history.until(end), cuts, targets)

    def collate(self, examples: list[CutPoints]) -> dict[str, Tensor]:
        """Arguments of `HyMiRec.forward`."""
        inputs = assemble(
            [example.known for example in examples],
            max_history=self.max_history,
            num_recent=self.num_recent,
        )
        known = torch.tensor([len(example.known) for example in examples])[:, None]
        cuts = torch.from_numpy(np.stack([example.cuts for example in examples]))
        return {
            "history_codes": inputs["history_codes"],
            "recent_items": inputs["recent_items"],
            # Both inputs keep the end of what is known: count the cuts from where they begin.
            "history_cuts": (cuts - known + inputs["history_length"][:, None]).clamp(min=0),
            "recent_cuts": cuts - known + inputs["recent_length"][:, None],
            "targets": torch.from_numpy(np.stack([example.targets for example in examples])),
        }


def _draw(low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, ()))
