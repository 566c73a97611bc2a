"""Item text to embeddings to codes: the encoder and the codebook."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from flows.data import DataRef
from flows.shards import elsewhere
from flows.steps import StepResult, find_step, run_step, source_digest
from flows.tracking import log_metrics, run_training_step
from hymirec.catalogue import available_workers, embed_catalogue
from hymirec.codebook import Codebook, fit_codebook, load_codebook
from hymirec.fitting import fit_encoder
from hymirec.home import Home
from hymirec.inputs import index_interactions, number_items
from hymirec.models.layers import BackboneConfig
from hymirec.models.nextitem import NextItemRecommender
from hymirec.models.pretrained import digest
from hymirec.recipes import Recipe
from hymirec.schema import ITEM_ID
from hymirec.splits import LEAVE_LAST, SplitConfig
from hymirec.training import LogMetrics

ENCODER, CODEBOOK = "encoder", "codebook"


def train_encoder(
    home: Home, data: DataRef, recipe: Recipe, run_id: str, *, split: SplitConfig = LEAVE_LAST
) -> StepResult:
    """Train the content encoder and embed the catalogue."""

    def work(output: Path, checkpoints: Path, log_metrics: LogMetrics) -> None:
        dataset = data.read()
        index = number_items(dataset.items[ITEM_ID].tolist())
        model, tokenizer = fit_encoder(
            dataset.items,
            split.of(index_interactions(dataset.interactions, index)),
            recipe,
            directory=checkpoints,
            num_workers=available_workers(),
            elsewhere=elsewhere("catalogue"),
            log_metrics=log_metrics,
        )
        vectors = embed_catalogue(
            model.tower, checkpoints / "catalogue", num_workers=available_workers(),
            elsewhere=elsewhere("catalogue"),
        )  # fmt: skip
        model.save(output / "first_stage")
        tokenizer.save(str(output / "tokenizer.json"))
        save_file({"items": vectors.contiguous()}, output / "embeddings.safetensors")

    return run_training_step(home, ENCODER, _encoder_inputs(data, recipe, split), run_id, work)


def find_encoder(home: Home, data: DataRef, recipe: Recipe) -> StepResult | None:
    """What `train_encoder` made, if it has been done."""
    return find_step(home, ENCODER, _encoder_inputs(data, recipe, LEAVE_LAST))


def _encoder_inputs(data: DataRef, recipe: Recipe, split: SplitConfig) -> dict[str, object]:
    return {
        "data": data.digest,
        "split": split.model_dump(),
        **recipe.model_dump(mode="json", include={"encoder", "first_stage", "first_training"}),
        **source_digests(recipe.encoder.backbone, recipe.first_stage.backbone),
        "code": source_digest(Path(__file__)),
    }


def source_digests(*backbones: BackboneConfig) -> dict[str, str]:
    """Digests of the pretrained models that backbones start from, as inputs of a step.

    Raises:
        UsageError: one cannot be found.
        DataError: one is not a model.
    """
    sources = {backbone.pretrained.source for backbone in backbones} - {""}
    return {f"pretrained {source}": digest(source) for source in sources}


def read_first_stage(encoder: StepResult) -> NextItemRecommender:
    """The trained first-stage model."""
    return NextItemRecommender.load(encoder.directory / "first_stage")


def read_embeddings(encoder: StepResult) -> Tensor:
    """Unit item embeddings [N + 1, D]; row 0 is padding."""
    return load_file(encoder.directory / "embeddings.safetensors")["items"]


def build_codebook(home: Home, encoder: StepResult, recipe: Recipe, run_id: str) -> StepResult:
    """Fit the codebook on the catalogue and encode every item; log its health."""

    def work(output: Path, checkpoints: Path) -> None:
        embeddings = read_embeddings(encoder)[1:]
        codebook = fit_codebook(embeddings, recipe.codebook, seed=recipe.first_training.seed)
        codebook.save(output / "codebook.safetensors")
        np.save(output / "codes.npy", codebook.encode(embeddings).numpy())
        health = codebook.health(embeddings) | {"bytes_per_item": float(codebook.bytes_per_item)}
        (output / "health.json").write_text(json.dumps(health, indent=2))

    step = run_step(home, CODEBOOK, _codebook_inputs(encoder, recipe), work)
    log_metrics(run_id, {f"codebook/{name}": value for name, value in read_health(step).items()})
    return step


def find_codebook(home: Home, encoder: StepResult, recipe: Recipe) -> StepResult | None:
    """What `build_codebook` made, if it has been done."""
    return find_step(home, CODEBOOK, _codebook_inputs(encoder, recipe))


def _codebook_inputs(encoder: StepResult, recipe: Recipe) -> dict[str, object]:
    return {"encoder": encoder.digest, **recipe.model_dump(mode="json", include={"codebook"})}


def read_health(codebook: StepResult) -> dict[str, float]:
    """See `Codebook.health`; and `bytes_per_item`."""
    return json.loads((codebook.directory / "health.json").read_text())


def read_codebook(codebook: StepResult) -> Codebook:
    """The fitted codebook."""
    return load_codebook(codebook.directory / "codebook.safetensors")


def read_codes(codebook: StepResult) -> NDArray[np.uint8]:
    """Packed codes, uint8 [N, bytes per item], in the order of the items table."""
    return np.load(codebook.directory / "codes.npy")


def read_items(data: DataRef) -> pd.DataFrame:
    """The canonical items table; row i is item index i + 1."""
    return data.read().items
