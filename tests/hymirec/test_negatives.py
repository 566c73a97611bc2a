"""Sampled negatives, and the mass that they stand for."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hymirec.infonce import info_nce, log_mass
from hymirec.negatives import NegativeSampler, false_negatives, sample_items


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize(("num_items", "num_negatives"), [(10, 4), (10, 10), (5, 100), (4000, 100)])
def test_negatives_are_distinct_items_drawn_evenly(num_items, num_negatives):
    torch.manual_seed(0)
    counts = torch.zeros(num_items + 1)
    draws = [sample_items(num_items, num_negatives, torch.device("cpu")) for _ in range(2000)]
    for drawn in draws:
        assert drawn.dtype == torch.int64
        assert len(drawn.unique()) == len(drawn)
        counts[drawn] += 1
    wanted = min(num_negatives, num_items)
    assert counts[0] == 0
    lengths = {len(drawn) for drawn in draws}
    if num_negatives * 16 >= num_items:
        assert lengths == {wanted}
    else:
        assert max(lengths) == wanted
        assert min(lengths) > 0.85 * wanted
    # Six standard deviations of a binomial count.
    share = counts[1:].sum() / num_items / 2000
    spread = (2000 * share * (1 - share)).clamp(min=0).sqrt()
    assert (counts[1:] - 2000 * share).abs().max() <= 6 * spread + 1e-3


def test_false_negatives_are_the_targets_among_the_negatives_of_the_same_row():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        num_items = int(rng.integers(1, 30))
        targets = torch.from_numpy(rng.integers(0, num_items + 1, (rng.integers(1, 6), 4)))
        negatives = torch.from_numpy(
            rng.permutation(np.arange(1, num_items + 1))[: rng.integers(1, num_items + 1)]
        )
        rows, places = false_negatives(targets, negatives, num_items)
        found = set(zip(rows.tolist(), places.tolist(), strict=True))
        assert found == {
            (row, place)
            for row, window in enumerate(targets.tolist())
            for place, negative in enumerate(negatives.tolist())
            if negative in window
        }


def test_uniform_negatives_are_not_corrected():
    sampler = NegativeSampler("uniform", 20, torch.ones(101, dtype=torch.int64))
    negatives = sampler(torch.zeros(1, 1, dtype=torch.int64))
    assert len(negatives.items) == 20
    assert not negatives.correction.any()


@pytest.mark.parametrize("sampling", ["popularity", "in_batch"])
def test_corrected_mass_is_that_of_uniform_negatives_however_they_are_drawn(sampling):
    # Item i occurs about 1/i of the time; every item has a weight of its own, so that a sum over
    # draws that forgot how likely an item is would be far off.
    torch.manual_seed(0)
    occurrences = torch.cat([torch.zeros(1), 3000 / torch.arange(1, 41)]).long()
    weight = torch.linspace(0.5, 3, 41, dtype=torch.float64).flip(0)
    sampler = NegativeSampler(sampling, 60, occurrences)
    masses, numbers = [], []
    for _ in range(4000):
        targets = torch.multinomial(occurrences.float(), 60, replacement=True).view(12, 5)
        items, correction = sampler(targets)
        assert len(items.unique()) == len(items)
        assert items.min() >= 1
        masses.append((weight[items] * correction.double().exp()).sum())
        numbers.append(len(items))
    # As if so many had been drawn evenly.
    expected = weight[1:].mean() * np.mean(numbers)
    assert torch.stack(masses).mean().item() == pytest.approx(expected.item(), rel=0.02)


def test_in_batch_negatives_are_targets_of_the_batch():
    sampler = NegativeSampler("in_batch", 3, torch.ones(11, dtype=torch.int64))
    targets = torch.tensor([[4, 0, 7], [7, 9, 2]])
    for seed in range(50):
        torch.manual_seed(seed)
        items = sampler(targets).items
        assert set(items.tolist()) <= {2, 4, 7, 9}
        assert 1 <= len(items) <= 3


def mass_by_hand(queries, negatives, correction, pairs, temperature):
    """Both masses, a user and a negative at a time."""
    excluded = set(zip(*(part.tolist() for part in pairs), strict=True))
    each, merged = [], []
    for user, interests in enumerate(queries):
        counted = [n for n in range(len(negatives)) if (user, n) not in excluded]
        logits = torch.stack(
            [interests @ negatives[n] / temperature + correction[n] for n in counted], dim=1
        )  # [S, counted]
        each.append(logits.exp().sum(dim=1).log())
        merged.append(logits.exp().amax(dim=0).sum().log())
    return torch.stack(each), torch.stack(merged)


@pytest.mark.parametrize("temperature", [0.1, 0.005])  # exponentials of 10 and of 200
@pytest.mark.parametrize("num_queries", [1, 2, 4])
@pytest.mark.parametrize("seed", range(20))
def test_mass_and_its_gradients_are_those_of_the_sum(num_queries, seed, temperature):
    queries = unit(6, num_queries, 5, seed=seed).requires_grad_()
    negatives = unit(9, 5, seed=seed + 100).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    correction = torch.randn(9, generator=generator, dtype=torch.float64)
    pairs = (torch.rand(6, 9, generator=generator) < 0.3).nonzero(as_tuple=True)
    found = log_mass(queries, negatives, correction, pairs, temperature=temperature)
    wanted = mass_by_hand(queries, negatives, correction, pairs, temperature)
    toward = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    for actual, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, expected)
        losses = [info_nce(toward.expand(actual.shape) if actual.dim() > 1 else toward[:, 0], mass)
                  for mass in (actual, expected)]  # fmt: skip
        slopes = [
            torch.autograd.grad(loss.sum(), (queries, negatives), retain_graph=True)
            for loss in losses
        ]
        for ours, plain in zip(*slopes, strict=True):
            torch.testing.assert_close(ours, plain)
    both = [torch.autograd.grad(mass[0].sum() + mass[1].sum(), (queries, negatives))
            for mass in (found, wanted)]  # fmt: skip
    for ours, plain in zip(*both, strict=True):
        torch.testing.assert_close(ours, plain)


def test_a_negative_pushes_once_where_several_queries_are_equally_near():
    one = unit(4, 1, 5, seed=1)
    negatives, none = unit(9, 5, seed=2), torch.zeros(0, dtype=torch.int64)
    twice = one.repeat(1, 2, 1).requires_grad_()
    _, merged = log_mass(twice, negatives, torch.zeros(9), (none, none), temperature=0.1)
    (slope,) = torch.autograd.grad(merged.sum(), twice)
    single = one.clone().requires_grad_()
    mass, _ = log_mass(single, negatives, torch.zeros(9), (none, none), temperature=0.1)
    (wanted,) = torch.autograd.grad(mass.sum(), single)
    torch.testing.assert_close(slope.sum(dim=1, keepdim=True), wanted)


@pytest.mark.parametrize("num_queries", [1, 3])
def test_the_mass_of_the_best_query_is_left_out_where_nobody_asks(num_queries):
    queries = unit(4, num_queries, 5, seed=1).requires_grad_()
    negatives, none = unit(9, 5, seed=2), torch.zeros(0, dtype=torch.int64)
    found = [
        log_mass(
            queries, negatives, torch.zeros(9), (none, none), temperature=0.1, merged=merged
        )
        for merged in (True, False)
    ]  # fmt: skip
    assert found[1][1] is None
    torch.testing.assert_close(found[1][0], found[0][0])
    slopes = [torch.autograd.grad(each.sum(), queries)[0] for each, _ in found]
    torch.testing.assert_close(slopes[1], slopes[0])
