"""Multi-interest learning against references that do one user, one target, one number at a time.

The references work in double precision, so that values and gradients can be compared closely.
"""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hymirec.dmil import (
    assign_targets,
    cluster_targets,
    dmil_loss,
    match_interests,
    match_interests_reference,
    merged_loss,
)
from hymirec.dmil import contrast as contrast_with

TEMPERATURE = 0.1


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def windows(num_users, num_targets, width, seed, dtype=torch.float64, distinct=None):
    """Targets and mask of random users; with `distinct`, drawn from so many vectors each."""
    rng = np.random.default_rng(seed)
    present = torch.from_numpy(rng.integers(0, num_targets + 1, num_users))
    mask = torch.arange(num_targets) < present[:, None]
    targets = unit(num_users, num_targets, width, seed=seed, dtype=dtype)
    if distinct:
        picks = torch.from_numpy(rng.integers(0, distinct, (num_users, num_targets)))
        targets = targets[torch.arange(num_users)[:, None], picks]
    return targets, mask


def first_of_best(values, better):
    """Place of the best value; a tie goes to the lower index."""
    best = 0
    for place, value in enumerate(values):
        if better(value, values[best]):
            best = place
    return best


def cluster_one_user(targets, num_groups, num_iterations=4):
    """Groups of the present targets of one user, [n, D] in numpy: the text of the docstring."""
    centres = [targets[0]]
    while len(centres) < num_groups:
        nearest = [max(float(t @ c) for c in centres) for t in targets]
        centres.append(targets[first_of_best(nearest, lambda a, b: a < b)])
    groups = [first_of_best([float(t @ c) for c in centres], lambda a, b: a > b) for t in targets]

    def means():
        found = []
        for group in range(num_groups):
            members = [t for t, g in zip(targets, groups, strict=True) if g == group]
            total = np.sum(members, axis=0) if members else None
            found.append(None if total is None else total / max(np.linalg.norm(total), 1e-12))
        return found

    for _ in range(num_iterations):
        centres = means()
        groups = [
            first_of_best(
                [-np.inf if c is None else float(t @ c) for c in centres], lambda a, b: a > b
            )
            for t in targets
        ]
    return groups, means()


def best_total(gain):
    """Largest summed gain over all one-to-one matchings of groups with interests."""
    return max(
        sum(gain[group, interest] for group, interest in enumerate(matching))
        for matching in permutations(range(len(gain)))
    )


def dmil_by_hand(interests, targets, negatives, false_negative, owner, mask):
    """The loss of the paper, a user and a target at a time, in plain autograd."""
    users = []
    for user in range(len(interests)):
        terms = []
        for place in range(targets.shape[1]):
            if not mask[user, place]:
                continue
            interest = interests[user, owner[user, place]]
            toward = torch.exp(interest @ targets[user, place] / TEMPERATURE)
            total = toward
            for number, negative in enumerate(negatives):
                if not false_negative[user, number]:
                    total = total + torch.exp(interest @ negative / TEMPERATURE)
            terms.append(-torch.log(toward / total))
        if terms:
            users.append(sum(terms) / len(terms))
    return sum(users) / len(users)


def merged_by_hand(interests, targets, negatives, false_negative, owner, mask):
    """InfoNCE of the next item by its owner against the best any interest says, user by user."""
    users = []
    for user in range(len(interests)):
        if not mask[user, 0]:
            continue
        toward = torch.exp(interests[user, owner[user, 0]] @ targets[user, 0] / TEMPERATURE)
        total = toward
        for number, negative in enumerate(negatives):
            if not false_negative[user, number]:
                total = total + torch.exp(max(r @ negative for r in interests[user]) / TEMPERATURE)
        users.append(-torch.log(toward / total))
    return sum(users) / len(users)


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs, retain_graph=True)


def assert_same_values_and_gradients(actual, expected, *inputs):
    torch.testing.assert_close(actual, expected)
    for found, wanted in zip(gradients(actual, *inputs), gradients(expected, *inputs), strict=True):
        assert wanted.isfinite().all()
        torch.testing.assert_close(found, wanted)


def contrast(interests, targets, negatives, false_negative, *, temperature):
    """The library's, for uniform negatives and a table of false ones."""
    return contrast_with(
        interests, targets, negatives, torch.zeros(len(negatives)),
        false_negative.nonzero(as_tuple=True), temperature=temperature,
    )  # fmt: skip


