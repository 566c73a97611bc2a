"""Texts to vectors in a process of its own, which gets ready while this one does other things.

Of the time that it takes to publish a few items nearly all goes into importing libraries, and the
encoder's are half of them: on a second core they cost no time. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hymirec.errors import HymirecError

Embed = Callable[[Path, Sequence[str], Sequence[int]], Any]
"""From an encoder's directory, n texts and item indices to unit vectors, float32 [n, D]."""


def embed(directory: Path, texts: Sequence[str], items: Sequence[int]) -> Any:
    """`hymirec.frozen.FrozenEncoder.embed`, as an array, in this process."""
    from hymirec.frozen import FrozenEncoder

    return FrozenEncoder.load(directory).embed(texts, items).numpy()


@contextmanager
def embedding_process() -> Iterator[Embed]:
    """Start a process that imports what it takes, and give the function that asks it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_get_ready)

        def ask(directory: Path, texts: Sequence[str], items: Sequence[int]) -> Any:
            try:
                return pool.submit(embed, directory, texts, items).result()
            except BrokenProcessPool as error:
                raise HymirecError("the process that reads item texts ended by itself") from error

        yield ask


def _get_ready() -> None:
    import hymirec.frozen  # noqa: F401
