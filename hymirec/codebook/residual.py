"""The residual codebook on cosine similarity (HyMiRec, section on the cosine residual codebook).

N vectors, D width, M layers, K entries a layer. Layer by layer a vector takes the centroid c
nearest in direction and hands on the part orthogonal to it:

    scale = r·c / ‖c‖²,   r ← r − scale · c,   vector ≈ Σ scale · c

Centroids are kept at unit length, so the scale is r·c. Because every residual is orthogonal to
the centroid before it, its norm can only fall.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from hymirec.codebook.kmeans import balanced_cosine_kmeans
from hymirec.codebook.packing import bytes_per_item, pack_codes, unpack_codes

log = logging.getLogger(__name__)


class CodebookConfig(BaseModel):
    """Settings of the codebook; the paper's are three layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: PositiveInt = 3
    num_entries: int = Field(256, ge=1, le=65_536)
    num_iterations: PositiveInt = 15
    max_pool: PositiveInt = 65_536
    """Vectors that centroids are fitted on, drawn at random when there are more."""


class ResidualCodebook(nn.Module):
    """Turns vectors into packed codes and back.

    Attributes:
        centroids: unit vectors [M, K, D] (a row is zero where a layer had nothing left to learn).
    """

    centroids: Tensor

    def __init__(self, centroids: Tensor) -> None:
        super().__init__()
        self.register_buffer("centroids", centroids.float().contiguous())

    @classmethod
    def fit(cls, vectors: Tensor, config: CodebookConfig, *, seed: int = 0) -> Self:
        """Learn the centroids from a base pool of vectors [N, D].

        With fewer vectors than entries, a layer has as many entries as there are vectors.
        """
        generator = torch.Generator().manual_seed(seed)
        pool = vectors.float()
        if len(pool) > config.max_pool:
            pool = pool[torch.randperm(len(pool), generator=generator)[: config.max_pool]]
        num_entries = min(config.num_entries, len(pool))
        if num_entries < config.num_entries:
            log.warning(
                "codebook: %d entries asked for, %d vectors to learn them from: using %d",
                config.num_entries, len(pool), num_entries,
            )  # fmt: skip
        layers = []
        residual = pool
        for _ in range(config.num_layers):
            centroids = balanced_cosine_kmeans(
                residual, num_entries, num_iterations=config.num_iterations, generator=generator
            )
            layers.append(centroids)
            _, _, residual = _take_nearest(residual, centroids)
        return cls(torch.stack(layers))

    @property
    def num_layers(self) -> int:
        """M."""
        return self.centroids.shape[0]

    @property
    def num_entries(self) -> int:
        """K."""
        return self.centroids.shape[1]

    @property
    def width(self) -> int:
        """D."""
        return self.centroids.shape[2]

    @property
    def bytes_per_item(self) -> int:
        """Bytes of one packed code."""
        return bytes_per_item(self.num_layers, self.num_entries)

    @property
    def id(self) -> str:
        """Digest of the content, 12 hex digits: codes mean nothing under another codebook."""
        content = self.centroids.cpu().numpy()
        digest = hashlib.sha256(repr(content.shape).encode() + content.tobytes())
        return digest.hexdigest()[:12]

    def encode(self, vectors: Tensor, *, batch_size: int = 16_384) -> Tensor:
        """Vectors [N, D] to packed codes, uint8 [N, bytes_per_item]."""
        parts = []
        for residual in vectors.float().split(batch_size):
            indices, scales = [], []
            for centroids in self.centroids:
                index, scale, residual = _take_nearest(residual, centroids)
                indices.append(index)
                scales.append(scale)
            layers = torch.stack(indices, dim=1), torch.stack(scales, dim=1)
            parts.append(pack_codes(*layers, self.num_entries))
        return torch.cat(parts)

    def decode(self, packed: Tensor) -> Tensor:
        """Packed codes, uint8 [..., bytes_per_item], to vectors [..., D]: Σ scale · centroid."""
        indices, scales = unpack_codes(packed, self.num_layers, self.num_entries)
        vectors = scales[..., :1] * self.centroids[0][indices[..., 0]]
        for layer in range(1, self.num_layers):
            scale = scales[..., layer, None]
            vectors = vectors + scale * self.centroids[layer][indices[..., layer]]
        return vectors

    def health(self, vectors: Tensor) -> dict[str, float]:
        """How well the codebook serves vectors [N, D].

        Returns:
            `cosine`: mean cosine between vectors and their decoding; `collision_rate`: share of
            vectors whose entries, scales aside, another vector also has; per layer
            `utilisation_i`: share of entries in use, and `perplexity_i`: entries in effective use,
            1..K.
        """
        packed = self.encode(vectors)
        indices, _ = unpack_codes(packed, self.num_layers, self.num_entries)
        _, inverse, counts = indices.unique(dim=0, return_inverse=True, return_counts=True)
        report = {
            "cosine": cosine_similarity(vectors, self.decode(packed), dim=1).mean().item(),
            "collision_rate": (counts[inverse] > 1).float().mean().item(),
        }
        for layer in range(self.num_layers):
            share = torch.bincount(indices[:, layer], minlength=self.num_entries) / len(vectors)
            report[f"utilisation_{layer + 1}"] = (share > 0).float().mean().item()
            report[f"perplexity_{layer + 1}"] = torch.special.entr(share).sum().exp().item()
        return report

    def save(self, path: Path) -> None:
        """Write to a safetensors file."""
        save_file({"centroids": self.centroids}, path, metadata={"id": self.id})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            return cls(file.get_tensor("centroids"))


def _take_nearest(residual: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One layer for residuals [N, D]: index [N], scale [N] and what remains [N, D].

    The centroids have unit length, so the largest dot product is the largest cosine.
    """
    scale, index = (residual @ centroids.T).max(dim=1)
    return index, scale, residual - scale[:, None] * centroids[index]
