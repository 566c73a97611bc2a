"""Full-ranking evaluation of any recommender."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hymirec.evaluation.metrics import rank_of_target
from hymirec.models.base import InterestRecommender, Recommender
from hymirec.schema import PADDING_INDEX
from hymirec.splits import Case
from hymirec.tensors import pad
from hymirec.transitions import Transitions

SCORES_AT_ONCE = 2**24
"""Numbers of a table of scores, users by items, that are held at once."""


class Answers(NamedTuple):
    """What a model says about cases.

    Attributes:
        ranks: float [cases, W], of each case's next items, the very next first; see
            `hymirec.evaluation.metrics.rank_of_target`. NaN where a window has fewer.
        seen_kept: float [cases], ranks of the very next items among all, known ones too.
        lists: int64 [cases, k] item indices, best first, 0 where there are no more.
    """

    ranks: Tensor
    seen_kept: Tensor
    lists: Tensor


@torch.no_grad()
def answer_cases(
    model: Recommender,
    cases: Sequence[Case],
    *,
    list_length: int = 0,
    batch_size: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """Rank the targets of every case among the whole catalogue, and keep the lists.

    Known items are left out of lists and ranks; one rank is taken before that, too. The model is
    asked in evaluation mode and left in the mode it was in. Cases of similar length share a batch;
    the result keeps the order of the cases. Memory beside the result is bounded: a batch is smaller
    where the catalogue is large.

    Args:
        model: any recommender.
        cases: what to ask.
        list_length: k.
        batch_size: cases at once, at most.
        progress: called with the number of cases done and that of all.
    """
    training = model.training
    model.eval()
    device = next((tensor.device for tensor in model.buffers()), torch.device("cpu"))
    window = 1 + max((len(case.later) for case in cases), default=0)
    ranks = torch.full((len(cases), window), torch.nan)
    seen_kept = torch.empty(len(cases))
    lists = torch.zeros(len(cases), list_length, dtype=torch.int64)
    order = sorted(range(len(cases)), key=lambda i: len(cases[i].known))
    start = 0
    batch_size, limit = 1, batch_size  # the first case tells how many items there are
    while start < len(order):
        places = order[start : start + batch_size]
        batch = [cases[i] for i in places]
        inputs = model.assemble([case.known for case in batch])
        scores = model.score({name: tensor.to(device) for name, tensor in inputs.items()})
        num_items = scores.shape[1]
        scores = scores.clone(memory_format=torch.contiguous_format)  # may be one row for all
        scores[:, PADDING_INDEX] = -torch.inf
        targets = pad([np.append(case.target, case.later) for case in batch]).to(device)
        seen_kept[places] = rank_of_target(scores, targets[:, 0]).float().cpu()
        rows = np.repeat(np.arange(len(batch)), [len(case.known) for case in batch])
        items = np.concatenate([case.known.items for case in batch])
        seen = torch.from_numpy(rows).to(device), torch.from_numpy(items).to(device)
        scores[seen] = -torch.inf
        for column in range(targets.shape[1]):
            found = rank_of_target(scores, targets[:, column])
            present = targets[:, column] != PADDING_INDEX
            ranks[places, column] = found.masked_fill(~present, torch.nan).float().cpu()
        if list_length:
            best = scores.topk(min(list_length, num_items), dim=1)
            lists[places, : best.indices.shape[1]] = best.indices.where(
                best.values > -torch.inf, PADDING_INDEX
            ).cpu()
        start += len(places)
        batch_size = max(1, min(limit, SCORES_AT_ONCE // num_items))
        progress(start, len(cases))
    model.train(training)
    return Answers(ranks, seen_kept, lists)


def rank_cases(
    model: Recommender, cases: Sequence[Case], *, exclude_seen: bool = True, batch_size: int = 256
) -> Tensor:
    """Ranks of the very next items alone, float [cases]; see `answer_cases`."""
    answers = answer_cases(model, cases, batch_size=batch_size)
    return answers.ranks[:, 0] if exclude_seen else answers.seen_kept


@torch.no_grad()
def rank_by_scale(
    model: InterestRecommender,
    transitions: Transitions,
    scales: Sequence[float],
    cases: Sequence[Case],
    *,
    batch_size: int = 256,
) -> Tensor:
    """What `rank_cases` says of a model with transitions at each of some scales, in one pass.

    Args:
        model: in evaluation mode, without transitions.
        transitions: at any scale.
        scales: to try.
        cases: what to ask; known items are left out.
        batch_size: cases at once, at most.

    Returns:
        float [scales, cases].
    """
    ranks = torch.empty(len(scales), len(cases))
    order = sorted(range(len(cases)), key=lambda i: len(cases[i].known))
    batch_size = max(1, min(batch_size, SCORES_AT_ONCE // len(model.item_vectors())))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        known = [cases[i].known for i in places]
        inputs = model.assemble(known)
        cosines = model.score(inputs)
        cosines[:, PADDING_INDEX] = -torch.inf
        rows = np.repeat(np.arange(len(known)), [len(one) for one in known])
        cosines[rows, np.concatenate([one.items for one in known])] = -torch.inf
        targets = torch.tensor([cases[i].target for i in places])
        lifts = transitions.scaled(1.0).lifts([one.items for one in known]).toarray()
        for row, scale in zip(ranks, scales, strict=True):
            scores = cosines + scale * torch.from_numpy(lifts)
            row[places] = rank_of_target(scores, targets).float()
    return ranks