def cluster(targets, mask, num_groups, **settings):
    """Groups, centroids and which are filled."""
    groups, weights = cluster_targets(targets @ targets.mT, mask, num_groups, **settings)
    return groups, weights @ targets, (weights != 0).any(dim=2)


# Clustering


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("distinct", [None, 1, 2, 5])
def test_clusters_are_those_of_the_plain_loop(num_groups, distinct):
    targets, mask = windows(250, 7, 5, seed=num_groups, distinct=distinct)
    groups, centroids, filled = cluster(targets, mask, num_groups)
    for user in range(len(targets)):
        present = targets[user][mask[user]].numpy()
        if not len(present):
            assert not filled[user].any()
            continue
        wanted, means = cluster_one_user(present, num_groups)
        assert groups[user][mask[user]].tolist() == wanted
        assert filled[user].tolist() == [mean is not None for mean in means]
        for found, mean in zip(centroids[user].numpy(), means, strict=True):
            np.testing.assert_allclose(found, np.zeros(5) if mean is None else mean, atol=1e-12)


@pytest.mark.parametrize("num_groups", range(1, 7))
@pytest.mark.parametrize("distinct", [None, 1, 2, 3])
def test_every_target_is_in_a_filled_group_and_surplus_groups_are_empty(num_groups, distinct):
    targets, mask = windows(500, 8, 16, seed=num_groups, distinct=distinct, dtype=torch.float32)
    groups, centroids, filled = cluster(targets, mask, num_groups)
    assert groups.min() >= 0
    assert groups.max() < num_groups
    assert filled.gather(1, groups)[mask].all()
    torch.testing.assert_close(centroids.norm(dim=2), filled.float())
    for user in range(len(targets)):
        members = set(groups[user][mask[user]].tolist())
        assert filled[user].nonzero()[:, 0].tolist() == sorted(members)
        different = len({tuple(target) for target in targets[user][mask[user]].tolist()})
        assert len(members) <= different
        if different >= 1:
            assert len(members) >= min(2, different, num_groups)


def test_clusters_do_not_depend_on_what_is_masked_or_on_the_other_users():
    targets, mask = windows(100, 6, 8, seed=3)
    groups, centroids, filled = cluster(targets, mask, 3)
    noise = torch.where(mask[..., None], targets, unit(100, 6, 8, seed=4))
    noisy_groups, noisy_centroids, noisy_filled = cluster(noise, mask, 3)
    assert torch.equal(noisy_groups[mask], groups[mask])
    torch.testing.assert_close(noisy_centroids, centroids)
    assert torch.equal(noisy_filled, filled)
    for user in range(100):
        part = slice(user, user + 1)
        alone, _, _ = cluster(targets[part], mask[part], 3)
        assert torch.equal(alone[mask[part]], groups[part][mask[part]])


def test_two_clear_clusters_are_found():
    a, b = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    near_a, near_b = normalize(a + 0.2 * b, dim=0), normalize(b + 0.2 * a, dim=0)
    targets = torch.stack([near_a, b, a, near_b])[None]
    groups, centroids, filled = cluster(targets, torch.ones(1, 4, dtype=torch.bool), 2)
    assert groups.tolist() == [[0, 1, 0, 1]]
    torch.testing.assert_close(centroids[0, 0], normalize(a + near_a, dim=0))
    torch.testing.assert_close(centroids[0, 1], normalize(b + near_b, dim=0))
    assert filled.all()


def test_ties_go_to_the_lower_index():
    # Axes, so that every cosine is exactly 0 or 1. From x, both y and z are farthest: y starts the
    # second group; z is as far from either centre and joins the first.
    targets = torch.eye(3)[None]
    groups, _, _ = cluster(targets, torch.ones(1, 3, dtype=torch.bool), 2, num_iterations=0)
    assert groups.tolist() == [[0, 1, 0]]


def test_opposite_targets_of_one_group_have_no_centroid_and_break_nothing():
    targets = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    groups, centroids, _ = cluster(targets, mask, 1)
    assert groups.tolist() == [[0, 0]]
    assert torch.equal(centroids, torch.zeros(1, 1, 2))


# Matching


