"""Texts to vectors to codes in a process of its own, which gets ready while this one does others.

Of the time that it takes to publish a few items nearly all goes into importing libraries, and those
of the encoder are two thirds: on a second core they cost no time. Nothing heavy is imported here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hymirec.errors import HymirecError

if TYPE_CHECKING:
    from torch import Tensor

    from hymirec.codebook import Codebook


@dataclass(frozen=True)
class Coded:
    """n texts as a model has them.

    Attributes:
        vectors: unit vectors, float32 [n, D].
        codes: uint8 [n, B].
        cosine_error: mean of 1 - cosine between the vectors and what the codes decode to.
    """

    vectors: NDArray[np.float32]
    codes: NDArray[np.uint8]
    cosine_error: float


Code = Callable[[Path, Path, Sequence[str], Sequence[int]], Coded]
"""From the directories of an encoder and of a codebook, n texts and their item indices."""


def code(encoder: Path, codebook: Path, texts: Sequence[str], items: Sequence[int]) -> Coded:
    """Read texts and code them, in this process; items as `hymirec.frozen.FrozenEncoder.embed`."""
    from hymirec.codebook import load_codebook
    from hymirec.frozen import FrozenEncoder

    book = load_codebook(codebook / "codebook.safetensors")
    vectors = FrozenEncoder.load(encoder).embed(texts, items)
    codes = book.encode(vectors)
    return Coded(vectors.numpy(), codes.numpy(), cosine_error(book, vectors, codes))


def cosine_error(book: Codebook, vectors: Tensor, codes: Tensor) -> float:
    """Mean of 1 - cosine between vectors [n, D] and what their codes decode to."""
    from torch.nn.functional import cosine_similarity

    return 1 - float(cosine_similarity(vectors, book.decode(codes), dim=1).mean())


@contextmanager
def coding_process() -> Iterator[Code]:
    """Start a process that imports what it takes, and give the function that asks it."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs,), daemon=True)
    process.start()
    theirs.close()

    def ask(encoder: Path, codebook: Path, texts: Sequence[str], items: Sequence[int]) -> Coded:
        try:
            ours.send((encoder, codebook, texts, items))
            answer = ours.recv()
        except (EOFError, OSError) as error:
            raise HymirecError("the process that reads item texts ended by itself") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    try:
        yield ask
    finally:
        # It has nothing to put away, and may be importing still what nobody needs any more.
        process.kill()
        process.join()
        ours.close()


def _answer(asked: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    # Both now, while nobody waits.
    import hymirec.codebook
    import hymirec.frozen  # noqa: F401

    while True:
        try:
            answer: Coded | Exception = code(*asked.recv())
        except EOFError:
            return
        except Exception as error:  # whatever it is, whoever asked has to be told
            answer = error
        asked.send(answer)
