"""What a codebook keeps in so many bytes, beside FAISS's residual and product quantisers.

    python benchmarks/codebook.py [--quick] [--vectors FILE.npy|FILE.pt] [--bytes 6 9] [--repeats 3]
                                  [--held-out] [--rows-only] [--wide] [--threads 1]

Prints one JSON object:

- `rows`: per method (`ours`, `paper`, `faiss_rq`, `faiss_pq`) and bytes an item, all on the same
  vectors and number of threads: `cosine`, the mean between vectors and their decoding;
  `recall_at_10`, the share of the ten nearest neighbours by cosine that still are when every vector
  is replaced by its decoding; `train_encode_seconds`, `encode_per_second` and `decode_per_second`.
  Medians over repeats, the methods taking turns. With `--held-out` also `cosine_held_out` and
  `recall_at_10_held_out`: of a fifth of the vectors, from a codebook fitted on the others.
- `compression_2048d`: bytes of 2048 float32 numbers over bytes of their code, in our preset of nine
  bytes. The entries themselves, 18.9 MB at that width, are shared by the catalogue and left out.
- `r10_codes_over_exact`: R@10 of a hybrid recommender when every item of a history, the recent ones
  too, is what its nine-byte code decodes to, over R@10 of the same model on the exact vectors,
  which it was trained on; candidates are exact in both. `r10_paper_over_exact` is the same for the
  paper's nine bytes. `r10_trained_over_exact` (not with `--quick`) is of a model trained on our
  codes, used as in production: a coded history, exact recent items. On the built-in world at the
  recipe's width: 64, with `--quick` 32.
- `at_2048d` (with `--wide`): `r10_exact` and the first two ratios of a recommender 2,048 wide, of
  one layer and on a smaller world; a CPU takes seconds for each of its steps, half an hour in all.

FAISS's quantisers run as they come: 8 bits an index, beam of 5. Where the product quantiser's parts
do not divide the width, vectors are padded with zeros. The paper's scheme has a row where three
bytes a layer fit.

Without `--vectors` the vectors are drawn: unit vectors of 384 dimensions whose spectrum decays as
that of sentence embeddings of film titles does, with topics, subtopics and a common direction.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize, pad

from hymirec.codebook import (
    PRESETS,
    AdditiveCodebook,
    AdditiveConfig,
    Codebook,
    ResidualConfig,
    fit_codebook,
)
from hymirec.datasets.base import Dataset
from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.fitting import fit_encoder, fit_recommender
from hymirec.inputs import IndexedHistory, index_interactions, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.recipes import ABLATIONS, Recipe, get_recipe
from hymirec.schema import ITEM_ID
from hymirec.splits import LeaveLastSplit

NEIGHBOURS = 10
QUERIES = 2000
"""Vectors whose neighbours are compared, evenly taken."""


@dataclass(frozen=True)
class Quantiser:
    """A trained quantiser."""

    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]


def ours(vectors: Tensor, num_bytes: int) -> Quantiser:
    """One byte a layer."""
    return of_codebook(fit_codebook(vectors, AdditiveConfig(num_layers=num_bytes)))


def paper(vectors: Tensor, num_bytes: int) -> Quantiser:
    """Three bytes a layer."""
    return of_codebook(fit_codebook(vectors, ResidualConfig(num_layers=num_bytes // 3)))


def of_codebook(codebook: Codebook) -> Quantiser:
    """One of the library's."""
    return Quantiser(codebook.encode, codebook.decode)


def faiss_rq(vectors: Tensor, num_bytes: int) -> Quantiser:
    """Additive, layer by layer, beam search."""
    return of_faiss(faiss.ResidualQuantizer(vectors.shape[1], num_bytes, 8), vectors)


def faiss_pq(vectors: Tensor, num_bytes: int) -> Quantiser:
    """The coordinates in as many parts as bytes, each by k-means."""
    padding = -vectors.shape[1] % num_bytes
    width = vectors.shape[1] + padding
    return of_faiss(faiss.ProductQuantizer(width, num_bytes, 8), vectors, padding)


def of_faiss(quantizer: Any, vectors: Tensor, padding: int = 0) -> Quantiser:
    """Train one of FAISS's."""
    width = vectors.shape[1]

    def rows(batch: Tensor) -> np.ndarray:
        return pad(batch, (0, padding)).numpy()

    quantizer.train(rows(vectors))
    return Quantiser(
        lambda batch: quantizer.compute_codes(rows(batch)),
        lambda codes: torch.from_numpy(quantizer.decode(codes))[:, :width],
    )


