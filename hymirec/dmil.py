"""Disentangled multi-interest learning (HyMiRec, section on DMIL).

B users, S interests, W window targets, D width, N negatives; all vectors at unit length.

The next W items are all targets. They are clustered into S groups by cosine, the interests are
matched to the groups by the assignment with the largest summed cosine, and each interest is drawn
to the targets of its group alone:

    L = 1/W Σ_i Σ_j L_ctr(t_i, r_j) · 1[t_i in the group matched to r_j]

with L_ctr the InfoNCE loss at temperature τ.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot

from hymirec.infonce import info_nce, log_mass

MAX_ENUMERATED = 5
"""Up to this many interests all S! matchings are compared in one product (120 at 5)."""


def cluster_targets(
    cosine: Tensor, mask: Tensor, num_groups: int, *, num_iterations: int = 4
) -> tuple[Tensor, Tensor]:
    """Group each user's targets by cosine similarity.

    Spherical k-means from a farthest-first start, without randomness: the first centroid is the
    first target, each further one the target least like those before it. A tie goes to the lower
    index. With fewer distinct targets than groups the surplus groups stay empty.

    A centroid is a sum of targets, so the cosines among the targets are all it takes: nothing here
    grows with the width.

    Args:
        cosine: [B, W, W], of each target with each.
        mask: bool [B, W], False where the window has no target.
        num_groups: S.
        num_iterations: rounds of update and assignment.

    Returns:
        Group of each target, int64 [B, W] (meaningless where masked); [B, S, W], what each target
        weighs in the unit centroid of each group: centroids = weights @ targets, zero for a group
        that is empty or whose targets cancel out.
    """
    users = torch.arange(len(cosine), device=cosine.device)
    chosen = [mask.float().argmax(dim=1)]
    nearest = cosine[users, chosen[0]]  # [B, W]
    for _ in range(num_groups - 1):
        chosen.append(nearest.masked_fill(~mask, torch.inf).argmin(dim=1))
        nearest = torch.maximum(nearest, cosine[users, chosen[-1]])
    groups = torch.stack([cosine[users, target] for target in chosen]).argmax(dim=0)
    for _ in range(num_iterations):
        weights, filled = _centroids(cosine, mask, groups, num_groups)
        likeness = (weights @ cosine).masked_fill(~filled, -torch.inf)  # [B, S, W]
        groups = likeness.argmax(dim=1)
    weights, _ = _centroids(cosine, mask, groups, num_groups)
    return groups, weights


def _centroids(
    cosine: Tensor, mask: Tensor, groups: Tensor, num_groups: int
) -> tuple[Tensor, Tensor]:
    """Weights [B, S, W] of the targets in unit centroids; bool [B, S, 1], False where empty."""
    member = (one_hot(groups, num_groups) * mask[..., None]).transpose(1, 2).to(cosine.dtype)
    length = ((member @ cosine) * member).sum(dim=2, keepdim=True).clamp(min=0).sqrt()
    cancelled = length < 1e-3  # of unit vectors; the rest is rounding
    weights = (member / length.clamp(min=1e-3)).masked_fill(cancelled, 0)
    return weights, member.any(dim=2, keepdim=True)


def match_interests(gain: Tensor) -> Tensor:
    """Give each group an interest, one to one, so that the summed gain is the largest.

    Agrees with `match_interests_reference`; where several matchings are equally good, either may
    be taken.

    Args:
        gain: [B, S, S], cosine of each group's centroid with each interest, zero for a group that
            is empty.

    Returns:
        int64 [B, S]: the interest of each group.
    """
    num_interests = gain.shape[1]
    if num_interests > MAX_ENUMERATED:
        return match_interests_reference(gain)
    matchings = _all_matchings(num_interests).to(gain.device)  # [S!, S]
    chosen = one_hot(matchings, num_interests).to(gain.dtype)
    totals = gain.flatten(1) @ chosen.flatten(1).T  # [B, S!]
    return matchings[totals.argmax(dim=1)]


def match_interests_reference(gain: Tensor) -> Tensor:
    """The same by SciPy's `linear_sum_assignment`, one user at a time, for any number."""
    tables = gain.detach().cpu().double().numpy()
    rows = np.array([linear_sum_assignment(table, maximize=True)[1] for table in tables])
    return torch.as_tensor(rows, device=gain.device).reshape(len(gain), -1)


