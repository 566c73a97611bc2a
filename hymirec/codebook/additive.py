"""A codebook of one-byte entries that add up: no scales, and every byte buys an entry.

N vectors, D width, M layers, K entries a layer, B codes kept for each vector while searching.

    vector ≈ Σ_m entries[m, index_m]

Two thirds of the bytes of the paper's codes are scales. Without them the same bytes hold three
times as many layers, and three things make up for what the scales did:

- layers are learned one after another by k-means that starts in the few directions of largest
  variance and widens, on what the best few codes so far leave of every vector (the way of
  additive and residual quantisers with beams: Babenko and Lempitsky, 2014; Liu et al., 2015);
- when all layers stand, one least-squares problem gives all entries anew for the codes found;
- codes are found by beam search, not layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import embedding_bag

from hymirec.codebook import beam as beam_search
from hymirec.codebook.base import Codebook, checked_vectors, draw_pool, fits, usable_entries
from hymirec.codebook.kmeans import widening_kmeans
from hymirec.codebook.packing import bytes_per_item, pack_codes, unpack_indices

WARM_REFITS = 2
"""Rounds of codes and entries when starting from a codebook that is there."""
_BEAM_FITTED_ON = 4
"""Codes of each vector whose remainders the next layer is learned from."""
_FEWEST_AXES = 128
"""Principal directions always kept: among so few, time hardly depends on their number."""
_FEWEST_NUMBERS = 2**18
"""Numbers of the pool always kept: of few vectors so little is lost that all directions show."""


class AdditiveConfig(BaseModel):
    """Settings of the codebook; the defaults make nine bytes an item."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["additive"] = "additive"
    num_layers: PositiveInt = 9
    """M: entries an item is told by."""
    num_entries: int = Field(256, ge=1, le=65_536)
    """K: entries of a layer; up to 256 take one byte an index."""
    beam: PositiveInt = 6
    """Codes kept for each vector while it is encoded."""
    num_refits: NonNegativeInt = 1
    """Rounds in which all entries are fitted together to the codes found."""
    prior_weight: PositiveFloat = 5.0
    """How many vectors each entry's first value counts for in a refit; less fits the pool more
    closely and vectors that are not in it less well."""
    kept_variance: float = Field(0.93, gt=0, le=1)
    """Layers are learned in as many principal directions as hold this share of the variance, but
    in no fewer than 128, or all where vectors are few; the refit is in all."""
    max_pool: PositiveInt = 65_536
    """Vectors that entries are fitted on, drawn at random when there are more."""


class AdditiveCodebook(Codebook):
    """Codes of entries that add up.

    Attributes:
        entries: [M, K, D].
        beam: int64 [], codes kept for each vector while encoding. No part of the `id`: codes found
            with any beam mean the same, they only come closer or less close.
    """

    tensor_name = "entries"
    _digest_prefix = b"additive"
    entries: Tensor
    beam: Tensor

    def __init__(self, entries: Tensor, *, beam: int = 6) -> None:
        super().__init__(entries)
        self.register_buffer("beam", torch.tensor(beam))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild from a state dict."""
        return cls(tensors["entries"], beam=int(tensors["beam"]))

    @classmethod
    def fit(
        cls, vectors: Tensor, config: AdditiveConfig, *, seed: int = 0,
        start: AdditiveCodebook | None = None,
    ) -> Self:  # fmt: skip
        """Learn the entries from a base pool of vectors [N, D].

        With fewer vectors than entries, a layer has as many entries as there are vectors. Works on
        the CPU wherever the vectors are, and gives a codebook that is where they are. From the
        entries of a codebook of the same shape only codes are found and entries refitted to them.

        Raises:
            DataError: there are no vectors, or some are not finite.
        """
        generator = torch.Generator().manual_seed(seed)
        pool = draw_pool(vectors, config.max_pool, generator).cpu()
        pool = pool[torch.randperm(len(pool), generator=generator)]
        num_entries = usable_entries(config.num_entries, len(pool))
        if start is not None and fits(start, config.num_layers, num_entries, pool.shape[1]):
            entries = start.entries.cpu()
            for _ in range(WARM_REFITS):
                codes = beam_search.search(pool, entries, config.beam)
                entries = refit(pool, codes, entries, config.prior_weight)
            return cls(entries.to(vectors.device), beam=config.beam)
        middle = pool.mean(dim=0)
        pool = pool - middle
        axes = principal_axes(pool, config.kept_variance)
        entries, codes = _grow(pool @ axes, num_entries, config, generator)
        entries = entries @ axes.T
        for i in range(config.num_refits):
            if i:
                codes = beam_search.search(pool, entries, config.beam)
            entries = refit(pool, codes, entries, config.prior_weight)
        entries[0] += middle
        return cls(entries.to(vectors.device), beam=config.beam)

    @property
    def bytes_per_item(self) -> int:
        """Bytes of one packed code: M indices."""
        return bytes_per_item(self.num_layers, self.num_entries, scaled=False)

    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors [N, D] to packed codes, uint8 [N, bytes_per_item].

        Raises:
            DataError: some vectors are not finite, or of another width than the codebook.
        """
        vectors = checked_vectors(vectors, self.width)
        codes = beam_search.search(vectors, self.entries, int(self.beam))
        return pack_codes(codes, None, self.num_entries)

    def decode(self, packed: Tensor, *, depth: int | None = None) -> Tensor:
        """Packed codes, uint8 [..., bytes_per_item], to vectors [..., D]: Σ entries."""
        depth = depth or self.num_layers
        flat = _flat(self.indices(packed), self.num_entries)[..., :depth]
        sums = embedding_bag(flat.reshape(-1, depth), self.entries.flatten(0, 1), mode="sum")
        return sums.view(*packed.shape[:-1], self.width)

    def indices(self, packed: Tensor) -> Tensor:
        """The entries that packed codes [..., bytes_per_item] name, int64 [..., M]."""
        return unpack_indices(packed, self.num_layers, self.num_entries)


