"""The model card of a version: what it is, what it came to, what it should not be used for."""

from __future__ import annotations

from collections.abc import Mapping

from flows.steps.data import DataRef
from hymirec.evaluation.table import HEADLINE
from hymirec.recipes import Recipe

CARD = "model_card.md"


def model_card(
    data: DataRef,
    recipe: Recipe,
    codebook_id: str,
    metrics: Mapping[str, float],
    popularity: Mapping[str, float],
    health: Mapping[str, float],
) -> str:
    """Write the card as Markdown.

    Args:
        data: trained on.
        recipe: trained by.
        codebook_id: of the codes that the model reads.
        metrics: test metrics, see `hymirec.evaluation.report.Report`.
        popularity: those of the most popular items on the same users.
        health: see `hymirec.codebook.Codebook.health`.
    """
    settings = recipe.recommender
    rows = "\n".join(
        f"| {name} | {metrics[name]:.4f} | {metrics[f'seen_kept_{name}']:.4f} "
        f"| {popularity[name]:.4f} |"
        for name in HEADLINE
    )
    slices = "\n".join(
        f"| {_slice(name)} | {metrics[name]:.0f} | {metrics[name.replace('cases', 'R@10')]:.4f} |"
        for name in metrics
        if name.startswith("length_") and name.endswith("/cases")
    )
    cold = metrics["cold_cases"]
    cold_line = (
        f"Of {cold:.0f} users the target was never trained on; R@10 there is "
        f"{metrics['cold_R@10']:.4f}, from the items' texts alone."
        if cold
        else "No target of the test was without interactions in training, so what the model does "
        "with new items was not measured here."
    )
    reads = recipe.encoder.backbone.pretrained.source or "a small Llama trained from scratch"
    transitions = (
        " Beyond it, an item scores higher where it often came after the user's last ones, if "
        "validation gained by that: the run's metric `transitions/weight`."
        if recipe.transitions.max_weight
        else ""
    )
    return f"""# HyMiRec, recipe {recipe.name}

Recommends items from a user's history: {settings.num_interests} interests a user, from the codes \
of up to {settings.max_history} events and the last {settings.num_recent} items. Item texts are \
read by {reads}. After arXiv 2510.13738.{transitions}

## Data

{data.name}, digest {data.digest}. Every interaction counts alike, whatever it was.

## How well

Every user's last event, ranked among all items; models chosen on the event before it.

| metric | seen items left out | kept in | popularity |
| --- | --- | --- | --- |
{rows}

| history | users | R@10 |
| --- | --- | --- |
{slices}

{cold_line}

Lists of ten: {metrics["coverage"]:.0%} of the catalogue is in one; listed items are \
{metrics["popularity_lift"]:+.0%} as popular as those of the user's history; \
{metrics["short_lists"]:.1%} of the lists are short.

## Codes

Codebook {codebook_id}, {health["bytes_per_item"]:.0f} bytes an item, mean cosine \
{health["cosine"]:.3f} with what was encoded. The model answers only where the codes of this \
codebook are in the feature store.

## Limits

It was measured on what people did under another recommender, or none: a recommender changes what \
is taken, and an experiment on live traffic tells how much. Users and items of the data alone are \
known; a user without a history gets what is popular. Nothing was done against unequal treatment \
of groups of users or of who makes the items.
"""


def _slice(name: str) -> str:
    _, low, high = name.removesuffix("/cases").split("_")
    return f"{low} events and more" if high == "up" else f"{low} to {int(high) - 1} events"
