"""Several processes that train one model together, started by `torchrun`.

Each process runs the same program on a share of every batch. What has to be the same everywhere is
computed by the first process and handed to the others; files are written by the first alone. With
one process all of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from torch import Tensor, distributed, nn

Result = TypeVar("Result")


def join_processes() -> None:
    """Meet the other processes, if `torchrun` started any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=not torch.accelerator.is_available())


def num_processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _several() else 1


def process_index() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if _several() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and reports."""
    return process_index() == 0


def on_main(compute: Callable[[], Result]) -> Result:
    """What the first process computes, in every process; an error there is raised everywhere.

    The result travels by pickle. All processes have to call this, in the same order.
    """
    if not _several():
        return compute()
    answer: list[object] = [None, None]
    if is_main():
        try:
            answer[0] = compute()
        except Exception as error:  # whatever it is, the others must not wait for it
            answer[1] = error
    distributed.broadcast_object_list(answer, src=0)
    if isinstance(answer[1], Exception):
        raise answer[1]
    return cast(Result, answer[0])


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if _several():
        value = value.clone()
        distributed.all_reduce(value)
    return value


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers; parameters are alike already."""
    if _several():
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
