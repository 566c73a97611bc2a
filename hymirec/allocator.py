"""Memory that stays: what PyTorch frees on a CPU is kept for the next step.

glibc hands large blocks back to the system as soon as they are free and asks for them again a
moment later; the system then clears every page anew. The tables of a training step are large, and a
step on two cores spent half of its time so (docs/experiments.md).
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's malloc not to give memory back, for the rest of the process.

    Returns:
        Whether it was told; other C libraries go on as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))
