"""What each part of the method is for: the measure it should move, with it and without it.

    python benchmarks/parts.py [--seeds 3] [--quick]

Trains on the tiny built-in world, whose users have planted interests, with one setting changed at
a time, and asks about users of the same catalogue that nothing was trained on. Prints one JSON
object: `rows` with the part, the measure, its mean over the seeds with and without the part, and
whether more is better.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from hymirec.codebook import fit_codebook
from hymirec.datasets.synthetic import World, WorldConfig, generate
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.evaluation.recovery import recovery
from hymirec.examples import CutPointExamples
from hymirec.fitting import fit_encoder, fit_recommender, interest_measures
from hymirec.inputs import IndexedHistory, index_interactions, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.models.nextitem import NextItemRecommender
from hymirec.recipes import ABLATIONS, get_recipe
from hymirec.schema import ITEM_ID, SOURCE_ROW, USER_ID
from hymirec.splits import ColdItemSplit, LeaveLastSplit

LONG_WINDOW = {"num_interests": 4, "window": 12, "merged_weight": 0.0}
"""Windows that hold several of a user's interests, and the paper's loss alone."""


@dataclass(frozen=True)
class Part:
    """A part, the settings of the recommender with and without it, and what it is for."""

    name: str
    measure: str
    settings: dict[str, Any]
    without: dict[str, Any]
    more_is_better: bool = True


PARTS = [
    # Not here: the indicator, which moved no measure for the better beyond what seeds do
    # (docs/experiments.md).
    Part("several interests", "recall", LONG_WINDOW, {"num_interests": 1}),
    Part("window targets", "precision", LONG_WINDOW, {"window": 1}),
    Part("one-to-one matching", "top_share", LONG_WINDOW, {"matching": "max"}, False),
    Part("coarse interests", "recall_of_older", LONG_WINDOW | {"num_recent": 5}, {"num_coarse": 0}),
    Part("merged score in the loss", "R@10", {}, {"merged_weight": 0.0}),
]


class Stage:
    """A world and its first stage, on which recommenders are trained."""

    def __init__(self, seed: int, work: Path) -> None:
        """Train the first stage."""
        self.world = generate(WorldConfig.tiny(seed))
        # What is measured are the model's own parts.
        self.recipe = ABLATIONS["no_transitions"](get_recipe("tiny")).with_seed(seed)
        self.work = work
        self.first, _ = fit_encoder(
            self.world.dataset.items, LeaveLastSplit(histories_of(self.world)), self.recipe,
            directory=work / "encoder",
        )  # fmt: skip
        self.vectors = self.first.item_vectors()
        self.codebook = fit_codebook(self.vectors[1:], self.recipe.codebook)
        config = WorldConfig.tiny(seed).model_copy(update={"num_users": 150})
        self.others = generate(config)
        planted = self.others.interests.groupby(USER_ID)["topic"].agg(set)
        self.planted = [planted[u] for u in self.others.dataset.interactions[USER_ID].unique()]
        self.done: dict[str, dict[str, float]] = {}

    def coded(self, world: World) -> list[IndexedHistory]:
        """Histories of a world with the same items."""
        codes = self.codebook.encode(self.vectors).numpy()
        return [h.coded(codes) for h in histories_of(world)]

    def measures(self, settings: dict[str, Any]) -> dict[str, float]:
        """Train a recommender and measure everything; once for each settings."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self.done:
            histories = self.coded(self.world)
            recipe = self.recipe.model_copy(
                update={
                    "recommender": self.recipe.recommender.model_copy(update=settings),
                    "training": self.recipe.training.model_copy(update={"num_epochs": 6}),
                }
            )
            model = fit_recommender(
                self.vectors, self.first, self.codebook, LeaveLastSplit(histories), recipe,
                directory=self.work / str(len(self.done)),
            )  # fmt: skip
            self.done[key] = self.all_of(model, histories)
        return self.done[key]

    def all_of(self, model: HyMiRec, histories: list[IndexedHistory]) -> dict[str, float]:
        """Every measure of a trained recommender."""
        split = LeaveLastSplit(histories)
        examples = CutPointExamples(
            split.training, num_recent=model.num_recent, max_history=model.max_history,
            num_cuts=model.settings.num_cuts, window=model.settings.window,
        )  # fmt: skip
        topics = self.world.item_topics
        return (
            summarise(rank_cases(model, split.test))
            | interest_measures(model, examples)
            | recovery(model, self.coded(self.others), self.planted, topics)
        )

    def text_row(self) -> dict[str, Any]:
        """Items that training never saw, with their text and with none."""
        items, histories = self.world.dataset.items, histories_of(self.world)
        split = ColdItemSplit.draw(histories, len(items), share=0.1, seed=0)

        def recall(model: NextItemRecommender, cases: Any) -> float:
            return summarise(rank_cases(model, cases))["R@10"]

        warm = LeaveLastSplit(split.training)
        with_text, _ = fit_encoder(items, warm, self.recipe, directory=self.work / "text")
        wordless = {column: "" for column in items if column not in (ITEM_ID, SOURCE_ROW)}
        blank = items.assign(**wordless)
        vectors, _ = fit_encoder(blank, warm, self.recipe, directory=self.work / "vectors")
        having, without = recall(with_text, split.test), recall(vectors, split.test)
        return row("text", "R@10 of cold items", having, without)


def row(
    part: str, measure: str, having: float, without: float, more: bool = True
) -> dict[str, Any]:
    """One line of the result."""
    return {"part": part, "measure": measure, "with": having, "without": without,
            "more_is_better": more}  # fmt: skip


def histories_of(world: World) -> list[IndexedHistory]:
    """A world's histories, without codes."""
    index = number_items(world.dataset.items[ITEM_ID].tolist())
    return index_interactions(world.dataset.interactions, index)


def compare(
    seeds: int, parts: list[Part] = PARTS, text: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of every part, means over seeds."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as work:
            stage = Stage(seed, Path(work))
            for part in parts:
                having = stage.measures(part.settings)[part.measure]
                without = stage.measures(part.settings | part.without)[part.measure]
                found = row(part.name, part.measure, having, without, part.more_is_better)
                rows.setdefault(part.name, []).append(found)
                progress(f"seed {seed}: {found}")
            if text:
                rows.setdefault("text", []).append(stage.text_row())
    return [
        found[0] | {side: mean(one[side] for one in found) for side in ("with", "without")}
        for found in rows.values()
    ]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, the first part")
    arguments = parser.parse_args()
    if arguments.quick:
        rows = compare(1, PARTS[:1], text=False)
    else:
        rows = compare(arguments.seeds, progress=lambda line: print(line, flush=True))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
