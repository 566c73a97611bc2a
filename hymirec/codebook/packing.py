"""Codes as bytes: M entry indices, then M projection scales in half precision.

The packed form is the only one that leaves the codebook: features, files and model inputs hold
uint8 rows of `bytes_per_item`, and every codebook that can pack and unpack fits them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bytes_per_item(num_layers: int, num_entries: int) -> int:
    """Bytes of one packed code."""
    return num_layers * (_index_bytes(num_entries) + 2)


def pack_codes(indices: Tensor, scales: Tensor, num_entries: int) -> Tensor:
    """Pack codes.

    Args:
        indices: int64 [..., M], each below `num_entries`.
        scales: float [..., M]; stored as float16, little-endian.
        num_entries: entries of a layer; up to 256 take one byte an index, more take two.

    Returns:
        uint8 [..., bytes_per_item].
    """
    low = (indices & 0xFF).to(torch.uint8)
    parts = [low]
    if _index_bytes(num_entries) == 2:
        parts.append((indices >> 8).to(torch.uint8))
    parts.append(scales.to(torch.float16).contiguous().view(torch.uint8))
    return torch.cat(parts, dim=-1)


def unpack_codes(packed: Tensor, num_layers: int, num_entries: int) -> tuple[Tensor, Tensor]:
    """Undo `pack_codes`: int64 indices [..., M] and float32 scales [..., M]."""
    indices = packed[..., :num_layers].long()
    offset = num_layers
    if _index_bytes(num_entries) == 2:
        indices = indices | (packed[..., offset : 2 * offset].long() << 8)
        offset *= 2
    # A copy: two bytes are read as one number only where they start at an even address.
    scales = packed[..., offset:].clone(memory_format=torch.contiguous_format).view(torch.float16)
    return indices, scales.float()


def _index_bytes(num_entries: int) -> int:
    if num_entries > 65_536:
        raise ValueError(f"num_entries is {num_entries}; two bytes index 65536 at the most")
    return 1 if num_entries <= 256 else 2
