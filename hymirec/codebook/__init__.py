"""Codebooks: item embeddings as a few bytes, and back.

`residual` is the paper's, `additive` the one of our own, `kinds` chooses between them by settings,
file or tensors, `texts` fits one on a catalogue's items; callers need no more than the names below.
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
from hymirec.codebook.texts import fit_item_codebook, item_health

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
    "fit_item_codebook",
    "item_health",
    "load_codebook",
]
