"""What every codebook does: vectors to packed codes and back, and a report on how well.

N vectors, D width, M layers, K entries a layer.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from hymirec.errors import DataError

log = logging.getLogger(__name__)

_HEALTH_BATCH = 16_384


class Codebook(nn.Module, ABC):
    """Turns vectors into packed codes and back.

    Its content is one tensor of entries [M, K, D] under the buffer name `tensor_name`, which also
    tells the kind of codebook wherever its tensors are stored.
    """

    tensor_name: ClassVar[str]

    def __init__(self, entries: Tensor) -> None:
        super().__init__()
        self.register_buffer(self.tensor_name, entries.float().contiguous())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild from a state dict."""
        return cls(tensors[cls.tensor_name])

    @property
    def tensor(self) -> Tensor:
        """All entries [M, K, D]."""
        return self.get_buffer(self.tensor_name)

    @property
    def num_layers(self) -> int:
        """M."""
        return self.tensor.shape[0]

    @property
    def num_entries(self) -> int:
        """K."""
        return self.tensor.shape[1]

    @property
    def width(self) -> int:
        """D."""
        return self.tensor.shape[2]

    @property
    @abstractmethod
    def bytes_per_item(self) -> int:
        """Bytes of one packed code."""

    @property
    def id(self) -> str:
        """Digest of kind and content, 12 hex digits: codes mean nothing under another codebook."""
        content = self.tensor.cpu().numpy()
        digest = hashlib.sha256(self._digest_prefix + repr(content.shape).encode())
        digest.update(content.tobytes())
        return digest.hexdigest()[:12]

    _digest_prefix: ClassVar[bytes]
    """Tells kinds of equal entries apart."""

    @abstractmethod
    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors [N, D] to packed codes, uint8 [N, bytes_per_item].

        Raises:
            DataError: some vectors are not finite, or of another width than the codebook.
        """

    @abstractmethod
    def decode(self, packed: Tensor, *, depth: int | None = None) -> Tensor:
        """Packed codes, uint8 [..., bytes_per_item], to vectors [..., D].

        Args:
            packed: codes of this codebook.
            depth: leave out all layers after so many.
        """

    @abstractmethod
    def indices(self, packed: Tensor) -> Tensor:
        """The entries that packed codes [..., bytes_per_item] name, int64 [..., M]."""

    def health(self, vectors: Tensor) -> dict[str, float]:
        """How well the codebook serves vectors [N, D].

        Returns:
            `cosine`: mean cosine between vectors and their decoding, a zero vector counting as 0;
            `collision_rate`: share of vectors whose entries, scales aside, another vector also
            has; per layer `cosine_i`, the mean cosine after so many layers, `utilisation_i`, the
            share of entries in use, and `perplexity_i`, entries in effective use, 1..K.
        """
        packed = self.encode(vectors)
        indices = self.indices(packed)
        _, inverse, counts = indices.unique(dim=0, return_inverse=True, return_counts=True)
        collision_rate = (counts[inverse] > 1).float().mean().item()
        report = {"cosine": 0.0, "collision_rate": collision_rate}
        for layer in range(self.num_layers):
            share = torch.bincount(indices[:, layer], minlength=self.num_entries) / len(vectors)
            report[f"cosine_{layer + 1}"] = self._mean_cosine(vectors, packed, layer + 1)
            report[f"utilisation_{layer + 1}"] = (share > 0).float().mean().item()
            report[f"perplexity_{layer + 1}"] = torch.special.entr(share).sum().exp().item()
        report["cosine"] = report[f"cosine_{self.num_layers}"]
        return report

    def _mean_cosine(self, vectors: Tensor, packed: Tensor, depth: int) -> float:
        """Of vectors [N, D] and what the first layers of their codes decode to."""
        cosines = [
            cosine_similarity(batch.float(), self.decode(codes, depth=depth), dim=1)
            for batch, codes in zip(
                vectors.split(_HEALTH_BATCH), packed.split(_HEALTH_BATCH), strict=True
            )
        ]
        return torch.cat(cosines).mean().item()

    def save(self, path: Path) -> None:
        """Write to a safetensors file, for `hymirec.codebook.load_codebook`."""
        save_file(self.state_dict(), path, metadata={"id": self.id})


def draw_pool(vectors: Tensor, max_pool: int, generator: torch.Generator) -> Tensor:
    """The vectors [N, D] to fit on: all in order, or that many at random where there are more.

    Raises:
        DataError: there are none, or some are not finite.
    """
    if not len(vectors):
        raise DataError("codebook: no vectors to fit on")
    pool = checked_vectors(vectors)
    if len(pool) > max_pool:
        pool = pool[torch.randperm(len(pool), generator=generator)[:max_pool]]
    return pool


def fits(start: Codebook | None, num_layers: int, num_entries: int, width: int) -> bool:
    """Whether a codebook has the shape of the one to be fitted, so that fitting can start there."""
    if start is not None and start.tensor.shape != (num_layers, num_entries, width):
        log.info(
            "codebook: %d × %d × %d before, %d × %d × %d now: fitting from nothing",
            *start.tensor.shape, num_layers, num_entries, width,
        )  # fmt: skip
        return False
    return start is not None


def usable_entries(asked_for: int, num_vectors: int) -> int:
    """K: as many entries as asked for, or as many as there are vectors, which is logged."""
    if num_vectors < asked_for:
        log.warning(
            "codebook: %d entries asked for, %d vectors to learn them from: using %d",
            asked_for, num_vectors, num_vectors,
        )  # fmt: skip
    return min(asked_for, num_vectors)


def checked_vectors(vectors: Tensor, width: int | None = None) -> Tensor:
    """Vectors [N, D] as float32.

    Raises:
        DataError: some hold NaN or infinity, or are too long for their length to be a float32; or
            D is not the width wanted.
    """
    if vectors.dim() != 2 or width not in (None, vectors.shape[1]):
        wanted = "N × D" if width is None else f"N × {width}"
        shape = " × ".join(str(size) for size in vectors.shape)
        raise DataError(f"codebook: vectors of shape {shape} where {wanted} are needed")
    vectors = vectors.detach().float()
    bad = ~vectors.pow(2).sum(dim=1).isfinite()
    if bad.any():
        raise DataError(
            f"codebook: {int(bad.sum())} of {len(vectors)} vectors are not finite, "
            f"row {int(bad.nonzero()[0])} the first"
        )
    return vectors
