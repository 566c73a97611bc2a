"""Our SASRec and GRU4Rec beside those of well-known libraries, on one split, for as many epochs.

    python benchmarks/baselines.py --peer-python .venv-peers/bin/python [--quick] [--data DIR]

RecTools' SASRec and RecBole's GRU4Rec run in an environment of their own (`benchmarks/peers/` says
how to make it), each with its own default loss, the softmax over the whole catalogue, and the same
width, layers, recent items, dropout and learning rate as ours, RecTools' in batches of as many
users (its own 128 would be four steps an epoch here, in which it learns nothing). Everyone is
asked after each epoch about the validation items that training has, seen items left out, and the
epoch with the best NDCG@10 counts.

Prints one JSON object: `rows`, one a model, with `ours` and `theirs`: `N@10`, `R@10`, the `epoch`
they were reached in, `seconds` of training until then; both null without a peer.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peers import cases_of_peer, epochs_of_peer
from training import histories_of

from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.models.gru4rec import GRU4Rec, GRU4RecConfig
from hymirec.models.sasrec import SASRec, SASRecConfig
from hymirec.models.sequence import IdRecommender
from hymirec.splits import LeaveLastSplit, count_items
from hymirec.training import TrainingConfig, train

NUM_RECENT, WIDTH, DROPOUT, RATE, SEED = 50, 64, 0.2, 1e-3, 0
BATCH = 16
PEERS_BATCH = {"SASRec": BATCH, "GRU4Rec": 512}
"""Users; of RecBole's GRU4Rec, which reads every prefix of a history by itself, prefixes."""


def make(name: str, split: LeaveLastSplit, num_items: int) -> IdRecommender:
    """One of ours, untrained."""
    torch.manual_seed(SEED)
    occurrences = count_items(split.training, num_items)
    shared: dict[str, Any] = {"width": WIDTH, "num_recent": NUM_RECENT, "dropout": DROPOUT}
    if name == "GRU4Rec":
        return GRU4Rec(occurrences, GRU4RecConfig(**shared, hidden_width=2 * WIDTH))
    return SASRec(occurrences, SASRecConfig(**shared, num_layers=2, num_heads=2))


def ours(name: str, split: LeaveLastSplit, num_items: int, num_epochs: int) -> dict[str, float]:
    """Train one of ours; its best epoch."""
    model = make(name, split, num_items)
    examples = model.examples(split.training)
    cases = cases_of_peer(split)
    started, validating, found = time.perf_counter(), 0.0, []

    def validate() -> dict[str, float]:
        nonlocal validating
        began = time.perf_counter()
        measured = summarise(rank_cases(model, cases))
        found.append(measured | {"epoch": len(found) + 1, "seconds": began - started - validating})
        validating += time.perf_counter() - began
        return measured

    config = TrainingConfig(
        num_epochs=num_epochs, max_steps=1_000_000, batch_size=BATCH, learning_rate=RATE,
        patience=num_epochs, seed=SEED,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        train(model, examples, examples.collate, validate, config,
              directory=Path(work) / "run", name=name)  # fmt: skip
    return best(found)


def theirs(name: str, split: LeaveLastSplit, python: Path, num_epochs: int) -> dict[str, float]:
    """Train a peer; its best epoch."""
    settings = {
        "width": WIDTH, "num_layers": 2, "num_heads": 2, "num_recent": NUM_RECENT,
        "dropout": DROPOUT, "learning_rate": RATE, "loss": "softmax", "num_negatives": 0,
        "num_epochs": num_epochs, "seed": SEED, "batch_size": PEERS_BATCH[name],
    }  # fmt: skip
    script = {"SASRec": "rectools_sasrec", "GRU4Rec": "recbole_gru4rec"}[name]
    return best(list(epochs_of_peer(python, script, split, settings, evaluate=True)))


def best(epochs: list[dict[str, float]]) -> dict[str, float]:
    """The epoch with the highest NDCG@10, and what is told of it."""
    chosen = max(epochs, key=lambda epoch: epoch["N@10"])
    told = {name: round(chosen[name], 4) for name in ("N@10", "R@10", "N@200", "R@200")}
    return told | {"epoch": chosen["epoch"], "seconds": round(chosen["seconds"], 1)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small world, few epochs")
    parser.add_argument("--data", type=Path, help="a folder; users with 60 events or more count")
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has the libraries")
    parser.add_argument("--epochs", type=int, default=20, help="of everyone")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    histories, num_items = histories_of(arguments.data, quick=True)
    split = LeaveLastSplit(histories)
    epochs = 2 if arguments.quick else arguments.epochs
    rows = []
    for name, peer in (("SASRec", "RecTools 0.19.0"), ("GRU4Rec", "RecBole 1.2.1")):
        python = arguments.peer_python
        rows.append({
            "model": name, "peer": peer,
            "ours": ours(name, split, num_items, epochs),
            "theirs": theirs(name, split, python, epochs) if python else None,
        })  # fmt: skip
    print(json.dumps({"users": len(histories), "items": num_items, "epochs": epochs, "rows": rows}))


if __name__ == "__main__":
    main()
