"""The test cases of an evaluation ranked in shards, here or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from features.offline import group_sizes, read_groups
from flows.data import DataRef
from flows.encode import read_items
from flows.shards import each_shard
from flows.steps import StepResult
from hymirec.errors import DataError
from hymirec.evaluation.protocol import Answers, answer_cases
from hymirec.evaluation.report import LIST_LENGTH, AnswerCases
from hymirec.home import Home
from hymirec.inputs import index_history, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.schema import ITEM_ID
from hymirec.splits import Case, LeaveLastSplit, asks_about

GROUPS_PER_SHARD = 4
"""Of rows of the published file, 1,000 users each."""


def in_shards(
    home: Home, data: DataRef, codebook_id: str, recommender: StepResult, parts: Path
) -> AnswerCases:
    """Make what asks a model about everybody's test case, shard by shard.

    Shards are groups of rows of the published histories, the same wherever they are ranked; one
    that is done is not ranked again.

    Args:
        home: of the histories.
        data: whose items number the model's.
        codebook_id: of the histories.
        recommender: the trained model.
        parts: folder for the shards' answers.
    """
    groups = range(len(group_sizes(home, codebook_id)))
    shards = [groups[first : first + GROUPS_PER_SHARD] for first in groups[::GROUPS_PER_SHARD]]

    def answer(cases: Sequence[Case]) -> Answers:
        asked = [
            {
                "home": home.root, "data": data.directory, "codebook_id": codebook_id,
                "model": recommender.directory / "recommender", "groups": list(some),
                "part": parts / f"{some[0]:08}.npz",
            }
            for some in shards
        ]  # fmt: skip
        todo = [one for one in asked if not one["part"].exists()]
        for _ in each_shard("evaluation", rank_shard, todo):
            pass
        found = [_read(one["part"]) for one in asked]
        answers = Answers(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        if len(answers.ranks) != len(cases):
            raise DataError(
                f"histories of codebook {codebook_id} changed while they were evaluated: "
                f"{len(answers.ranks)} cases, {len(cases)} before"
            )
        return answers

    return answer


def rank_shard(
    home: Path, data: Path, codebook_id: str, model: Path, groups: Sequence[int], part: Path
) -> None:
    """Rank one shard's test cases and write the answers, whole or not at all.

    Args:
        home: root of the home.
        data: folder of the canonical tables.
        codebook_id: of the histories.
        model: folder of the recommender.
        groups: of rows of the published histories.
        part: where to.
    """
    recommender, index = _model(model, data)
    histories = [
        index_history(one, index)
        for one in read_groups(Home.at(home), codebook_id, groups).values()
    ]
    asked = [one for one in histories if asks_about(one)]
    cases = LeaveLastSplit(asked).test if asked else []
    answers = answer_cases(recommender, cases, list_length=LIST_LENGTH)
    part.parent.mkdir(parents=True, exist_ok=True)
    temporary = part.with_suffix(".tmp.npz")
    np.savez(temporary, **{name: value.numpy() for name, value in answers._asdict().items()})
    temporary.replace(part)


@lru_cache(maxsize=1)
def _model(directory: Path, data: Path) -> tuple[HyMiRec, dict[str, int]]:
    """A worker reads the model once."""
    items = read_items(DataRef("", data, data.name))
    return HyMiRec.load(directory), number_items(items[ITEM_ID].tolist())


def _read(part: Path) -> Answers:
    with np.load(part) as arrays:
        return Answers(**{name: torch.from_numpy(arrays[name]) for name in Answers._fields})
