"""Runs of several models over several seeds, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hymirec.evaluation.metrics import ndcg_at, recall_at
from hymirec.evaluation.significance import compare, holm

HEADLINE = ("R@10", "R@200", "N@10", "N@200")
"""What the paper's tables show."""
LEVEL = 0.05
"""Of significance, after correction for the number of models."""


@dataclass(frozen=True)
class Row:
    """One model from one seed.

    Attributes:
        model: its title.
        seed: of its training.
        metrics: see `hymirec.evaluation.report.Report`.
        cost: `seconds` of training, `peak_mb`, `parameters`, `evaluation_seconds`.
        ranks: [U], of the users' targets, in an order all rows share.
        users: the file of what was said to each user.
    """

    model: str
    seed: int
    metrics: dict[str, float]
    cost: dict[str, float]
    ranks: NDArray[np.float64]
    users: Path

    def flat(self) -> dict[str, Any]:
        """One record: model, seed, metrics, cost."""
        return {"model": self.model, "seed": self.seed, **self.metrics, **self.cost}

    def to_json(self) -> dict[str, Any]:
        """The record and where the users' answers lie, as JSON values."""
        return self.flat() | {"users": str(self.users)}


def per_user(ranks: Sequence[NDArray[np.float64]], metric: str) -> NDArray[np.float64]:
    """A metric such as `N@10` of each user, mean over trainings with ranks [U] each: [U]."""
    kind, _, k = metric.partition("@")
    measure = {"R": recall_at, "N": ndcg_at}[kind]
    values = [measure(torch.from_numpy(one), int(k)).numpy() for one in ranks]
    return np.mean(values, axis=0, dtype=np.float64)


def table_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and spread of each model over its seeds, compared with the first model.

    Returns:
        One record a model, in the order they first occur: `model`, `seeds`, `users`; `R@10` and so
        on, and `R@10 sd` where there are several seeds; `seconds`, `peak_mb`, `parameters`; and for
        all but the first, by each metric of `HEADLINE`, `R@10 difference` (this model minus the
        first), `R@10 low` and `R@10 high` of its 95 % interval, `R@10 p`, corrected over the models
        (Holm).
    """
    by_model: dict[str, list[Row]] = {}
    for row in rows:
        by_model.setdefault(row.model, []).append(row)
    table = []
    for model, own in by_model.items():
        record: dict[str, Any] = {
            "model": model, "seeds": len(own), "users": len(own[0].ranks),
        }  # fmt: skip
        for metric in HEADLINE:
            values = [row.metrics[metric] for row in own]
            record[metric] = mean(values)
            if len(values) > 1:
                record[f"{metric} sd"] = stdev(values)
        for name in ("seconds", "peak_mb", "parameters"):
            record[name] = mean(row.cost[name] for row in own)
        table.append(record)
    for metric in HEADLINE:
        first, *others = (per_user([row.ranks for row in own], metric) for own in by_model.values())
        found = [compare(first, other) for other in others]
        corrected = holm([one.p_value for one in found])
        for record, one, p_value in zip(table[1:], found, corrected, strict=True):
            record[f"{metric} difference"] = one.difference
            record[f"{metric} low"], record[f"{metric} high"] = one.low, one.high
            record[f"{metric} p"] = p_value
    return table


def mark(record: dict[str, Any], metric: str) -> str:
    """`▼` where the first model is significantly better, `▲` where this one is, else nothing."""
    if record.get(f"{metric} p", 1.0) > LEVEL:
        return ""
    return "▼" if record[f"{metric} difference"] < 0 else "▲"