@lru_cache
def _all_matchings(num_interests: int) -> Tensor:
    return torch.tensor(list(permutations(range(num_interests))))


def assign_targets(interests: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Which interest each target teaches: clustering, then matching.

    Args:
        interests: [B, S, D], unit length.
        targets: [B, W, D], unit length.
        mask: bool [B, W], False where the window has no target.

    Returns:
        int64 [B, W] in 0..S-1; meaningless where masked. No gradient flows through it.
    """
    with torch.no_grad():
        groups, weights = cluster_targets(_cosine(targets, targets), mask, interests.shape[1])
        return match_interests(weights @ _cosine(targets, interests)).gather(1, groups)


class Contrast(NamedTuple):
    """What both losses compare.

    Attributes:
        toward: [B, W, S], cosine of each target with each interest over τ.
        mass: [B, S], log of the mass of negatives of each interest (`hymirec.infonce`).
        merged_mass: [B], the same of the best interest for each negative; None if not asked for.
    """

    toward: Tensor
    mass: Tensor
    merged_mass: Tensor | None


def contrast(
    interests: Tensor,
    targets: Tensor,
    negatives: Tensor,
    correction: Tensor,
    false_negative: tuple[Tensor, Tensor],
    *,
    temperature: float,
    merged: bool = True,
) -> Contrast:
    """Compare interests with targets and negatives.

    Args:
        interests: [B, S, D], unit length.
        targets: [B, W, D], unit length.
        negatives: [N, D], unit length, shared by all users.
        correction: [N], see `hymirec.negatives`.
        false_negative: pairs of user and negative that is one of the user's own targets.
        temperature: τ.
        merged: whether `merged_loss` will be asked for.
    """
    toward = _cosine(targets, interests) / temperature
    return Contrast(
        toward,
        *log_mass(
            interests,
            negatives,
            correction,
            false_negative,
            temperature=temperature,
            merged=merged,
        ),
    )


def dmil_loss(contrasted: Contrast, owner: Tensor, mask: Tensor) -> Tensor:
    """The multi-interest loss over a window of targets.

    Args:
        contrasted: see `contrast`.
        owner: int64 [B, W], the interest each target teaches.
        mask: bool [B, W]; a user needs at least one target to count.

    Returns:
        A scalar: the mean over users of the mean over their targets.
    """
    toward = contrasted.toward.gather(2, owner[..., None])[..., 0]  # [B, W]
    loss = info_nce(toward, contrasted.mass.gather(1, owner))
    weight = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (loss * weight).sum() / mask.any(dim=1).sum().clamp(min=1)


def merged_loss(contrasted: Contrast, owner: Tensor, mask: Tensor) -> Tensor:
    """InfoNCE of the very next item in the list that is shown, sorted by the best interest.

    Not in the paper. Interests trained apart give scores that nothing ever made comparable, yet
    the list shown mixes them; here the interest that owns the next item has to lift it above what
    any interest says of the negatives. (Taking the best interest for the target as well lets one
    interest win every list: docs/experiments.md.)

    Args:
        contrasted: see `contrast`, with `merged`; the first target of a window is the next item.
        owner: int64 [B, W], the interest each target teaches.
        mask: bool [B, W].

    Returns:
        A scalar: the mean over users with a next item.
    """
    toward = contrasted.toward[:, 0].gather(1, owner[:, :1])[:, 0]  # [B]
    assert contrasted.merged_mass is not None
    loss = info_nce(toward, contrasted.merged_mass)
    return (loss * mask[:, 0]).sum() / mask[:, 0].sum().clamp(min=1)


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    """[B, X, D] and [B, Y, D] at unit length to [B, X, Y]."""
    return left @ right.transpose(1, 2)
