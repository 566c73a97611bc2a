"""The content encoder after training: texts in, item vectors out, without any interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from hymirec.encoder import ItemTower, tokenise
from hymirec.errors import DataError, UsageError
from hymirec.models.nextitem import NextItemRecommender
from hymirec.seal import naming_the_place


@dataclass(frozen=True)
class FrozenEncoder:
    """A trained item tower with its tokenizer; nothing here trains."""

    tower: ItemTower
    tokenizer: Tokenizer

    @classmethod
    def load(cls, directory: Path) -> FrozenEncoder:
        """Read `first_stage/` and `tokenizer.json`.

        Raises:
            UsageError: one of them is missing.
            DataError: one of them is damaged.
        """
        tokenizer, model = directory / "tokenizer.json", directory / "first_stage"
        for path in (tokenizer, model / "weights.safetensors"):
            if not path.is_file():
                raise UsageError(f"the encoder is not there: {path} is missing")
        with naming_the_place(model):
            tower = NextItemRecommender.load(model).tower
        try:
            return cls(tower, Tokenizer.from_file(str(tokenizer)))
        except Exception as error:  # the library in Rust raises no kind more specific
            raise DataError(f"{tokenizer} cannot be read: {error}") from error

    def embed(self, texts: Sequence[str], items: Sequence[int]) -> Tensor:
        """Unit vectors [n, D] of texts (`hymirec.texts.item_texts`).

        Args:
            texts: n texts.
            items: n item indices. An item that was there in training keeps what behaviour taught
                of it, whatever its text says now; 0 and indices given out since are text alone.
        """
        settings = self.tower.settings
        tokens = tokenise(
            self.tokenizer, texts, settings.max_tokens, item_token=settings.pooling == "last"
        )
        known = torch.tensor([one if one <= self.tower.num_items else 0 for one in items])
        return self.tower.embed(tokens, known)
