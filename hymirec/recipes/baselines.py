"""The models that HyMiRec is compared with, at the sizes of a HyMiRec recipe.

A baseline's recipe is a function from the recipe of HyMiRec it stands beside: same width, recent
items, negatives and as many epochs as its first stage, so that a table compares methods and not
sizes. What a method needs otherwise is set here and nowhere else. To add a model: one file under
`hymirec/models/`, one function here (docs/adding-a-model.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hymirec.errors import UsageError
from hymirec.models.base import Baseline
from hymirec.models.bilevel import BiLevel, BiLevelConfig
from hymirec.models.comirec import ComiRec, ComiRecConfig
from hymirec.models.cooccurrence import CoOccurrenceConfig, CoOccurrenceRecommender
from hymirec.models.gru4rec import GRU4Rec, GRU4RecConfig
from hymirec.models.hllm import HLLM, HLLMConfig
from hymirec.models.hstu import HSTU, HSTUConfig
from hymirec.models.morec import MoRec, MoRecConfig
from hymirec.models.neighbours import LastItemConfig, LastItemNeighbours
from hymirec.models.patchrec import PatchRec, PatchRecConfig
from hymirec.models.popularity import PopularityConfig, PopularityRecommender
from hymirec.models.sasrec import SASRec, SASRecConfig
from hymirec.models.sequence import SequenceConfig
from hymirec.recipes.base import BaselineRecipe, Recipe
from hymirec.recipes.outside import is_outside, made_outside

FASTER = 3.0
"""Times the first stage's learning rate: those that are given it validated best at it wherever it
was tried (docs/experiments.md)."""


def popularity(size: Recipe) -> BaselineRecipe:
    """The most popular items for everyone."""
    return BaselineRecipe(
        name="popularity",
        title="Popularity",
        paper="",
        model=PopularityRecommender,
        settings=PopularityConfig(),
    )


def cooccurrence(size: Recipe) -> BaselineRecipe:
    """Item-to-item co-occurrence."""
    return BaselineRecipe(
        name="cooccurrence",
        title="Co-occurrence",
        paper="Sarwar et al., WWW 2001",
        model=CoOccurrenceRecommender,
        settings=CoOccurrenceConfig(num_recent=size.first_stage.num_recent),
    )


def last_item(size: Recipe) -> BaselineRecipe:
    """What followed the last item."""
    return BaselineRecipe(
        name="last_item",
        title="Last-item neighbours",
        paper="Ludewig and Jannach, UMUAI 2018",
        model=LastItemNeighbours,
        settings=LastItemConfig(),
    )


def gru4rec(size: Recipe) -> BaselineRecipe:
    """GRU4Rec."""
    width = size.encoder.width
    return _trained(
        size, GRU4Rec, "GRU4Rec", "Hidasi et al., ICLR 2016",
        GRU4RecConfig(**_shared(size), width=width, hidden_width=2 * width, dropout=_dropout(size)),
    )  # fmt: skip


def sasrec(size: Recipe) -> BaselineRecipe:
    """SASRec."""
    return _trained(
        size, SASRec, "SASRec", "Kang and McAuley, ICDM 2018",
        SASRecConfig(**_shared(size), **_blocks(size), width=size.encoder.width),
    )  # fmt: skip


def hstu(size: Recipe) -> BaselineRecipe:
    """HSTU."""
    return _trained(
        size, HSTU, "HSTU", "Zhai et al., ICML 2024",
        HSTUConfig(**_shared(size), **_blocks(size), width=size.encoder.width),
    )  # fmt: skip


def morec(size: Recipe) -> BaselineRecipe:
    """MoRec."""
    return _trained(
        size, MoRec, "MoRec", "Yuan et al., SIGIR 2023",
        MoRecConfig(**_shared(size), **_blocks(size), encoder=_text_only(size)),
    )  # fmt: skip


def hllm(size: Recipe) -> BaselineRecipe:
    """HLLM."""
    return _trained(
        size, HLLM, "HLLM", "Chen et al., arXiv 2409.12740",
        HLLMConfig(
            **_shared(size), backbone=size.first_stage.backbone, encoder=_text_only(size)
        ),
    )  # fmt: skip


def patchrec(size: Recipe) -> BaselineRecipe:
    """PatchRec."""
    made = _trained(
        size, PatchRec, "PatchRec", "Liao et al., SIGIR 2025",
        PatchRecConfig(
            **_shared(size),
            backbone=size.first_stage.backbone,
            width=size.encoder.width,
            dropout=_dropout(size),
            vocab_size=size.encoder.vocab_size,
            max_tokens=size.encoder.max_tokens,
        ),
    )  # fmt: skip
    return made.times_rate(FASTER)


def comirec_sa(size: Recipe) -> BaselineRecipe:
    """ComiRec by self-attention."""
    return _comirec(size, "ComiRec-SA", "attention").times_rate(FASTER)


def comirec_dr(size: Recipe) -> BaselineRecipe:
    """ComiRec by dynamic routing.

    Routing does not know which item came last: of many it makes a mean in which the latest is lost,
    so it reads fifty at the most, as many as in the paper's longer data set.
    """
    recipe = _comirec(size, "ComiRec-DR", "routing")
    few = min(50, size.first_stage.num_recent)
    settings = recipe.settings.model_copy(update={"num_recent": few})
    return recipe.model_copy(update={"settings": settings})


def bi_level(size: Recipe) -> BaselineRecipe:
    """Bi-level multi-interest learning, with words of clusters in place of a language model."""
    made = _trained(
        size, BiLevel, "Bi-level (topic words)", "Qiao et al., arXiv 2411.09410",
        BiLevelConfig(
            **_shared(size),
            width=size.encoder.width,
            dropout=_dropout(size),
            num_cuts=size.recommender.num_cuts,
        ),
    )  # fmt: skip
    return made.times_rate(FASTER)


BASELINES: dict[str, Callable[[Recipe], BaselineRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        popularity, cooccurrence, last_item, gru4rec, sasrec, hstu, morec, hllm, patchrec,
        comirec_sa, comirec_dr, bi_level,
    )
}  # fmt: skip


def get_baseline(name: str, size: Recipe) -> BaselineRecipe:
    """Look up a baseline's recipe by name, or by `module:function` outside the package.

    Raises:
        UsageError: there is none of that name; the message lists those there are.
    """
    if name in BASELINES:
        return BASELINES[name](size)
    if not is_outside(name):
        known = ", ".join(sorted(BASELINES))
        raise UsageError(
            f"no model is called {name!r}; there are hymirec, {known}, or module:function"
        )
    return made_outside("model", name, BaselineRecipe, size)


def _trained(
    size: Recipe, model: type[Baseline], title: str, paper: str, settings: SequenceConfig
) -> BaselineRecipe:
    name = title.partition(" ")[0].lower().replace("-", "_")
    return BaselineRecipe(
        name=name, title=title, paper=paper, model=model, settings=settings,
        training=size.first_training,
    )  # fmt: skip


def _comirec(size: Recipe, title: str, extraction: Any) -> BaselineRecipe:
    settings = ComiRecConfig(
        **_shared(size),
        width=size.encoder.width,
        dropout=_dropout(size),
        extraction=extraction,
        num_cuts=size.recommender.num_cuts,
    )
    return _trained(size, ComiRec, title, "Cen et al., KDD 2020", settings)


def _shared(size: Recipe) -> dict[str, Any]:
    return {name: getattr(size.first_stage, name) for name in SequenceConfig.model_fields}


def _blocks(size: Recipe) -> dict[str, Any]:
    backbone = size.first_stage.backbone
    return {
        "num_layers": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "dropout": backbone.dropout,
    }


def _dropout(size: Recipe) -> float:
    return size.first_stage.backbone.dropout


def _text_only(size: Recipe) -> Any:
    return size.encoder.model_copy(update={"free_vectors": False})
