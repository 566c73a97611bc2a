"""HSTU against its equations, one head and one position at a time."""

import torch
from torch.nn.functional import layer_norm, silu

from hymirec.models.hstu import HSTUConfig, TransductionUnit


def test_a_unit_is_the_papers_three_equations():
    torch.manual_seed(0)
    config = HSTUConfig(width=6, num_heads=2, num_recent=5)
    unit = TransductionUnit(config).eval()
    with torch.no_grad():
        unit.distance_bias.normal_()
        tokens = torch.randn(1, 7, 6)
        found = unit(tokens)[0]
        x = tokens[0]
        parts = silu(unit.project(layer_norm(x, (6,), unit.norm.weight, unit.norm.bias)))
        u, v, q, k = parts.split(6, dim=1)
        seen = torch.zeros(7, 6)
        for head in (slice(0, 3), slice(3, 6)):
            for i in range(7):
                for j in range(i + 1):
                    bias = unit.distance_bias[min(i - j, 4)]
                    weight = silu(q[i, head] @ k[j, head] + bias) / 5
                    seen[i, head] += weight * v[j, head]
        expected = x + unit.transform(layer_norm(seen, (6,), eps=1e-6) * u)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
