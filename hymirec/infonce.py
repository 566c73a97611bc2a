"""What every loss of the library compares a target with: the negatives, summed up.

B users, S queries of a user, N negatives, D width; vectors at unit length.

InfoNCE of a target t for a query r is log(e^{r·t/τ} + m(r)) - r·t/τ, where the mass

    m(r) = Σ_n e^{r·n/τ + correction_n}

is the same for all targets of the query. Autograd would keep four tables of B·S·N numbers for its
gradient; the function here keeps one, which makes a training step of the first stage a third
shorter on a CPU.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

EXCLUDED = -1e9
"""Logit of a negative that does not count; finite, so that a row of nothing else stays finite."""


def log_mass(
    queries: Tensor,
    negatives: Tensor,
    correction: Tensor,
    false_negative: tuple[Tensor, Tensor],
    *,
    temperature: float,
    merged: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Logarithms of the masses of negatives.

    Args:
        queries: [B, S, D], unit length.
        negatives: [N, D], unit length, shared by all users.
        correction: [N], added to a negative's logit (`hymirec.negatives`); no gradient.
        false_negative: users and negatives, int64 [number of pairs] each: this negative does not
            count for this user.
        temperature: τ.
        merged: whether the second result is wanted.

    Returns:
        [B, S], log m(r) of each query; [B], the same of each user's best query for every
        negative, log Σ_n max_s e^{r_s·n/τ + correction_n}, or None.
    """
    # In full precision even where the model is in half: a sum of a thousand exponentials.
    precise = torch.promote_types(torch.promote_types(queries.dtype, negatives.dtype), torch.float)
    queries, negatives = queries.to(precise), negatives.to(precise)
    with torch.autocast(queries.device.type, enabled=False):
        return _LogMass.apply(queries, negatives, correction, *false_negative, temperature, merged)


class _LogMass(torch.autograd.Function):
    """Exponentials are taken once: the gradient is made of them and their sums."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, negatives: Tensor, correction: Tensor, user: Tensor,
        negative: Tensor, temperature: float, with_merged: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        logits = linear(queries / temperature, negatives, correction.to(queries.dtype))
        logits[user, :, negative] = EXCLUDED
        highest = logits.amax(dim=2, keepdim=True)
        masses = logits.sub_(highest).exp_()
        total = masses.sum(dim=2, keepdim=True)
        each = (highest + total.log())[..., 0]
        if queries.shape[1] == 1 or not with_merged:
            lift = merged = merged_total = None
            together = each[:, 0].clone() if with_merged else None
        else:
            top = highest.amax(dim=1, keepdim=True)
            lift = (highest - top).exp()
            merged = reduce(torch.maximum, (masses * lift).unbind(dim=1))
            merged_total = merged.sum(dim=1, keepdim=True)
            together = top[:, 0, 0] + merged_total[:, 0].log()
        ctx.save_for_backward(queries, negatives, masses, total, lift, merged, merged_total)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return each, together

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        queries, negatives, masses, total, lift, merged, merged_total = ctx.saved_tensors
        to_each, to_together = gradients
        if merged is None and to_together is not None:  # one query is the best of one
            to_each = to_together[:, None] + (0 if to_each is None else to_each)
            to_together = None
        slope = torch.zeros_like(masses) if to_each is None else masses * (
            to_each[..., None] / total
        )  # fmt: skip
        if to_together is not None:
            share = merged * (to_together[:, None] / merged_total)
            for query in range(queries.shape[1]):  # of several that are best, the first
                best = masses[:, query] * lift[:, query] == merged
                slope[:, query] += share * best
                share = share.masked_fill(best, 0)
        to_queries = slope @ negatives / ctx.temperature if ctx.needs_input_grad[0] else None
        to_negatives = (
            slope.flatten(0, 1).T @ (queries / ctx.temperature).flatten(0, 1)
            if ctx.needs_input_grad[1] else None
        )  # fmt: skip
        return to_queries, to_negatives, None, None, None, None, None


def info_nce(toward: Tensor, mass: Tensor) -> Tensor:
    """Loss of targets, from their logits r·t/τ and the logarithms of their queries' masses."""
    return torch.logaddexp(toward, mass) - toward