def principal_axes(pool: Tensor, kept_variance: float) -> Tensor:
    """The directions of largest variance of centred vectors [N, D], largest first: [D, d].

    d is the fewest that hold the share of the variance asked for; or where they are more, but never
    above D, `_FEWEST_AXES` or `_FEWEST_NUMBERS` / N.
    """
    variances, axes = torch.linalg.eigh(pool.T @ pool)
    share = variances.flip(0).clamp(min=0).double().cumsum(0)
    count = max(int((share < kept_variance * share[-1]).sum()) + 1, _FEWEST_AXES)
    count = max(count, _FEWEST_NUMBERS // len(pool))
    return axes.flip(1)[:, :count].contiguous()


def refit(pool: Tensor, codes: Tensor, entries: Tensor, prior_weight: float) -> Tensor:
    """All entries anew, for codes as they are, by least squares with the entries as a prior.

    Minimises Σ_n ‖x_n − Σ_m entries[m, codes_nm]‖² + prior_weight · ‖entries − prior‖². With B the
    N × M·K matrix of which entries a vector takes, the change from the prior solves

        (BᵀB + prior_weight · I) change = Bᵀ (x − B prior).

    Args:
        pool: [N, D].
        codes: int64 [N, M].
        entries: the prior [M, K, D]; an entry that no code takes stays as it is.
        prior_weight: above 0; the problem has no one answer without.
    """
    num_layers, num_entries, width = entries.shape
    count = num_layers * num_entries
    flat = _flat(codes, num_entries)
    prior = entries.reshape(count, width)
    remainder = pool - embedding_bag(flat, prior, mode="sum")
    taken = csr_array(
        (
            np.ones(flat.numel(), dtype=np.float32),
            flat.numpy().ravel(),
            np.arange(0, flat.numel() + 1, num_layers),
        ),
        shape=(len(pool), count),
    )
    together = torch.from_numpy((taken.T @ taken).toarray())
    together.diagonal().add_(prior_weight)
    change = torch.cholesky_solve(
        torch.from_numpy(taken.T @ remainder.numpy()), torch.linalg.cholesky(together)
    )
    return (prior + change).view(num_layers, num_entries, width)


def _grow(
    pool: Tensor, num_entries: int, config: AdditiveConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Learn layer after layer on vectors [N, d], coordinates by variance.

    Returns:
        Entries [M, K, d] and the best codes found on the way, int64 [N, M].
    """
    width = pool.shape[1]
    entries = pool.new_empty(0, width)  # grows to [M·K, d]
    codes, costs = beam_search.start(pool)
    for _ in range(config.num_layers):
        left = _remainders(pool, entries, codes[:, :_BEAM_FITTED_ON])
        layer = widening_kmeans(left, num_entries, generator=generator)
        products = entries @ layer.T
        parts = [
            beam_search.extend(
                part_codes, part_costs, beam_search.costs_alone(part, layer), products, config.beam
            )
            for part, part_codes, part_costs in zip(
                pool.split(beam_search.ROWS),
                codes.split(beam_search.ROWS),
                costs.split(beam_search.ROWS),
                strict=True,
            )
        ]
        codes = torch.cat([part[0] for part in parts])
        costs = torch.cat([part[1] for part in parts])
        entries = torch.cat([entries, layer])
    first_of_layer = torch.arange(config.num_layers) * num_entries
    return entries.view(-1, num_entries, width), codes[:, 0] - first_of_layer


def _remainders(pool: Tensor, entries: Tensor, codes: Tensor) -> Tensor:
    """What codes [N, B, m] into entries [m·K, d] leave of vectors [N, d]: [N·B, d]."""
    num_vectors, kept, depth = codes.shape
    if not depth:
        return pool
    left = pool.new_empty(num_vectors, kept, pool.shape[1])
    for start in range(0, num_vectors, beam_search.ROWS):
        part = slice(start, start + beam_search.ROWS)
        sums = embedding_bag(codes[part].reshape(-1, depth), entries, mode="sum")
        torch.sub(pool[part, None], sums.view(-1, kept, pool.shape[1]), out=left[part])
    return left.flatten(0, 1)


def _flat(indices: Tensor, num_entries: int) -> Tensor:
    """Indices [..., M] within layers as places among all M·K entries."""
    return indices + torch.arange(indices.shape[-1], device=indices.device) * num_entries
