"""HLLM: a hierarchy of two language models (Chen et al., arXiv 2409.12740).

An item model reads each text, its special token at the end gives the item; a user model reads the
sequence of items and predicts the next one at every position. Both are trained end to end, and
there is no vector by id.
"""

from __future__ import annotations

from hymirec.models.nextitem import NextItemConfig, NextItemRecommender
from hymirec.models.text import TextBaseline, TextConfig


class HLLMConfig(NextItemConfig, TextConfig):
    """Settings of the model; `encoder` is the item model, `backbone` the user model."""


class HLLM(NextItemRecommender, TextBaseline):
    """The first stage of HyMiRec without vectors of the items' own."""

    config_type = HLLMConfig
