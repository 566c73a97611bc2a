"""Training speed: our SASRec against RecTools', and how HyMiRec's time and memory grow.

    python benchmarks/training.py [--quick] [--data DIR] [--peer-python .venv-peers/bin/python]

The peer runs in an environment of its own (`benchmarks/peers/rectools_sasrec.py` says how to make
it); without one its figures are null. Both train with two blocks, 64 wide, on the last 150 items
of each user, on the same interactions, with the same number of threads, one after the other.

Prints one JSON object:

- `ours_per_second`, `peer_per_second`: interactions that an epoch learns from (at most 150 of a
  user) over its seconds, medians, of a second epoch: the first has a process's imports in it; the
  peer with its own default, the full softmax, and in
  `peer_sampled_per_second` with 256 negatives sampled for each position.
- `same_ndcg` (not in --quick): the best validation NDCG@10 that the peer reached, its seconds to
  get there, and ours to the same figure, null if ours never did; evaluation not counted. Both are
  asked about the validation items that training has.
- `growth`: seconds of training and peak memory of HyMiRec per 1,000 users as histories grow, and
  per 1,000 users as users become more; each in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peers import cases_of_peer, epochs_of_peer
from torch.nn.functional import normalize

from flows.steps.results import measured
from hymirec.codebook import ResidualConfig, fit_codebook
from hymirec.datasets import load
from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.examples import NextItemExamples
from hymirec.inputs import IndexedHistory, index_interactions, number_items
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.sasrec import SASRec, SASRecConfig
from hymirec.schema import ITEM_ID
from hymirec.splits import LeaveLastSplit, count_items
from hymirec.training import TrainingConfig, train

NUM_RECENT, WIDTH = 150, 64
MAX_ITEMS = 20_000


def histories_of(data: Path | None, quick: bool) -> tuple[list[IndexedHistory], int]:
    """Histories of a folder of at least 60 events, or of a built-in world."""
    if data:
        dataset = load(data)
        counts = dataset.interactions.groupby("user_id")[ITEM_ID].transform("size")
        interactions = dataset.interactions[counts >= 60].reset_index(drop=True)
    else:
        users = 400 if quick else 4000
        config = WorldConfig(num_users=users, num_items=3000)
        dataset = generate(config).dataset
        interactions = dataset.interactions
    item_ids = sorted(set(interactions[ITEM_ID]))
    return index_interactions(interactions, number_items(item_ids)), len(item_ids)


# Ours and the peer's


def make_ours(split: LeaveLastSplit, num_items: int) -> SASRec:
    """Our SASRec at the size compared."""
    torch.manual_seed(0)
    config = SASRecConfig(width=WIDTH, num_layers=2, num_heads=2, num_recent=NUM_RECENT)
    return SASRec(count_items(split.training, num_items), config)


def train_ours(model: SASRec, split: LeaveLastSplit, num_epochs: int, stop_at: float = math.inf,
               evaluate: bool = False) -> tuple[list[float], float]:  # fmt: skip
    """Train; seconds until the end of each epoch, evaluation not counted, and the best NDCG@10."""
    examples = NextItemExamples(split.training, NUM_RECENT)
    cases = cases_of_peer(split)
    validating, best = 0.0, 0.0
    ends: list[float] = []

    def validate() -> dict[str, float]:
        nonlocal validating, best
        began = time.perf_counter()
        ends.append(began - started - validating)
        found = summarise(rank_cases(model, cases)) if evaluate else {"N@10": ends[-1]}
        best = max(best, found["N@10"])
        validating += time.perf_counter() - began
        if best >= stop_at:
            raise StopIteration
        return found

    config = TrainingConfig(num_epochs=num_epochs, max_steps=1_000_000, batch_size=64)
    started = time.perf_counter()
    enough = contextlib.suppress(StopIteration)
    with tempfile.TemporaryDirectory() as work, enough:
        train(model, examples, examples.collate, validate, config,
              directory=Path(work) / "run", name="sasrec")  # fmt: skip
    return ends, best


def learnt_per_epoch(split: LeaveLastSplit) -> int:
    """Interactions that an epoch of ours learns from."""
    examples = NextItemExamples(split.training, NUM_RECENT)
    return sum(len(examples[i]) - 1 for i in range(len(examples)))


def run_peer(
    python: Path, split: LeaveLastSplit, num_epochs: int, *, loss: str, evaluate: bool
) -> Iterator[dict[str, float]]:
    """What the peer prints, epoch by epoch."""
    settings = {
        "num_layers": 2, "num_heads": 2, "width": WIDTH, "num_recent": NUM_RECENT,
        "dropout": 0.2, "learning_rate": 1e-3, "batch_size": 128, "loss": loss,
        "num_negatives": 256, "num_epochs": num_epochs, "seed": 0,
    }  # fmt: skip
    return epochs_of_peer(python, "rectools_sasrec", split, settings, evaluate=evaluate)


def speeds(
    split: LeaveLastSplit, num_items: int, peer: Path | None, repeats: int, quick: bool
) -> dict[str, Any]:
    """Interactions per second of both, interleaved."""
    ours: list[float] = []
    theirs: dict[str, list[float]] = {"softmax": [], "sampled_softmax": []}
    learnt = learnt_per_epoch(split)
    offered = sum(min(len(history) - 1, NUM_RECENT) for history in split.training)
    for _ in range(repeats):
        (first_end, second_end), _ = train_ours(make_ours(split, num_items), split, 2)
        ours.append(learnt / (second_end - first_end))
        for loss, found in theirs.items():
            if peer and not (quick and loss != "softmax"):
                first, second = run_peer(peer, split, 2, loss=loss, evaluate=False)
                found.append(offered / (second["seconds"] - first["seconds"]))
    return {
        "ours_per_second": round(median(ours)),
        "peer": "RecTools 0.19.0 SASRec",
        "peer_per_second": round(median(theirs["softmax"])) if theirs["softmax"] else None,
        "peer_sampled_per_second": (
            round(median(theirs["sampled_softmax"])) if theirs["sampled_softmax"] else None
        ),
    }


def same_ndcg(
    split: LeaveLastSplit, num_items: int, peer: Path, epochs: int
) -> dict[str, float | None]:
    """Time to the peer's best validation NDCG@10, within so many epochs of its own."""
    found = list(run_peer(peer, split, epochs, loss="softmax", evaluate=True))
    best = max(found, key=lambda epoch: epoch["N@10"])
    ends, reached = train_ours(
        make_ours(split, num_items), split, 4 * epochs, stop_at=best["N@10"], evaluate=True
    )
    return {
        "N@10": best["N@10"], "peer_seconds": best["seconds"],
        "ours_seconds": ends[-1] if reached >= best["N@10"] else None, "ours_N@10": reached,
    }  # fmt: skip


