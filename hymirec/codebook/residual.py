"""The residual codebook on cosine similarity (HyMiRec, section on the cosine residual codebook).

N vectors, D width, M layers, K entries a layer. Layer by layer a vector takes the centroid c
nearest in direction and hands on the part orthogonal to it:

    scale = r·c / ‖c‖²,   r ← r − scale · c,   vector ≈ Σ scale · c

Centroids are kept at unit length, so the scale is r·c. Because every residual is orthogonal to
the centroid before it, its norm can only fall.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from hymirec.codebook.base import Codebook, checked_vectors, draw_pool, fits, usable_entries
from hymirec.codebook.kmeans import balanced_cosine_kmeans
from hymirec.codebook.packing import bytes_per_item, pack_codes, unpack_codes, unpack_indices
from hymirec.errors import DataError

WARM_PART = 3
"""From a codebook that is there, one iteration in so many."""
_LONGEST = torch.finfo(torch.float16).max


class ResidualConfig(BaseModel):
    """Settings of the paper's codebook; the paper's own are three layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["residual"] = "residual"
    num_layers: PositiveInt = 3
    """M: centroids an item is told by."""
    num_entries: int = Field(256, ge=1, le=65_536)
    """K: centroids of a layer; up to 256 take one byte an index."""
    num_iterations: PositiveInt = 15
    """Rounds of balanced k-means in each layer."""
    max_pool: PositiveInt = 65_536
    """Vectors that centroids are fitted on, drawn at random when there are more."""


class ResidualCodebook(Codebook):
    """The paper's codebook.

    Attributes:
        centroids: unit vectors [M, K, D] (a row is zero where a layer had nothing left to learn).
    """

    tensor_name = "centroids"
    _digest_prefix = b""
    centroids: Tensor

    @classmethod
    def fit(
        cls, vectors: Tensor, config: ResidualConfig, *, seed: int = 0,
        start: ResidualCodebook | None = None,
    ) -> Self:  # fmt: skip
        """Learn the centroids from a base pool of vectors [N, D].

        With fewer vectors than entries, a layer has as many entries as there are vectors. From
        the centroids of a codebook of the same shape a third of the iterations do.

        Raises:
            DataError: there are no vectors, or some are not finite.
        """
        generator = torch.Generator().manual_seed(seed)
        pool = draw_pool(vectors, config.max_pool, generator)
        num_entries = usable_entries(config.num_entries, len(pool))
        warm = fits(start, config.num_layers, num_entries, pool.shape[1])
        iterations = -(-config.num_iterations // WARM_PART) if warm else config.num_iterations
        layers = []
        residual = pool
        for layer in range(config.num_layers):
            centroids = balanced_cosine_kmeans(
                residual, num_entries, num_iterations=iterations, generator=generator,
                start=start.tensor[layer].to(pool.device) if start is not None and warm else None,
            )  # fmt: skip
            layers.append(centroids)
            _, _, residual = _take_nearest(residual, centroids)
        return cls(torch.stack(layers))

    @property
    def bytes_per_item(self) -> int:
        """Bytes of one packed code: M indices and M scales of two bytes."""
        return bytes_per_item(self.num_layers, self.num_entries)

    def encode(self, vectors: Tensor, *, batch_size: int = 16_384) -> Tensor:
        """Vectors [N, D] to packed codes, uint8 [N, bytes_per_item].

        Raises:
            DataError: some vectors are not finite, or so long that half precision cannot hold
                their scales; or they are of another width than the codebook.
        """
        parts = []
        for residual in checked_vectors(vectors, self.width).split(batch_size):
            too_long = int((residual.norm(dim=1) > _LONGEST).sum())
            if too_long:
                raise DataError(
                    f"codebook: {too_long} vectors are longer than {_LONGEST:.0f}, "
                    "the largest scale of half precision"
                )
            indices, scales = [], []
            for centroids in self.centroids:
                index, scale, residual = _take_nearest(residual, centroids)
                indices.append(index)
                scales.append(scale)
            layers = torch.stack(indices, dim=1), torch.stack(scales, dim=1)
            parts.append(pack_codes(*layers, self.num_entries))
        return torch.cat(parts)

    def decode(self, packed: Tensor, *, depth: int | None = None) -> Tensor:
        """Packed codes, uint8 [..., bytes_per_item], to vectors [..., D]: Σ scale · centroid."""
        indices, scales = unpack_codes(packed, self.num_layers, self.num_entries)
        vectors = scales[..., :1] * self.centroids[0][indices[..., 0]]
        for layer in range(1, depth or self.num_layers):
            scale = scales[..., layer, None]
            vectors = vectors + scale * self.centroids[layer][indices[..., layer]]
        return vectors

    def indices(self, packed: Tensor) -> Tensor:
        """The entries that packed codes [..., bytes_per_item] name, int64 [..., M]."""
        return unpack_indices(packed, self.num_layers, self.num_entries)


def _take_nearest(residual: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One layer for residuals [N, D]: index [N], scale [N] and what remains [N, D].

    The centroids have unit length, so the largest dot product is the largest cosine.
    """
    scale, index = (residual @ centroids.T).max(dim=1)
    return index, scale, residual - scale[:, None] * centroids[index]
