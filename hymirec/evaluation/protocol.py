"""Full-ranking evaluation of any recommender."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hymirec.evaluation.metrics import rank_of_target, summarise
from hymirec.inputs import IndexedHistory
from hymirec.models.base import Recommender
from hymirec.splits import Case


@torch.no_grad()
def rank_cases(
    model: Recommender, cases: Sequence[Case], *, exclude_seen: bool = True, batch_size: int = 256
) -> Tensor:
    """Rank the target of every case among the whole catalogue.

    The model is asked in evaluation mode and left in the mode it was in. Cases of similar length
    share a batch; the result keeps the order of the cases.

    Returns:
        float [number of cases], see `hymirec.evaluation.metrics.rank_of_target`.
    """
    training = model.training
    model.eval()
    device = next((tensor.device for tensor in model.buffers()), torch.device("cpu"))
    ranks = torch.empty(len(cases))
    order = sorted(range(len(cases)), key=lambda i: len(cases[i].known))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = [cases[i] for i in places]
        inputs = model.assemble([case.known for case in batch])
        scores = model.score({name: tensor.to(device) for name, tensor in inputs.items()})
        excluded = torch.zeros_like(scores, dtype=torch.bool)
        if exclude_seen:
            for row, case in zip(excluded, batch, strict=True):
                row[torch.from_numpy(case.known.items).to(device)] = True
        targets = torch.tensor([case.target for case in batch], device=device)
        ranks[places] = rank_of_target(scores, targets, excluded).cpu()
    model.train(training)
    return ranks


@torch.no_grad()
def window_recall(
    model: Recommender, histories: Sequence[IndexedHistory], *, window: int, k: int
) -> float:
    """Share of the last `window` events of users that are in the list made before them.

    Items seen before count neither as listed nor as events.

    Args:
        model: in evaluation mode.
        histories: those with no more than `window` events are left out.
        window: events at the end of a history that are held back.
        k: length of the list.
    """
    asked = [history for history in histories if len(history) > window]
    known = [history.until(len(history) - window) for history in asked]
    scores = model.score(model.assemble(known))
    for row, history in zip(scores, known, strict=True):
        row[[0, *history.items.tolist()]] = -torch.inf
    listed = scores.topk(k, dim=1).indices
    shares = []
    for row, history, before in zip(listed, asked, known, strict=True):
        ahead = set(history.items[-window:].tolist()) - set(before.items.tolist())
        if ahead:
            shares.append(len(ahead & set(row.tolist())) / len(ahead))
    return float(np.mean(shares))


def cold_metrics(ranks: Tensor, cases: Sequence[Case], occurrences: Tensor) -> dict[str, float]:
    """Metrics of the cases whose target was never seen in training: recommended by text alone.

    Args:
        ranks: [number of cases].
        cases: what was asked.
        occurrences: int64 [N + 1], how often an item occurs in training.

    Returns:
        `cold_cases`, their number, and where there are any, metrics with the prefix `cold_`.
    """
    cold = occurrences[[case.target for case in cases]] == 0
    table = {"cold_cases": float(cold.sum())}
    if cold.any():
        table |= {f"cold_{name}": value for name, value in summarise(ranks[cold]).items()}
    return table
