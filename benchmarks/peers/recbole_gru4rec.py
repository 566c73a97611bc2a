"""RecBole's GRU4Rec on given interactions: what `benchmarks/baselines.py` compares ours with.

Runs in the peers' environment, whose numpy is another:

    python -m venv .venv-peers
    .venv-peers/bin/pip install 'rectools[torch]==0.19.0' 'recbole==1.2.1'

Settings and output as `rectools_sasrec.py` beside it. RecBole learns from every event's prefix,
with the softmax over the whole catalogue.
"""

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import GRU4Rec
from recbole.trainer import Trainer
from recbole.utils import init_seed

BATCH = 256
"""Users asked at once."""


def main(settings: dict) -> None:
    """Fit epoch by epoch."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(settings["threads"])
    events = pd.read_csv(settings["interactions"])  # user_id, item_id, rank in time
    held_out = pd.read_csv(settings["held_out"]).set_index("user_id")["item_id"]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "given"
        folder.mkdir()
        events.to_csv(
            folder / "given.inter", sep="\t", index=False,
            header=["user_id:token", "item_id:token", "timestamp:float"],
        )  # fmt: skip
        config = Config(
            model="GRU4Rec", dataset="given",
            config_dict={
                "data_path": work, "checkpoint_dir": work, "state": "CRITICAL",
                "show_progress": False, "use_gpu": False, "seed": settings["seed"],
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                # All that is given is for training: what is held out was never handed over.
                "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user",
                              "mode": "full"},
                "MAX_ITEM_LIST_LENGTH": settings["num_recent"],
                "embedding_size": settings["width"], "hidden_size": 2 * settings["width"],
                "num_layers": 1, "dropout_prob": settings["dropout"], "loss_type": "CE",
                "train_neg_sample_args": None, "train_batch_size": settings["batch_size"],
                "learning_rate": settings["learning_rate"],
            },
        )  # fmt: skip
        init_seed(settings["seed"], reproducibility=True)
        dataset = create_dataset(config)
        training, _, _ = data_preparation(config, dataset)
        model = GRU4Rec(config, training.dataset)
        trainer = Trainer(config, model)
        spent = 0.0
        for epoch in range(1, settings["num_epochs"] + 1):
            started = time.perf_counter()
            trainer._train_epoch(training, epoch - 1, show_progress=False)
            spent += time.perf_counter() - started
            result = {"epoch": epoch, "seconds": spent}
            if len(held_out):
                result |= measured(model, dataset, events, held_out, settings["num_recent"])
            print(json.dumps(result), flush=True)


@torch.no_grad()
def measured(
    model: Any, dataset: Any, events: pd.DataFrame, held_out: pd.Series, num_recent: int
) -> dict[str, float]:
    """Recall and NDCG of the held-out items among those a user has not seen."""
    model.eval()
    number = dataset.field2token_id["item_id"]
    events = events.sort_values(["user_id", "rank"])
    seen = {
        user: [number[str(item)] for item in items]
        for user, items in events.groupby("user_id")["item_id"]
    }
    ranks = []
    users = held_out.index.to_numpy()
    for start in range(0, len(users), BATCH):
        some = users[start : start + BATCH]
        sequences = torch.zeros(len(some), num_recent, dtype=torch.int64)
        lengths = torch.zeros(len(some), dtype=torch.int64)
        for row, user in enumerate(some):
            recent = seen[user][-num_recent:]
            sequences[row, : len(recent)] = torch.tensor(recent)
            lengths[row] = len(recent)
        scores = model.full_sort_predict(
            {model.ITEM_SEQ: sequences, model.ITEM_SEQ_LEN: lengths}
        ).numpy()
        for row, user in enumerate(some):
            target = number[str(held_out.loc[user])]
            wanted = scores[row, target]
            scores[row, [0, *seen[user]]] = -np.inf  # 0 stands for no item
            ranks.append(1 + int((scores[row] > wanted).sum()))
    rank = np.array(ranks)
    return {
        "N@10": float((1 / np.log2(1 + rank[rank <= 10])).sum() / len(rank)),
        "N@200": float((1 / np.log2(1 + rank[rank <= 200])).sum() / len(rank)),
        "R@10": float((rank <= 10).mean()),
        "R@200": float((rank <= 200).mean()),
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
