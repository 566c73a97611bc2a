"""RecTools' SASRec on given interactions: what `benchmarks/training.py` compares ours with.

Runs in an environment of its own, because RecTools needs another numpy:

    python -m venv .venv-peers
    .venv-peers/bin/pip install 'rectools[torch]==0.19.0'

Reads a JSON object with settings from its first argument and prints a JSON object after each
epoch: seconds of fitting so far, and NDCG@10 of the held-out items among those not seen.
"""

import json
import logging
import sys
import time
import warnings

import numpy as np
import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def main(settings: dict) -> None:
    """Fit epoch by epoch."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    events = pd.read_csv(settings["interactions"])  # user_id, item_id, rank in time
    held_out = pd.read_csv(settings["held_out"]).set_index("user_id")["item_id"]
    dataset = Dataset.construct(
        events.rename(columns={"rank": Columns.Datetime}).assign(
            **{
                Columns.Weight: 1.0,
                Columns.Datetime: lambda t: pd.to_datetime(t[Columns.Datetime], unit="s"),
            }
        )
    )
    model = SASRecModel(
        n_blocks=settings["num_layers"], n_heads=settings["num_heads"],
        n_factors=settings["width"], session_max_len=settings["num_recent"],
        dropout_rate=settings["dropout"], lr=settings["learning_rate"],
        batch_size=settings["batch_size"], loss=settings["loss"],
        n_negatives=settings["num_negatives"], epochs=1, verbose=0,
    )  # fmt: skip
    spent = 0.0
    for epoch in range(1, settings["num_epochs"] + 1):
        started = time.perf_counter()
        if epoch == 1:
            model.fit(dataset)
        else:
            model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        spent += time.perf_counter() - started
        result = {"epoch": epoch, "seconds": spent}
        if len(held_out):
            found = model.recommend(
                users=held_out.index.to_numpy(), dataset=dataset, k=200, filter_viewed=True
            )
            hit = found[found["item_id"].to_numpy() == held_out.loc[found["user_id"]].to_numpy()]
            rank = hit["rank"].to_numpy()
            result |= {
                "N@10": float((1 / np.log2(1 + rank[rank <= 10])).sum() / len(held_out)),
                "N@200": float((1 / np.log2(1 + rank)).sum() / len(held_out)),
                "R@10": float((rank <= 10).sum() / len(held_out)),
                "R@200": float(len(rank) / len(held_out)),
            }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
