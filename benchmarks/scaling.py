"""What one item, one event and one user cost: the unit costs behind docs/scaling.md.

    python benchmarks/scaling.py [--quick]

CPU seconds of one thread at the width of the recipe `base`, so that other work on the machine
hardly counts; bytes as they are written. Weights are random: what is computed does not depend on
them. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn.functional import normalize

# A script's folder comes first in the search, and there features.py would hide the package.
sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).parent]

from features.offline import history_rows
from hymirec.batch import recommend_many
from hymirec.codebook import ResidualCodebook, ResidualConfig, fit_codebook
from hymirec.encoder import ContentEncoder
from hymirec.history import History, pack_codes
from hymirec.inputs import build_histories
from hymirec.models.hymirec import HyMiRec
from hymirec.package import RecommenderPackage
from hymirec.recipes import Recipe, get_recipe

EVENTS_PER_USER = 200
TOKENS = 24


def main() -> None:
    """Measure each, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    texts, users = (128, 32) if quick else (2048, 256)
    sizes = (2_000, 20_000) if quick else (20_000, 200_000)
    recipe = get_recipe("base")
    found = encode(recipe, texts)
    found |= histories(users * 4, int(found["code_bytes"]))
    found |= recommendations(recipe, users, sizes)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in found.items()}))


@torch.no_grad()
def encode(recipe: Recipe, texts: int) -> dict[str, float]:
    """Reading texts, and coding vectors."""
    encoder = ContentEncoder(recipe.encoder, 8000).eval()
    tokens = torch.randint(3, 8000, (texts, TOKENS))
    with Clock() as reading:
        for batch in tokens.split(64):
            encoder(batch)
    width = recipe.encoder.width
    vectors = normalize(torch.randn(4096, width), dim=1)
    book = fit_codebook(vectors, recipe.codebook)
    with Clock() as coding:
        codes = book.encode(vectors)
    blob = pack_codes(codes.numpy()[:1], book.id)[0]
    return {
        "text_ms": 1e3 * reading.seconds / texts,
        "code_ms": 1e3 * coding.seconds / len(vectors),
        "vector_bytes": 4.0 * width,
        "code_bytes": float(book.bytes_per_item),
        "code_row_bytes": float(len(blob)),
    }


def histories(users: int, code_bytes: int) -> dict[str, float]:
    """Building and packing histories of `EVENTS_PER_USER` events."""
    rng = np.random.default_rng(0)
    events, items = users * EVENTS_PER_USER, 20_000
    interactions = taken(users, items)
    codes = rng.integers(0, 256, (items, code_bytes), dtype=np.uint8)
    names = [str(item) for item in range(items)]
    with Clock() as building:
        rows = history_rows(interactions, names, codes, "0" * 12, pd.Timestamp.now(tz="UTC"))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(rows), sink)
    return {
        "history_event_us": 1e6 * building.seconds / events,
        "history_event_bytes": sum(map(len, rows["history"])) / events,
        "history_event_bytes_offline": len(sink.getvalue()) / events,
    }


def recommendations(recipe: Recipe, users: int, sizes: tuple[int, int]) -> dict[str, float]:
    """Lists of ten; the cost of a user alone and that of each item it is compared with."""
    seconds = []
    for items in sizes:
        package, everybody = world(recipe, items, users)
        recommend_many(package, everybody[:8], 10)
        with Clock() as clock:
            recommend_many(package, everybody, 10)
        seconds.append(clock.seconds / users)
    per_item = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0])
    return {
        "user_ms": 1e3 * (seconds[0] - per_item * sizes[0]),
        "user_item_ns": 1e9 * per_item,
        f"user_ms_among_{sizes[1]}_items": 1e3 * seconds[1],
    }


def world(recipe: Recipe, items: int, users: int) -> tuple[RecommenderPackage, list[History]]:
    """A package of random items, and histories."""
    torch.manual_seed(0)
    vectors = torch.cat([torch.zeros(1, 128), normalize(torch.randn(items, 128), dim=1)])
    book = ResidualCodebook.fit(vectors[1:2049], ResidualConfig(num_layers=3, num_entries=256))
    model = HyMiRec(vectors, book, recipe.recommender)
    names = [str(item) for item in range(items)]
    table = pd.DataFrame({"item_id": names, "title": names})
    package = RecommenderPackage.assemble(
        model, table, torch.ones(items + 1, dtype=torch.int64), recipe="base", data_digest="0" * 16
    )
    codes = book.encode(vectors[1:]).numpy()
    histories = build_histories(taken(users, items), names, codes, book.id)
    return package, list(histories.values())


def taken(users: int, items: int) -> pd.DataFrame:
    """Events of users who take items at random."""
    hours = pd.to_datetime(np.tile(np.arange(EVENTS_PER_USER), users), unit="h", utc=True)
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user_id": np.repeat([str(user) for user in range(users)], EVENTS_PER_USER),
            "item_id": rng.integers(0, items, users * EVENTS_PER_USER).astype(str),
            "timestamp": hours,
        }
    )


class Clock:
    """CPU seconds of this process."""

    def __enter__(self) -> Clock:
        self.seconds = -time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds += time.process_time()


if __name__ == "__main__":
    main()