METHODS = {"ours": ours, "paper": paper, "faiss_rq": faiss_rq, "faiss_pq": faiss_pq}


def drawn_vectors(count: int, width: int = 384) -> Tensor:
    """Unit vectors [count, width] that resemble text embeddings."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    place = torch.arange(width)
    spread = ((place + 8) ** -0.8 * torch.exp(-place / 200)).sqrt()
    num_topics = 400
    topics = draw(num_topics, width) * spread
    popularity = torch.arange(1, num_topics + 1) ** -0.5
    vectors = 0.7 * draw(count, width) * spread + 0.6 * draw(width) * spread
    for weight in (1.0, 0.5, 0.25):
        chosen = torch.multinomial(popularity, count, replacement=True, generator=generator)
        vectors += weight * topics[chosen]
    rotation, _ = torch.linalg.qr(draw(width, width))
    return normalize(vectors @ rotation, dim=1)


def read_vectors(path: Path) -> Tensor:
    """Vectors [N, D] from a NumPy file or a tensor saved by torch, at unit length."""
    loaded = torch.from_numpy(np.load(path)) if path.suffix == ".npy" else torch.load(path)
    return normalize(loaded.float(), dim=1)


def neighbours(vectors: Tensor) -> Tensor:
    """The nearest others by cosine of some vectors [N, D]: int64 [Q, 10]."""
    unit = normalize(vectors, dim=1)
    queries = torch.arange(0, len(unit), -(-len(unit) // QUERIES))
    found = []
    for batch in queries.split(512):
        similarity = unit[batch] @ unit.T
        similarity[torch.arange(len(batch)), batch] = -torch.inf
        found.append(similarity.topk(NEIGHBOURS, dim=1).indices)
    return torch.cat(found)


def kept(vectors: Tensor, decoded: Tensor) -> tuple[float, float]:
    """Mean cosine and share of true neighbours."""
    before, after = neighbours(vectors), neighbours(decoded)
    shared = (before[:, :, None] == after[:, None, :]).any(dim=2).float().mean().item()
    return cosine_similarity(vectors, decoded, dim=1).mean().item(), shared


def measure(method: str, vectors: Tensor, num_bytes: int, held_out: bool) -> dict[str, float]:
    """One run of one method."""
    started = time.perf_counter()
    quantiser = METHODS[method](vectors, num_bytes)
    trained = time.perf_counter()
    codes = quantiser.encode(vectors)
    encoded = time.perf_counter()
    decoded = quantiser.decode(codes)
    ended = time.perf_counter()
    cosine, recall = kept(vectors, decoded)
    row = {
        "cosine": cosine,
        "recall_at_10": recall,
        "train_encode_seconds": encoded - started,
        "encode_per_second": len(vectors) / (encoded - trained),
        "decode_per_second": len(vectors) / (ended - encoded),
    }
    if held_out:
        order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(1))
        new, old = vectors[order[: len(order) // 5]], vectors[order[len(order) // 5 :]]
        quantiser = METHODS[method](old, num_bytes)
        cosine, recall = kept(new, quantiser.decode(quantiser.encode(new)))
        row |= {"cosine_held_out": cosine, "recall_at_10_held_out": recall}
    return row


def compare(
    vectors: Tensor, sizes: list[int], repeats: int, held_out: bool
) -> list[dict[str, Any]]:
    """Rows of all methods and sizes, medians of the repeats."""
    rows = []
    for num_bytes in sizes:
        methods = [name for name in METHODS if name != "paper" or num_bytes % 3 == 0]
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
        for _ in range(repeats):
            for name in methods:
                runs[name].append(measure(name, vectors, num_bytes, held_out))
        for name in methods:
            medians = {key: median(run[key] for run in runs[name]) for key in runs[name][0]}
            rounded = {key: float(f"{value:.4g}") for key, value in medians.items()}
            rows.append({"method": name, "bytes": num_bytes, **rounded})
    return rows


class Exact(nn.Module):
    """In a codebook's place: a code is the item's index in four bytes, its decoding the item."""

    def __init__(self, items: Tensor) -> None:
        super().__init__()
        self.register_buffer("items", items, persistent=False)

    def codes(self) -> np.ndarray:
        """uint8 [N, 4]."""
        return np.arange(len(self.items), dtype=np.int32)[:, None].view(np.uint8)

    def decode(self, packed: Tensor) -> Tensor:
        """Codes [..., 4] to items [..., D]."""
        return self.items[packed.clone().view(torch.int32)[..., 0]]


def small_world(num_users: int) -> Dataset:
    """Short histories over 1,000 items."""
    config = WorldConfig(num_users=num_users, num_items=1000, mean_history=80, max_history=150)
    return generate(config).dataset


def at_width(recipe: Recipe, width: int) -> Recipe:
    """The recipe with wider items and layers, at a rate that such layers bear."""
    encoder = recipe.encoder.model_copy(update={"width": width})
    return recipe.model_copy(update={"encoder": encoder}).at_rate(3e-4)


def recall_from_codes(dataset: Dataset, recipe: Recipe) -> dict[str, float]:
    """R@10 of a recommender whose history is rebuilt from codes, over that on exact vectors."""
    # Transitions read no codes and would hide what codes lose.
    recipe = ABLATIONS["no_transitions"](recipe)
    items = dataset.items
    histories = index_interactions(dataset.interactions, number_items(items[ITEM_ID].tolist()))

    def coded(codes: np.ndarray) -> list[IndexedHistory]:
        return [h.coded(codes) for h in histories]

    def recall(model: HyMiRec, codes: np.ndarray) -> float:
        return summarise(rank_cases(model, LeaveLastSplit(coded(codes)).test))["R@10"]

    with tempfile.TemporaryDirectory() as work:
        split = LeaveLastSplit(histories)
        first, _ = fit_encoder(items, split, recipe, directory=Path(work) / "encoder")
        vectors = first.item_vectors()

        def train(codebook: Any, codes: np.ndarray, name: str) -> HyMiRec:
            return fit_recommender(
                vectors, first, codebook, LeaveLastSplit(coded(codes)), recipe,
                directory=Path(work) / name,
            )  # fmt: skip

        exact = Exact(vectors)
        model = train(exact, exact.codes(), "exact")
        without = recall(model, exact.codes())
        result = {"r10_exact": without}
        model.item_vectors = lambda: vectors
        for name, preset in (("codes", "compact"), ("paper", "paper")):
            codebook = fit_codebook(vectors[1:], PRESETS[preset])
            decoded = codebook.decode(codebook.encode(vectors))
            model.items, model.codebook = decoded, Exact(decoded)
            result[f"r10_{name}_over_exact"] = recall(model, exact.codes()) / without
        if recipe.name != "tiny":
            codebook = fit_codebook(vectors[1:], PRESETS["compact"])
            codes = codebook.encode(vectors).numpy()
            trained = recall(train(codebook, codes, "coded"), codes)
            result["r10_trained_over_exact"] = trained / without
    return {key: round(value, 4) for key, value in result.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer vectors, sizes and repeats")
    parser.add_argument("--vectors", type=Path, help="N × D as .npy, or a tensor as .pt")
    parser.add_argument("--bytes", type=int, nargs="+", help="sizes of a code")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch and of FAISS alike")
    parser.add_argument("--rows-only", action="store_true", help="no recommender")
    parser.add_argument("--wide", action="store_true", help="a recommender 2,048 wide, too")
    parser.add_argument("--held-out", action="store_true", help="vectors not fitted on, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)

    if options.vectors:
        vectors = read_vectors(options.vectors)
    else:
        vectors = drawn_vectors(2048, 64) if options.quick else drawn_vectors(10_000)
    sizes = options.bytes or ([6, 9] if options.quick else [6, 9, 12, 16, 24])
    repeats = 1 if options.quick else options.repeats
    rows = compare(vectors, sizes, repeats, options.held_out)
    wide = AdditiveCodebook(torch.zeros(PRESETS["compact"].num_layers, 256, 2048))
    result = {
        "rows": rows,
        "compression_2048d": round(2048 * 4 / wide.bytes_per_item, 1),
    }
    if not options.rows_only:
        world = small_world(150) if options.quick else generate(WorldConfig()).dataset
        result |= recall_from_codes(world, get_recipe("tiny" if options.quick else "demo"))
    if options.wide:
        recipe = at_width(get_recipe("tiny"), 2048)
        result["at_2048d"] = recall_from_codes(small_world(400), recipe)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
