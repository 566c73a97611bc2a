"""Beam search for sums of codebook entries that come close to given vectors.

n vectors, D width, M layers, K entries a layer, B codes kept for each vector. The squared distance
of vector x to a sum of entries c_1 + … + c_m is, less the constant ‖x‖² and halved,

    Σ_i (‖c_i‖² / 2 − x·c_i)  +  Σ_{i<j} c_i·c_j

so that, with the products of entries in a table, one more layer costs a few additions for each
candidate whatever D is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

ROWS = 1024
"""Vectors searched for at a time: the candidates of so many stay in a processor's cache."""

_GROUP = 32


def costs_alone(vectors: Tensor, entries: Tensor) -> Tensor:
    """‖c‖² / 2 − x·c of vectors [n, D] and entries [K, D]: [n, K]."""
    return torch.addmm(entries.pow(2).sum(dim=1) / 2, vectors, entries.T, alpha=-1)


def extend(
    codes: Tensor, costs: Tensor, alone: Tensor, products: Tensor, beam: int
) -> tuple[Tensor, Tensor]:
    """Lengthen codes by a layer and keep the best.

    Args:
        codes: int64 [n, B, m], the codes kept so far, best or not in any order: entry k of layer i
            is i·K + k.
        costs: [n, B], of those codes.
        alone: [n, K], `costs_alone` of the new layer's entries.
        products: [m·K, K], dot products of all earlier entries and the new layer's.
        beam: how many codes to keep at the most.

    Returns:
        Codes [n, B', m + 1] and costs [n, B'], the best first; B' is `beam`, or the number of
        candidates where that is smaller.
    """
    n, kept, depth = codes.shape
    num_entries = alone.shape[1]
    if depth:
        candidates = embedding_bag(codes.view(n * kept, depth), products, mode="sum")
        candidates = candidates.view(n, kept, num_entries)
        candidates += alone[:, None]
        candidates += costs[..., None]
    else:
        candidates = alone[:, None] + costs[..., None]
    costs, place = _smallest(candidates.flatten(1), min(beam, kept * num_entries))
    parent = (place // num_entries)[..., None].expand(-1, -1, depth)
    entry = place % num_entries + depth * num_entries
    return torch.cat([codes.gather(1, parent), entry[..., None]], dim=2), costs


def search(vectors: Tensor, entries: Tensor, beam: int) -> Tensor:
    """Codes int64 [N, M] of vectors [N, D] under entries [M, K, D].

    Exact where the beam holds all sums of the layers but the last, K^(M - 1); else the best found,
    layers yet to come counting for the mean of their entries.
    """
    num_layers, num_entries, width = entries.shape
    # Seen from the mean of each layer's entries: where vectors differ by little from their mean,
    # rounding would hide the differences.
    middles = entries.mean(dim=1, keepdim=True)
    flat = (entries - middles).view(num_layers * num_entries, width)
    products = [
        flat[: layer * num_entries] @ flat[layer * num_entries : (layer + 1) * num_entries].T
        for layer in range(num_layers)
    ]
    found = []
    for batch in (vectors - middles.sum(dim=(0, 1))).split(ROWS):
        alone = costs_alone(batch, flat).view(-1, num_layers, num_entries)
        codes, costs = start(batch)
        for layer in range(num_layers):
            codes, costs = extend(codes, costs, alone[:, layer], products[layer], beam)
        found.append(codes[:, 0])
    first_of_layer = torch.arange(num_layers, device=vectors.device) * num_entries
    return torch.cat(found) - first_of_layer


def start(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The one code of no layers, for each of n vectors: int64 [n, 1, 0], and its cost [n, 1]."""
    nothing = torch.empty(len(vectors), 1, 0, dtype=torch.long, device=vectors.device)
    return nothing, vectors.new_zeros(len(vectors), 1)


def argmin(costs: Tensor) -> Tensor:
    """The place of the smallest cost in each row of costs [n, W]."""
    if costs.device.type != "cpu":
        return costs.argmin(dim=1)
    # NumPy looks at several numbers at once; torch took four times as long.
    return torch.from_numpy(costs.numpy().argmin(axis=1))


def _smallest(costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The smallest of each row of costs [n, W], best first: values and places [n, count].

    Overwrites costs. On a CPU this takes about a fifth of the time of `torch.topk`.
    """
    n, size = costs.shape
    if costs.device.type != "cpu":
        return costs.topk(count, dim=1, largest=False)
    if size % _GROUP == 0 and size // _GROUP > 2 * count:
        # The `count` smallest lie in the groups with the `count` smallest minima.
        groups = costs.view(n, size // _GROUP, _GROUP)
        _, which = _smallest(groups.amin(dim=2), count)
        inside = groups.gather(1, which[..., None].expand(-1, -1, _GROUP)).flatten(1)
        smallest, place = _smallest(inside, count)
        return smallest, which.gather(1, place // _GROUP) * _GROUP + place % _GROUP
    table, rows = costs.numpy(), np.arange(n)
    values, places = np.empty((n, count), np.float32), np.empty((n, count), np.int64)
    for i in range(count):
        places[:, i] = table.argmin(axis=1)
        values[:, i] = table[rows, places[:, i]]
        table[rows, places[:, i]] = np.inf
    return torch.from_numpy(values), torch.from_numpy(places)
