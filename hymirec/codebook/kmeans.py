"""Balanced k-means under cosine similarity.

N points, K clusters, D width. Balance keeps every centroid in use: item embeddings crowd into a
few directions, and plain k-means spends most of its entries there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hymirec.codebook.beam import ROWS, argmin

SOFTNESS = 0.1
"""Within how much of a tie a point counts for several clusters, in standard deviations of the
similarities."""


def balanced_cosine_kmeans(
    points: Tensor, num_clusters: int, *, num_iterations: int, generator: torch.Generator,
    start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Cluster the directions of points into groups of nearly equal size.

    Every cluster has a price, added to its distance; it rises while the cluster holds more than
    N/K points and falls while it holds fewer. Each iteration is one step of Sinkhorn's algorithm
    for the assignment into equal groups smoothed by entropy (Cuturi, 2013), so balance and
    centroids settle together. The groups are counted softly: where points lie close together,
    prices that follow hard counts send them all from one cluster to another and back. Exactly
    equal groups by deferred acceptance took thirty times as long on 10,000 points and kept no
    higher cosine.

    Args:
        points: [N, D], N ≥ num_clusters; zero rows are allowed and pull no centroid.
        num_clusters: K.
        num_iterations: rounds of assignment and update.
        generator: draws the K points that the centroids start from.
        start: centroids [K, D] to start from instead; of those that are zero points take the place.

    Returns:
        Unit centroids [K, D]; a cluster that holds no direction keeps the centroid it had.
    """
    directions = normalize(points, dim=1)
    drawn = torch.randperm(len(points), generator=generator)[:num_clusters]
    centroids = directions[drawn.to(points.device)].clone()
    if start is not None:
        centroids = torch.where(start.norm(dim=1, keepdim=True) > 0, start, centroids)
    prices = points.new_zeros(num_clusters)
    even = len(points) / num_clusters
    for _ in range(num_iterations):
        similarity = directions @ centroids.T
        softness = SOFTNESS * similarity.std(correction=0).clamp(min=1e-6)
        sizes = ((similarity - prices) / softness).softmax(dim=1).sum(dim=0)
        prices += softness * (sizes.clamp(min=0.1) / even).log()
        labels = (similarity - prices).argmax(dim=1)
        sums = torch.zeros_like(centroids).index_add_(0, labels, directions)
        moved = sums.norm(dim=1, keepdim=True) > 0
        centroids = torch.where(moved, normalize(sums, dim=1), centroids)
    return centroids


NARROWEST = 16
"""Leading coordinates that `widening_kmeans` starts with."""
ITERATIONS_NARROW, ITERATIONS_WIDE = 3, 6
"""Iterations at each width but the full one, and at the full one."""
POINTS_PER_CLUSTER = 32
"""Points that one iteration looks at, in a sample that changes from one to the next."""


def widening_kmeans(points: Tensor, num_clusters: int, *, generator: torch.Generator) -> Tensor:
    """Cluster points whose coordinates are sorted by variance, in a few leading ones at first.

    Among few coordinates k-means is quick and finds the coarse order of the points; each doubling
    of the width starts from the groups of the one before. Iterations take turns over parts of the
    points.

    Args:
        points: [N, D], N ≥ num_clusters, in no order that matters.
        num_clusters: K.
        generator: draws what the clusters start from, the first part, and a new place for a
            cluster that lost its points.

    Returns:
        Centroids [K, D]: means over the last iterations, as many as take each point once.
    """
    num_points, full = points.shape
    widths: list[int] = []
    while (width := NARROWEST << (len(widths) // ITERATIONS_NARROW)) < full:
        widths.append(width)
    widths += [full] * ITERATIONS_WIDE
    num_parts = max(1, round(num_points / (POINTS_PER_CLUSTER * num_clusters)))
    first_part = int(torch.randint(num_parts, (), generator=generator))
    averaged = min(num_parts, ITERATIONS_WIDE)
    start = torch.randperm(num_points, generator=generator)[:num_clusters]
    centroids = points[start.to(points.device)]
    sums, sizes = torch.zeros_like(centroids), points.new_zeros(num_clusters)
    for i, (width, next_width) in enumerate(zip(widths, [*widths[1:], full], strict=True)):
        part = points[(first_part + i) % num_parts :: num_parts, :next_width].contiguous()
        labels = nearest(part[:, :width], centroids[:, :width].contiguous())
        part_sums = part.new_zeros(num_clusters, next_width).index_add_(0, labels, part)
        part_sizes = torch.bincount(labels, minlength=num_clusters)
        if i >= len(widths) - averaged:
            sums += part_sums
            sizes += part_sizes
        centroids = _means(part_sums, part_sizes, part, generator)
    return torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centroids)


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The centroid [K, D] closest to each point [N, D]: int64 [N]."""
    half = centroids.pow(2).sum(dim=1) / 2
    parts = [argmin(torch.addmm(half, part, centroids.T, alpha=-1)) for part in points.split(ROWS)]
    return torch.cat(parts)


def _means(sums: Tensor, sizes: Tensor, points: Tensor, generator: torch.Generator) -> Tensor:
    """Mean of each cluster; one without points moves to one of `points` drawn at random."""
    means = sums / sizes.clamp(min=1)[:, None]
    empty = (sizes == 0).nonzero()[:, 0]
    if len(empty):
        drawn = torch.randint(len(points), (len(empty),), generator=generator)
        means[empty] = points[drawn.to(points.device)]
    return means
