"""How well items are recommended that nobody has ever interacted with, from their text alone.

    python benchmarks/cold_items.py [--data DIR] [--recipe small] [--share 0.1] [--quick]

A share of the items is kept out of training with all their events. Each user with such an event is
then asked about the last of them, after the other events before it, and the item is ranked among
the whole catalogue: by the content encoder's first stage, and by SASRec, whose vector of an item
without events is as random as when it was made. `warm` is the first stage on the last event of
each user that has a trained item; `chance` is what a random order gives.

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from hymirec.datasets import Dataset, load
from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.fitting import fit_encoder, fit_model
from hymirec.inputs import index_interactions, number_items
from hymirec.models.sasrec import SASRec, SASRecConfig
from hymirec.recipes import Recipe, get_recipe
from hymirec.schema import ITEM_ID
from hymirec.splits import ColdItemSplit, LeaveLastSplit, count_items


def measure(dataset: Dataset, recipe: Recipe, share: float) -> dict[str, object]:
    """Train on warm items, ask about cold ones."""
    num_items = len(dataset.items)
    index = number_items(dataset.items[ITEM_ID].tolist())
    histories = index_interactions(dataset.interactions, index)
    split = ColdItemSplit.draw(histories, num_items, share=share)
    warm = LeaveLastSplit(split.training)
    cases = split.test
    first = recipe.first_stage
    with tempfile.TemporaryDirectory() as work:
        text, _ = fit_encoder(dataset.items, warm, recipe, directory=Path(work) / "encoder")
        torch.manual_seed(recipe.first_training.seed)
        by_id = SASRec(
            count_items(warm.training, num_items),
            SASRecConfig(width=recipe.encoder.width, num_recent=first.num_recent),
        )
        fit_model(
            by_id, warm, recipe.first_training, directory=Path(work) / "sasrec", name="sasrec"
        )
    return {
        "cold_items": int(split.cold.sum()),
        "cases": len(cases),
        "text": summarise(rank_cases(text, cases)),
        "sasrec": summarise(rank_cases(by_id, cases)),
        "warm": summarise(rank_cases(text, warm.test)),
        "chance_R@10": 10 / num_items,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder; else the built-in world")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--share", type=float, default=0.1, help="of the items kept out")
    parser.add_argument("--quick", action="store_true", help="the tiny recipe on a tiny world")
    arguments = parser.parse_args()
    world = WorldConfig.tiny() if arguments.quick else WorldConfig()
    dataset = load(arguments.data) if arguments.data else generate(world).dataset
    recipe = get_recipe("tiny" if arguments.quick else arguments.recipe)
    print(json.dumps(measure(dataset, recipe, arguments.share)))


if __name__ == "__main__":
    main()