# Growth


def growth_row(num_users: int, length: int, steps: int) -> dict[str, float]:
    """Train HyMiRec for some steps on random histories; run in a process of its own."""
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    items = normalize(torch.randn(MAX_ITEMS + 1, WIDTH), dim=1)
    items[0] = 0
    codebook = fit_codebook(items[1:4097], ResidualConfig(num_iterations=3))
    codes = codebook.encode(items).numpy()
    config = HyMiRecConfig(max_history=length, num_recent=100)
    model = HyMiRec(items, codebook, config)
    optimiser = torch.optim.AdamW(model.parameters())
    batch_size, seconds = 16, []
    with measured() as before:  # the codebook's fitting took more than it left
        pass
    with measured() as cost:
        histories = []
        for _ in range(num_users):
            events = generator.integers(1, MAX_ITEMS + 1, length)
            histories.append(IndexedHistory.of(events, codes[events]))
        examples = model.examples(histories)
        for _ in range(steps + 1):
            chosen = generator.integers(0, len(examples), batch_size)
            started = time.perf_counter()
            batch = examples.collate([examples[int(i)] for i in chosen])
            optimiser.zero_grad()
            model(**batch)["loss"].backward()
            optimiser.step()
            seconds.append(time.perf_counter() - started)
    return {
        "users": num_users,
        "history": length,
        "seconds_per_1k_users": round(median(seconds[1:]) / batch_size * 1000, 2),
        "data_mib": round(cost["peak_mb"] - before["peak_mb"]),
        "peak_mib": round(cost["peak_mb"]),
    }


def growth(quick: bool) -> list[dict[str, float]]:
    """Rows for longer histories, then for more users."""
    sizes = [(200, 100), (200, 1000)] if quick else [
        *((1000, length) for length in (100, 250, 500, 1000, 2000, 4000)),
        *((users, 100) for users in (10_000, 100_000)),
    ]  # fmt: skip
    rows = []
    for users, length in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--growth", str(users), str(length),
             str(3 if quick else 12)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small world, once")
    parser.add_argument("--data", type=Path, help="a folder; users with 60 events or more count")
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has RecTools")
    parser.add_argument("--peer-epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3, help="of each speed")
    parser.add_argument("--growth", nargs=3, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.growth:
        print(json.dumps(growth_row(*arguments.growth)))
        return
    histories, num_items = histories_of(arguments.data, arguments.quick)
    split = LeaveLastSplit(histories)
    repeats = 1 if arguments.quick else arguments.repeats
    result = speeds(split, num_items, arguments.peer_python, repeats, arguments.quick)
    if arguments.peer_python and not arguments.quick:
        result["same_ndcg"] = same_ndcg(
            split, num_items, arguments.peer_python, arguments.peer_epochs
        )
    print(json.dumps(result | {"growth": growth(arguments.quick)}))


if __name__ == "__main__":
    main()