@pytest.mark.parametrize("num_interests", range(1, 7))
@pytest.mark.parametrize("kind", ["plain", "empty groups", "alike interests", "ties"])
def test_matching_is_one_to_one_and_gains_the_most(num_interests, kind):
    num_users = 60 if num_interests == 6 else 300
    interests = unit(num_users, num_interests, 6, seed=1)
    centroids = unit(num_users, num_interests, 6, seed=2)
    filled = torch.ones(num_users, num_interests, dtype=torch.bool)
    if kind == "empty groups":
        generator = torch.Generator().manual_seed(3)
        filled = torch.rand(num_users, num_interests, generator=generator) < 0.5
    elif kind == "alike interests":
        interests[:, -1] = interests[:, 0]
    elif kind == "ties":
        interests = torch.eye(6, dtype=torch.float64)[
            torch.randint(
                0, 3, (num_users, num_interests), generator=torch.Generator().manual_seed(4)
            )
        ]
        centroids = interests.flip(1)
    gains = centroids @ interests.mT * filled[..., None]
    matched = match_interests(gains)
    reference = match_interests_reference(gains)
    every = list(range(num_interests))
    assert (matched.sort(dim=1).values == torch.tensor(every)).all()
    for user in range(num_users):
        gain = gains[user].numpy()
        best = best_total(gain)
        assert gain[every, matched[user].numpy()].sum() == pytest.approx(best, abs=1e-12)
        assert gain[every, reference[user].numpy()].sum() == pytest.approx(best, abs=1e-12)
        if kind == "plain":
            assert matched[user].tolist() == reference[user].tolist()


def test_each_group_takes_the_interest_that_the_sum_wants_not_the_one_it_likes_best():
    # Both groups like interest 0 best; giving it to group 1 gains 0.8 + 0.9, more than 1 + 0.
    gain = torch.tensor([[1.0, 0.8], [0.9, 0.0]])
    assert match_interests(gain[None]).tolist() == [[1, 0]]


def test_owner_is_the_interest_matched_to_the_targets_group():
    interests = torch.eye(3)[None, :2]  # x, y
    targets = torch.eye(3)[None, [1, 0, 1]]  # y, x, y: the first group is y's
    mask = torch.tensor([[True, True, True]])
    assert assign_targets(interests, targets, mask).tolist() == [[1, 0, 1]]
    short = torch.tensor([[True, False, False]])
    assert assign_targets(interests, targets, short)[0, 0] == 1


def test_assignment_of_a_batch_is_that_of_each_user():
    interests = unit(200, 3, 8, seed=5)
    targets, mask = windows(200, 6, 8, seed=6)
    owner = assign_targets(interests, targets, mask)
    for user in range(200):
        part = slice(user, user + 1)
        alone = assign_targets(interests[part], targets[part], mask[part])
        assert torch.equal(alone[mask[part]], owner[part][mask[part]])


# Losses


def batch(num_users=40, num_interests=3, num_targets=5, num_negatives=12, seed=0, distinct=None):
    """Interests, targets and negatives with gradients, a third of the negatives false."""
    targets, mask = windows(num_users, num_targets, 6, seed=seed, distinct=distinct)
    mask[0] = False  # a user without targets
    mask[1] = True
    generator = torch.Generator().manual_seed(seed)
    false_negative = torch.rand(num_users, num_negatives, generator=generator) < 1 / 3
    interests = unit(num_users, num_interests, 6, seed=seed + 1).requires_grad_()
    negatives = unit(num_negatives, 6, seed=seed + 2).requires_grad_()
    return interests, targets.requires_grad_(), negatives, false_negative, mask


@pytest.mark.parametrize("num_interests", [1, 2, 4, 6])
@pytest.mark.parametrize("distinct", [None, 2])
@pytest.mark.parametrize("seed", range(3))
def test_dmil_loss_and_its_gradients_are_those_of_the_loop(num_interests, distinct, seed):
    interests, targets, negatives, false_negative, mask = batch(
        num_interests=num_interests, seed=seed, distinct=distinct
    )
    logits = contrast(interests, targets, negatives, false_negative, temperature=TEMPERATURE)
    owner = assign_targets(interests, targets, mask)
    actual = dmil_loss(logits, owner, mask)
    expected = dmil_by_hand(interests, targets, negatives, false_negative, owner, mask)
    assert_same_values_and_gradients(actual, expected, interests, targets, negatives)


