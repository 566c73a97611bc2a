"""HyMiRec and SASRec on a data set: every user's last item, ranked among the whole catalogue.

    python benchmarks/quality.py --data DIR [--min-events 60] [--recipe small] [--seeds 3]
                                 [--work DIR] [--models hymirec,sasrec]

Protocol of the paper: the last event of a user is tested, the one before it validates; users with
fewer than `--min-events` events are left out, every rating counts. Models are chosen on validation
alone. With `--work` an interrupted call goes on where it stopped.

Prints one JSON object: for each model the mean and the standard deviation over seeds of every
metric, seen items left out of the ranking and, as `seen_kept_…`, kept in it; and the seconds of
training.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from hymirec.datasets import Dataset, load
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.fitting import fit, fit_model
from hymirec.inputs import index_history, index_interactions, number_items
from hymirec.models.base import Recommender
from hymirec.models.sasrec import SASRec, SASRecConfig
from hymirec.recipes import Recipe, get_recipe
from hymirec.schema import ITEM_ID
from hymirec.splits import Case, LeaveLastSplit, count_items

MODELS = ("hymirec", "sasrec")


def metrics_of(model: Recommender, cases: list[Case]) -> dict[str, float]:
    """All metrics, with seen items left out and kept in."""
    seen_kept = summarise(rank_cases(model, cases, exclude_seen=False))
    return summarise(rank_cases(model, cases)) | {
        f"seen_kept_{name}": value for name, value in seen_kept.items()
    }


def run_hymirec(dataset: Dataset, recipe: Recipe, work: Path) -> dict[str, dict[str, float]]:
    """Both stages of HyMiRec, and the first alone."""
    started = time.perf_counter()
    fitted = fit(dataset, recipe, directory=work)
    seconds = time.perf_counter() - started
    index = number_items(fitted.package.items[ITEM_ID].tolist())
    split = LeaveLastSplit([index_history(one, index) for one in fitted.histories.values()])
    found = {"hymirec": metrics_of(fitted.package.model, split.test) | {"seconds": seconds}}
    found["first_stage"] = metrics_of(fitted.first_stage, split.test)
    return found


def run_sasrec(dataset: Dataset, recipe: Recipe, work: Path) -> dict[str, dict[str, float]]:
    """SASRec with the first stage's sizes and training."""
    index = number_items(dataset.items[ITEM_ID].tolist())
    split = LeaveLastSplit(index_interactions(dataset.interactions, index))
    backbone = recipe.first_stage.backbone
    torch.manual_seed(recipe.first_training.seed)
    model = SASRec(
        count_items(split.training, len(index)),
        SASRecConfig(
            width=recipe.encoder.width,
            num_layers=backbone.num_layers,
            num_heads=backbone.num_heads,
            dropout=backbone.dropout,
            num_recent=recipe.first_stage.num_recent,
            num_negatives=recipe.first_stage.num_negatives,
            temperature=recipe.first_stage.temperature,
        ),
    )
    started = time.perf_counter()
    fit_model(model, split, recipe.first_training, directory=work, name="sasrec")
    seconds = time.perf_counter() - started
    return {"sasrec": metrics_of(model, split.test) | {"seconds": seconds}}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--min-events", type=int, default=60)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--work", type=Path, help="keeps what is trained, to go on from")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("transformers").setLevel(logging.WARNING)
    dataset = load(arguments.data).with_frequent_users(arguments.min_events)
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for seed in range(arguments.seeds):
            recipe = get_recipe(arguments.recipe).with_seed(seed)
            for name, run in (("hymirec", run_hymirec), ("sasrec", run_sasrec)):
                if name in arguments.models.split(","):
                    place = work / f"{name}-{seed}"
                    for model, found in run(dataset, recipe, place).items():
                        runs.setdefault(model, []).append(found)
                        print(f"seed {seed}, {model}: {found}", flush=True)
    print(json.dumps({"recipe": arguments.recipe, "models": summary(runs)}))


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over seeds."""
    table = {}
    for model, found in runs.items():
        columns = {name: [one[name] for one in found] for name in found[0]}
        table[model] = {
            name: {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None}
            for name, values in columns.items()
        } | {"seeds": len(found)}
    return table


if __name__ == "__main__":
    main()
