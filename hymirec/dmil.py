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
from torch.nn.functional import normalize

MAX_ENUMERATED = 5
"""Up to this many interests all S! matchings are compared in one product (120 at 5)."""


def cluster_targets(
    targets: Tensor, mask: Tensor, num_groups: int, *, num_iterations: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Group each user's targets by cosine similarity.

    Spherical k-means from a farthest-first start, without randomness: the first centroid is the
    first target, each further one the target least like those before it. A tie goes to the lower
    index. With fewer distinct targets than groups the surplus groups stay empty.

    Args:
        targets: [B, W, D], unit length.
        mask: bool [B, W], False where the window has no target.
        num_groups: S.
        num_iterations: rounds of update and assignment.

    Returns:
        Group of each target, int64 [B, W] (meaningless where masked); unit centroids [B, S, D],
        zero for an empty group; bool [B, S], False for an empty group.
    """
    num_users = len(targets)
    users = torch.arange(num_users, device=targets.device)
    first = mask.float().argmax(dim=1)
    centroids = [targets[users, first]]
    nearest = _cosine(targets, centroids[0][:, None])[..., 0]  # [B, W]
    for _ in range(num_groups - 1):
        farthest = nearest.masked_fill(~mask, torch.inf).argmin(dim=1)
        centroids.append(targets[users, farthest])
        nearest = torch.maximum(nearest, _cosine(targets, centroids[-1][:, None])[..., 0])
    centres = torch.stack(centroids, dim=1)  # [B, S, D]
    groups = _cosine(targets, centres).argmax(dim=2)
    for _ in range(num_iterations):
        centres, filled = _centroids(targets, mask, groups, num_groups)
        likeness = _cosine(targets, centres).masked_fill(~filled[:, None], -torch.inf)
        groups = likeness.argmax(dim=2)
    centres, filled = _centroids(targets, mask, groups, num_groups)
    return groups, centres, filled


def match_interests(interests: Tensor, centroids: Tensor, filled: Tensor) -> Tensor:
    """Give each group the interest of the best one-to-one matching.

    Maximises the summed cosine between matched interests and centroids over all assignments;
    empty groups count nothing. Agrees with `match_interests_reference`; where several matchings
    are equally good, either may be taken.

    Args:
        interests: [B, S, D], unit length.
        centroids: [B, S, D], unit length.
        filled: bool [B, S], False for an empty group.

    Returns:
        int64 [B, S]: the interest of each group.
    """
    num_interests = interests.shape[1]
    if num_interests > MAX_ENUMERATED:
        return match_interests_reference(interests, centroids, filled)
    gain = _cosine(centroids, interests) * filled[..., None]  # [B, group, interest]
    matchings = _all_matchings(num_interests).to(gain.device)  # [S!, S]
    one_hot = torch.nn.functional.one_hot(matchings, num_interests).to(gain.dtype)
    totals = gain.flatten(1) @ one_hot.flatten(1).T  # [B, S!]
    return matchings[totals.argmax(dim=1)]


def match_interests_reference(interests: Tensor, centroids: Tensor, filled: Tensor) -> Tensor:
    """The same by SciPy's `linear_sum_assignment`, one user at a time, for any number."""
    gain = (_cosine(centroids, interests) * filled[..., None]).detach().cpu().double().numpy()
    rows = np.array([linear_sum_assignment(user, maximize=True)[1] for user in gain])
    return torch.as_tensor(rows, device=interests.device).reshape(len(gain), -1)


class Logits(NamedTuple):
    """Cosines over τ.

    Attributes:
        toward: [B, W, S], of each target with each interest.
        against: [B, S, N], of each interest with each negative; -inf where the negative is one of
            the user's own targets.
    """

    toward: Tensor
    against: Tensor


def contrast(
    interests: Tensor,
    targets: Tensor,
    negatives: Tensor,
    false_negative: Tensor,
    *,
    temperature: float,
) -> Logits:
    """What both losses compare.

    Args:
        interests: [B, S, D], unit length.
        targets: [B, W, D], unit length.
        negatives: [N, D], unit length, shared by all users.
        false_negative: bool [B, N], True where a negative is one of the user's own targets.
        temperature: τ.
    """
    against = interests @ negatives.T / temperature
    return Logits(
        toward=_cosine(targets, interests) / temperature,
        against=against.masked_fill(false_negative[:, None], -torch.inf),
    )


def assign_targets(interests: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Which interest each target teaches: clustering, then matching; arguments as above.

    Args:
        interests: [B, S, D], unit length.
        targets: [B, W, D], unit length.
        mask: bool [B, W], False where the window has no target.

    Returns:
        int64 [B, W] in 0..S-1; meaningless where masked. No gradient flows through it.
    """
    with torch.no_grad():
        groups, centroids, filled = cluster_targets(targets, mask, interests.shape[1])
        return match_interests(interests, centroids, filled).gather(1, groups)


def dmil_loss(logits: Logits, owner: Tensor, mask: Tensor) -> Tensor:
    """The multi-interest loss over a window of targets.

    Args:
        logits: see `contrast`.
        owner: int64 [B, W], the interest each target teaches.
        mask: bool [B, W]; a user needs at least one target to count.

    Returns:
        A scalar: the mean over users of the mean over their targets.
    """
    toward = logits.toward.gather(2, owner[..., None])[..., 0]  # [B, W]
    against = logits.against.logsumexp(dim=2).gather(1, owner)  # [B, W]
    loss = torch.logaddexp(toward, against) - toward
    weight = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (loss * weight).sum() / mask.any(dim=1).sum().clamp(min=1)


def merged_loss(logits: Logits, owner: Tensor, mask: Tensor) -> Tensor:
    """InfoNCE of the very next item in the list that is shown, sorted by the best interest.

    Not in the paper. Interests trained apart give scores that nothing ever made comparable, yet
    the list shown mixes them; here the interest that owns the next item has to lift it above what
    any interest says of the negatives. (Taking the best interest for the target as well lets one
    interest win every list: docs/experiments.md.)

    Args:
        logits: see `contrast`; the first target of a window is the next item.
        owner: int64 [B, W], the interest each target teaches.
        mask: bool [B, W].

    Returns:
        A scalar: the mean over users with a next item.
    """
    toward = logits.toward[:, 0].gather(1, owner[:, :1])[:, 0]  # [B]
    against = logits.against.amax(dim=1).logsumexp(dim=1)  # [B]
    loss = torch.logaddexp(toward, against) - toward
    return (loss * mask[:, 0]).sum() / mask[:, 0].sum().clamp(min=1)


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    """[B, X, D] and [B, Y, D] at unit length to [B, X, Y]."""
    return left @ right.transpose(1, 2)


def _centroids(
    targets: Tensor, mask: Tensor, groups: Tensor, num_groups: int
) -> tuple[Tensor, Tensor]:
    member = torch.nn.functional.one_hot(groups, num_groups) * mask[..., None]  # [B, W, S]
    sums = member.to(targets.dtype).transpose(1, 2) @ targets
    return normalize(sums, dim=2), member.any(dim=1)


@lru_cache
def _all_matchings(num_interests: int) -> Tensor:
    return torch.tensor(list(permutations(range(num_interests))))
