"""A small catalogue without a world behind it: random unit items, their codebook, histories."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hymirec.codebook import ResidualCodebook, ResidualConfig
from hymirec.inputs import IndexedHistory

NUM_ITEMS, WIDTH = 40, 16


@pytest.fixture(scope="session")
def items() -> Tensor:
    """Unit vectors [41, 16]; row 0, padding, is zero."""
    generator = torch.Generator().manual_seed(0)
    vectors = normalize(torch.randn(NUM_ITEMS + 1, WIDTH, generator=generator), dim=1)
    vectors[0] = 0
    return vectors


@pytest.fixture(scope="session")
def codebook(items: Tensor) -> ResidualCodebook:
    """Two layers of eight entries: 6 bytes an item."""
    return ResidualCodebook.fit(items[1:], ResidualConfig(num_layers=2, num_entries=8))


@pytest.fixture(scope="session")
def history_of(items: Tensor, codebook: ResidualCodebook) -> Callable[..., IndexedHistory]:
    """Make the history of the given item indices, with their codes."""
    codes = codebook.encode(items).numpy()

    def make(indices: object) -> IndexedHistory:
        array = np.array(indices, dtype=np.int64)
        return IndexedHistory(array, codes[array])

    return make


@pytest.fixture(scope="session")
def random_histories(
    history_of: Callable[..., IndexedHistory],
) -> Callable[..., list[IndexedHistory]]:
    """Make histories of the given lengths, of items drawn at random."""

    def make(lengths: list[int], seed: int = 0) -> list[IndexedHistory]:
        rng = np.random.default_rng(seed)
        return [history_of(rng.integers(1, NUM_ITEMS + 1, length)) for length in lengths]

    return make