@pytest.mark.parametrize("num_interests", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_merged_loss_and_its_gradients_are_those_of_the_loop(num_interests, seed):
    interests, targets, negatives, false_negative, mask = batch(
        num_interests=num_interests, seed=seed
    )
    logits = contrast(interests, targets, negatives, false_negative, temperature=TEMPERATURE)
    owner = assign_targets(interests, targets, mask)
    actual = merged_loss(logits, owner, mask)
    expected = merged_by_hand(interests, targets, negatives, false_negative, owner, mask)
    assert_same_values_and_gradients(actual, expected, interests, targets, negatives)


def test_loss_of_one_target_and_one_negative_by_hand():
    # Cosines 1 and 0 over τ = 0.1: log(1 + e^-10).
    interests = torch.tensor([[[1.0, 0.0]]])
    logits = contrast(
        interests, interests, torch.tensor([[0.0, 1.0]]), torch.tensor([[False]]), temperature=0.1
    )
    mask = torch.tensor([[True]])
    expected = torch.tensor(10.0).neg().exp().log1p()
    owner = torch.tensor([[0]])
    torch.testing.assert_close(dmil_loss(logits, owner, mask), expected)
    torch.testing.assert_close(merged_loss(logits, torch.tensor([[0]]), mask), expected)


def test_a_user_without_targets_changes_nothing():
    interests, targets, negatives, false_negative, mask = batch()
    some = mask.any(dim=1)
    assert not some.all()

    def losses(rows):
        logits = contrast(
            interests[rows], targets[rows], negatives, false_negative[rows], temperature=TEMPERATURE
        )
        owner = assign_targets(interests[rows], targets[rows], mask[rows])
        return dmil_loss(logits, owner, mask[rows]), merged_loss(logits, owner, mask[rows])

    for with_them, without in zip(losses(slice(None)), losses(some), strict=True):
        assert_same_values_and_gradients(with_them, without, interests, targets, negatives)


@pytest.mark.parametrize("masked", ["no user has a target", "all negatives are false"])
def test_nothing_to_learn_from_gives_zero_and_no_nan(masked):
    interests, targets, negatives, false_negative, mask = batch()
    if masked == "no user has a target":
        mask = torch.zeros_like(mask)
    else:
        false_negative = torch.ones_like(false_negative)
    logits = contrast(interests, targets, negatives, false_negative, temperature=TEMPERATURE)
    owner = assign_targets(interests, targets, mask)
    for loss in (dmil_loss(logits, owner, mask), merged_loss(logits, owner, mask)):
        assert loss.item() == 0
        for gradient in gradients(loss, interests, targets, negatives):
            assert torch.equal(gradient, torch.zeros_like(gradient))


def test_false_negatives_neither_count_nor_get_a_gradient():
    interests, targets, negatives, false_negative, mask = batch()
    false_negative[:] = False
    false_negative[:, 4] = True  # for every user: as if negative 4 had not been drawn
    others = [place for place in range(len(negatives)) if place != 4]
    owner = assign_targets(interests, targets, mask)

    def losses(drawn, false):
        logits = contrast(interests, targets, drawn, false, temperature=TEMPERATURE)
        return dmil_loss(logits, owner, mask), merged_loss(logits, owner, mask)

    without = losses(negatives[others], false_negative[:, others])
    for found, wanted in zip(losses(negatives, false_negative), without, strict=True):
        assert_same_values_and_gradients(found, wanted, interests, targets, negatives)
        assert torch.equal(gradients(found, negatives)[0][4], torch.zeros(6, dtype=torch.float64))


def test_only_the_matched_interest_is_drawn_to_a_target():
    interests, targets, negatives, false_negative, _ = batch(num_users=2)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[:, 0] = True
    owner = torch.full((2, 5), 2)
    logits = contrast(interests, targets, negatives, false_negative, temperature=TEMPERATURE)
    (gradient,) = gradients(dmil_loss(logits, owner, mask), interests)
    assert torch.equal(gradient[:, :2], torch.zeros(2, 2, 6, dtype=torch.float64))
    assert gradient[:, 2].norm(dim=1).min() > 0


def test_large_logits_stay_finite():
    interests = unit(4, 2, 6, dtype=torch.float32)
    targets, mask = windows(4, 3, 6, seed=1, dtype=torch.float32)
    mask[:] = True
    logits = contrast(
        interests, targets, unit(8, 6, seed=2, dtype=torch.float32),
        torch.zeros(4, 8, dtype=torch.bool), temperature=1e-4,
    )  # fmt: skip
    owner = assign_targets(interests, targets, mask)
    assert dmil_loss(logits, owner, mask).isfinite()
    assert merged_loss(logits, owner, mask).isfinite()
