"""HSTU against its equations, one head and one position at a time."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import layer_norm, silu

from hymirec.models.hstu import HSTU, HSTUConfig, TransductionUnit, age_of


def test_a_unit_is_the_papers_three_equations():
    torch.manual_seed(0)
    config = HSTUConfig(width=6, num_heads=2, num_recent=5)
    unit = TransductionUnit(config).eval()
    with torch.no_grad():
        unit.distance_bias.normal_()
        unit.age_bias.normal_()
        tokens = torch.randn(1, 7, 6)
        age = torch.randint(0, 32, (1, 7, 7))
        found = unit(tokens, age)[0]
        x = tokens[0]
        parts = silu(unit.project(layer_norm(x, (6,), unit.norm.weight, unit.norm.bias)))
        u, v, q, k = parts.split(6, dim=1)
        seen = torch.zeros(7, 6)
        for head in (slice(0, 3), slice(3, 6)):
            for i in range(7):
                for j in range(i + 1):
                    bias = unit.distance_bias[min(i - j, 4)] + unit.age_bias[age[0, i, j]]
                    weight = silu(q[i, head] @ k[j, head] + bias) / 5
                    seen[i, head] += weight * v[j, head]
        expected = x + unit.transform(layer_norm(seen, (6,), eps=1e-6) * u)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (3599, 12), (2**30 - 1, 30), (2**30, 31), (2**40, 31)],
)
def test_ages_are_told_apart_in_powers_of_two(seconds, expected):
    start = 1_700_000_000
    age = age_of(torch.tensor([[start, start + seconds]]))[0]
    assert age.tolist() == [[0, 0], [expected, 0]]


def test_when_events_happened_matters_and_not_what_year_it_was(build, random_histories):
    model = build(HSTU)
    (history,) = random_histories([6])
    later = replace(history, times=history.times + 10**8)
    slower = replace(history, times=history.times * 50)
    answers = [model.encode_user(model.assemble([one])) for one in (history, later, slower)]
    torch.testing.assert_close(answers[1], answers[0])
    assert not torch.allclose(answers[2], answers[0], atol=1e-5)
