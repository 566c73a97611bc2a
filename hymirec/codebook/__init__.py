"""Codebooks: item embeddings as a few bytes, and back.

`residual` is the paper's, `additive` the one of our own, `kinds` chooses between them by settings,
file or tensors; callers need no more than the names below.
"""

from hymirec.codebook.additive import AdditiveCodebook, AdditiveConfig
from hymirec.codebook.base import Codebook
from hymirec.codebook.kinds import (
    PRESETS,
    CodebookConfig,
    ExactConfig,
    codebook_from_tensors,
    fit_codebook,
    load_codebook,
)
from hymirec.codebook.residual import ResidualCodebook, ResidualConfig

__all__ = [
    "PRESETS",
    "AdditiveCodebook",
    "AdditiveConfig",
    "Codebook",
    "CodebookConfig",
    "ExactConfig",
    "ResidualCodebook",
    "ResidualConfig",
    "codebook_from_tensors",
    "fit_codebook",
    "load_codebook",
]
