"""Item text to embeddings to codes: the encoder and the codebook."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from flows.runtime.shards import elsewhere
from flows.steps.data import DataRef
from flows.steps.results import StepResult, find_step, run_step, source_digest
from flows.tracking.record import log_metrics, run_training_step
from hymirec.catalogue import available_workers, embed_catalogue
from hymirec.codebook import Codebook, fit_item_codebook, item_health, load_codebook
from hymirec.errors import UsageError
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

EMBEDDINGS = "embeddings.safetensors"
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
        tables = {"items": vectors, "by_text": model.tower.texts_as_read()}
        save_file({name: table.contiguous() for name, table in tables.items()}, output / EMBEDDINGS)

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
    return load_file(encoder.directory / EMBEDDINGS)["items"]


def read_texts(encoder: Path) -> Tensor:
    """What the catalogue's texts alone say, [N + 1, D] as the embeddings.

    Raises:
        UsageError: an earlier version made this encoder.
    """
    tables = load_file(encoder / EMBEDDINGS)
    if "by_text" not in tables:
        raise UsageError("the encoder does not tell what texts alone say: run `hymirec pipeline` "
                         "again to train one that does")  # fmt: skip
    return tables["by_text"]


def build_codebook(home: Home, encoder: StepResult, recipe: Recipe, run_id: str) -> StepResult:
    """Fit the codebook on the catalogue and encode every item; log its health."""

    def work(output: Path, checkpoints: Path) -> None:
        vectors, by_text = read_embeddings(encoder)[1:], read_texts(encoder.directory)[1:]
        seed = recipe.first_training.seed
        codebook = fit_item_codebook(vectors, by_text, recipe.codebook, seed=seed)
        write_codebook(output, codebook, vectors, by_text, seed=seed)

    step = run_step(home, CODEBOOK, _codebook_inputs(encoder, recipe), work)
    log_metrics(run_id, {f"codebook/{name}": value for name, value in read_health(step).items()})
    return step


def find_codebook(home: Home, encoder: StepResult, recipe: Recipe) -> StepResult | None:
    """What `build_codebook` made, if it has been done."""
    return find_step(home, CODEBOOK, _codebook_inputs(encoder, recipe))


def _codebook_inputs(encoder: StepResult, recipe: Recipe) -> dict[str, object]:
    return {"encoder": encoder.digest, **recipe.model_dump(mode="json", include={"codebook"})}


def write_codebook(
    output: Path, codebook: Codebook, vectors: Tensor, by_text: Tensor, *, seed: int
) -> None:
    """Write a codebook of items, their codes and its health; arguments as of `item_health`."""
    codebook.save(output / "codebook.safetensors")
    np.save(output / "codes.npy", codebook.encode(vectors).numpy())
    health = item_health(codebook, vectors, by_text, seed=seed)
    health["bytes_per_item"] = float(codebook.bytes_per_item)
    (output / "health.json").write_text(json.dumps(health, indent=2))


def read_health(codebook: StepResult) -> dict[str, float]:
    """See `item_health`; and `bytes_per_item`."""
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
