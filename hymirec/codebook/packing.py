"""Codes as bytes: M entry indices, then, for a codebook that has them, M half-precision scales.

The packed form is the only one that leaves the codebook: features, files and model inputs hold
uint8 rows of `bytes_per_item`, and every codebook that can pack and unpack fits them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bytes_per_item(num_layers: int, num_entries: int, *, scaled: bool = True) -> int:
    """Bytes of one packed code, with or without a scale per layer."""
    return num_layers * (_index_bytes(num_entries) + 2 * scaled)


def pack_codes(indices: Tensor, scales: Tensor | None, num_entries: int) -> Tensor:
    """Pack codes.

    Args:
        indices: int64 [..., M], each below `num_entries`.
        scales: float [..., M], stored as float16, little-endian; None for codes without.
        num_entries: entries of a layer; up to 256 take one byte an index, more take two.

    Returns:
        uint8 [..., bytes_per_item].
    """
    parts = [(indices & 0xFF).to(torch.uint8)]
    if _index_bytes(num_entries) == 2:
        parts.append((indices >> 8).to(torch.uint8))
    if scales is not None:
        parts.append(scales.to(torch.float16).contiguous().view(torch.uint8))
    return torch.cat(parts, dim=-1)


def unpack_indices(packed: Tensor, num_layers: int, num_entries: int) -> Tensor:
    """The indices that `pack_codes` was given, int64 [..., M]."""
    indices = packed[..., :num_layers].long()
    if _index_bytes(num_entries) == 2:
        indices = indices | (packed[..., num_layers : 2 * num_layers].long() << 8)
    return indices


def unpack_codes(packed: Tensor, num_layers: int, num_entries: int) -> tuple[Tensor, Tensor]:
    """Undo `pack_codes` with scales: int64 indices [..., M] and float32 scales [..., M]."""
    indices = unpack_indices(packed, num_layers, num_entries)
    scales = packed[..., num_layers * _index_bytes(num_entries) :]
    # A copy: two bytes are read as one number only where they start at an even address.
    scales = scales.clone(memory_format=torch.contiguous_format).view(torch.float16)
    return indices, scales.float()


def _index_bytes(num_entries: int) -> int:
    if num_entries > 65_536:
        raise ValueError(f"num_entries is {num_entries}; two bytes index 65536 at the most")
    return 1 if num_entries <= 256 else 2
