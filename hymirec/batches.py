"""Which examples a training step sees, and what is drawn at random for them.

Everything random is a function of the seed and of a number: the order of examples of the epoch,
an example of the epoch and its own number, a step of the step's number. Nothing depends on what ran
before or on which process asks, so a training resumed at any step, or shared by several processes,
sees what an uninterrupted single process would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Place = tuple[int, int]
"""Epoch, and number of the example."""


class Stream(IntEnum):
    """What random numbers are for: the same step and epoch number must not give the same ones."""

    ORDER = 1
    EXAMPLE = 2
    STEP = 3


def mix_seed(*numbers: int) -> int:
    """Mix whole numbers into 63 bits; neighbours give unrelated results (splitmix64's steps)."""
    mask = (1 << 64) - 1
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


def seed_step(seed: int, step: int, device: torch.device) -> None:
    """Set torch's global generators to what step `step` draws from, in every process alike."""
    mixed = mix_seed(seed, Stream.STEP, step)
    if device.type == "cpu":
        # `torch.manual_seed` asks after every kind of device, which takes a hundred times as long.
        torch.default_generator.manual_seed(mixed)
    else:
        torch.manual_seed(mixed)


class SeededExamples(Dataset):
    """Examples by epoch and number, each from a global generator seeded for it alone."""

    def __init__(self, examples: Dataset[Any], seed: int) -> None:
        self.examples = examples
        self.seed = seed

    def __len__(self) -> int:
        # By number, so it has a length, which torch's type does not say.
        return len(self.examples)  # type: ignore[arg-type]

    def __getitem__(self, place: Place) -> Any:
        torch.default_generator.manual_seed(mix_seed(self.seed, Stream.EXAMPLE, *place))
        return self.examples[place[1]]


class SharedBatches(Sampler[list[Place]]):
    """This process's share of every batch of an epoch, in the epoch's own order.

    The batches are the same however many processes share them; the last may be smaller.
    """

    def __init__(
        self, num_examples: int, batch_size: int, seed: int, *, process: int = 0, processes: int = 1
    ) -> None:
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.process = process
        self.processes = processes
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.num_examples / self.batch_size)

    def __iter__(self) -> Iterator[list[Place]]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, Stream.ORDER, self.epoch))
        order = torch.randperm(self.num_examples, generator=generator)
        for batch in order.split(self.batch_size):
            share = batch[self.process :: self.processes]
            if not len(share):  # see `is_idle`
                share = batch[:1]
            yield [(self.epoch, example) for example in share.tolist()]

    def set_epoch(self, epoch: int) -> None:
        """Go on to an epoch, counted from 0."""
        self.epoch = epoch

    def is_idle(self, step: int) -> bool:
        """Whether this process has no share of a step's batch, fewer examples than processes.

        It has to take part all the same: it repeats another's example, which must count nothing.
        """
        first = step % len(self) * self.batch_size
        return min(self.batch_size, self.num_examples - first) <= self.process


class BatchLoader(DataLoader):
    """Batches as a model takes them."""

    def __init__(
        self,
        examples: SeededExamples,
        batches: SharedBatches,
        collate: Callable[[list[Any]], dict[str, Tensor]],
    ) -> None:
        super().__init__(
            examples,
            batch_sampler=batches,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Go on to an epoch, counted from 0; the trainer calls this."""
        self.batches.set_epoch(epoch)
