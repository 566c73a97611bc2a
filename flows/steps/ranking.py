"""The test cases of an evaluation ranked in shards, here or on a Dask cluster.

The shards are the same either way, and so are the answers to the bit; one that was done before an
interruption is not ranked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from flows.runtime.shards import each_shard
from hymirec.evaluation.protocol import Answers, answer_cases
from hymirec.evaluation.report import LIST_LENGTH, AnswerCases
from hymirec.inputs import IndexedHistory
from hymirec.models.hymirec import HyMiRec
from hymirec.splits import Case

CASES_PER_SHARD = 4096


def in_shards(recommender: Path, parts: Path) -> AnswerCases:
    """Make what asks a model about cases, shard by shard.

    Args:
        recommender: folder of the model, which workers read.
        parts: folder for the shards' cases and answers; it belongs to one model and its cases.
    """

    def answer(cases: Sequence[Case]) -> Answers:
        parts.mkdir(parents=True, exist_ok=True)
        asked, sizes = [], []
        for first in range(0, len(cases), CASES_PER_SHARD):
            some = cases[first : first + CASES_PER_SHARD]
            part = parts / f"{first:010}.npz"
            if not part.exists():
                questions = part.with_suffix(".cases.npz")
                _write_cases(questions, some)
                asked.append({"model": recommender, "cases": questions, "part": part})
                sizes.append(len(some))
        for _ in each_shard("evaluation", rank_shard, asked, sizes=sizes, what="users"):
            pass
        found = [_read(part) for part in sorted(parts.glob("*[0-9].npz"))]
        # Windows are as wide as the widest of their shard.
        width = max(one.ranks.shape[1] for one in found)
        ranks = [
            torch.nn.functional.pad(one.ranks, (0, width - one.ranks.shape[1]), value=torch.nan)
            for one in found
        ]
        return Answers(
            torch.cat(ranks),
            torch.cat([one.seen_kept for one in found]),
            torch.cat([one.lists for one in found]),
        )

    return answer


def rank_shard(model: Path, cases: Path, part: Path) -> None:
    """Rank one shard's cases and write the answers, whole or not at all.

    Args:
        model: folder of the recommender.
        cases: file of the cases; removed when they are answered.
        part: where to.
    """
    answers = answer_cases(_model(model), _read_cases(cases), list_length=LIST_LENGTH)
    temporary = part.with_suffix(".tmp.npz")
    np.savez(temporary, **{name: value.numpy() for name, value in answers._asdict().items()})
    temporary.replace(part)
    cases.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _model(directory: Path) -> HyMiRec:
    """A worker reads the model once."""
    return HyMiRec.load(directory)


def _write_cases(path: Path, cases: Sequence[Case]) -> None:
    known = [case.known for case in cases]
    np.savez(
        path,
        lengths=[len(one) for one in known],
        items=np.concatenate([one.items for one in known]),
        codes=np.concatenate([one.codes for one in known]),
        times=np.concatenate([one.times for one in known]),
        targets=[case.target for case in cases],
        num_later=[len(case.later) for case in cases],
        later=np.concatenate([case.later for case in cases]),
        users=[case.user for case in cases],
    )


def _read_cases(path: Path) -> list[Case]:
    with np.load(path) as file:
        arrays = dict(file)
    ends = np.cumsum(arrays["lengths"])[:-1]
    known = zip(
        *(np.split(arrays[name], ends) for name in ("items", "codes", "times")), strict=True
    )
    later = np.split(arrays["later"], np.cumsum(arrays["num_later"])[:-1])
    return [
        Case(IndexedHistory(*history), int(target), after, int(user))
        for history, target, after, user in zip(
            known, arrays["targets"], later, arrays["users"], strict=True
        )
    ]


def _read(part: Path) -> Answers:
    with np.load(part) as arrays:
        return Answers(**{name: torch.from_numpy(arrays[name]) for name in Answers._fields})
