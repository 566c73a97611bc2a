"""Which codebook: by settings when fitting, by what a file or a model's weights hold afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from torch import Tensor

from hymirec.codebook.additive import AdditiveCodebook, AdditiveConfig
from hymirec.codebook.base import Codebook, checked_vectors
from hymirec.codebook.residual import ResidualCodebook, ResidualConfig
from hymirec.errors import DataError
from hymirec.seal import naming_the_place

MAX_EXACT = 65_536


class ExactConfig(BaseModel):
    """No codebook, to see what one costs: every vector is an entry, a code the place of its own.

    Of catalogues up to 65,536 items.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["exact"] = "exact"


AnyConfig = ResidualConfig | AdditiveConfig | ExactConfig
CodebookConfig = Annotated[AnyConfig, Field(discriminator="kind")]
"""Settings of any codebook; `kind` tells which."""

PRESETS: dict[str, AnyConfig] = {
    "paper": ResidualConfig(num_layers=3, num_entries=256),
    "compact": AdditiveConfig(num_layers=9, num_entries=256),
    "euclidean": AdditiveConfig(num_layers=9, num_entries=256, beam=1, num_refits=0),
}
"""Nine bytes an item, three ways.

`paper`: three indices and three scales. `compact`, our own: nine indices chosen together.
`euclidean`: nine indices, each layer nearest to what the one before it left, the plain residual
quantisation that the paper compares the cosine with.
"""

_KINDS: tuple[type[Codebook], ...] = (ResidualCodebook, AdditiveCodebook)


def fit_codebook(
    vectors: Tensor, config: AnyConfig, *, seed: int = 0, start: Codebook | None = None
) -> Codebook:
    """Learn a codebook of the kind that the settings are of.

    Args:
        vectors: the base pool [N, D].
        config: for example one of `PRESETS`.
        seed: of the draws; the same vectors, settings and seed give the same codebook.
        start: a codebook to go on from, which takes less time; one of another kind or shape is
            passed over.

    Raises:
        DataError: there are no vectors, or some are not finite, or too many for `ExactConfig`.
    """
    if isinstance(config, ExactConfig):
        distinct = checked_vectors(vectors).unique(dim=0)
        if not 0 < len(distinct) <= MAX_EXACT:
            raise DataError(
                f"codebook: {len(distinct)} distinct vectors; without a codebook there can be "
                f"1 to {MAX_EXACT}"
            )
        return AdditiveCodebook(distinct[None], beam=1)
    if isinstance(config, AdditiveConfig):
        adding = start if isinstance(start, AdditiveCodebook) else None
        return AdditiveCodebook.fit(vectors, config, seed=seed, start=adding)
    residual = start if isinstance(start, ResidualCodebook) else None
    return ResidualCodebook.fit(vectors, config, seed=seed, start=residual)


def codebook_from_tensors(tensors: Mapping[str, Tensor], prefix: str = "") -> Codebook:
    """Rebuild a codebook from a state dict that holds it under `prefix`.

    Raises:
        DataError: no codebook is among the tensors, or one of another shape.
    """
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    for kind in _KINDS:
        if kind.tensor_name in inner:
            if inner[kind.tensor_name].dim() != 3:
                raise DataError(f"codebook: {kind.tensor_name} are not layers × entries × width")
            return kind.from_tensors(inner)
    names = " or ".join(prefix + kind.tensor_name for kind in _KINDS)
    raise DataError(f"no codebook among the tensors {', '.join(sorted(tensors))}: no {names}")


def load_codebook(path: Path) -> Codebook:
    """Read what `Codebook.save` wrote, of whatever kind.

    Raises:
        DataError: the file holds no codebook, or is damaged or missing.
    """
    with naming_the_place(path):
        try:
            return codebook_from_tensors(load_file(path))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
