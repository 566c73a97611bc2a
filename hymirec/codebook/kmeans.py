"""Balanced k-means under cosine similarity.

N points, K clusters, D width. Balance keeps every centroid in use: item embeddings crowd into a
few directions, and plain k-means spends most of its entries there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

PRICE_STEP = 0.15
"""How fast a crowded cluster grows dear, in standard deviations of the similarities."""


def balanced_cosine_kmeans(
    points: Tensor, num_clusters: int, *, num_iterations: int, generator: torch.Generator
) -> Tensor:
    """Cluster the directions of points into groups of nearly equal size.

    Every cluster has a price, added to its distance; it rises while the cluster holds more than
    N/K points and falls while it holds fewer. This is the dual of the balanced assignment problem
    climbed one step an iteration, as the auction algorithm does (Bertsekas, 1988), so balance and
    centroids settle together. Exactly equal groups by deferred acceptance took thirty times as
    long on 10,000 points and kept no higher cosine.

    Args:
        points: [N, D], N ≥ num_clusters; zero rows are allowed and pull no centroid.
        num_clusters: K.
        num_iterations: rounds of assignment and update.
        generator: draws the K points that the centroids start from.

    Returns:
        Unit centroids [K, D]; a cluster that holds no direction keeps the centroid it had.
    """
    directions = normalize(points, dim=1)
    start = torch.randperm(len(points), generator=generator)[:num_clusters]
    centroids = directions[start.to(points.device)].clone()
    prices = points.new_zeros(num_clusters)
    even = len(points) / num_clusters
    for _ in range(num_iterations):
        similarity = directions @ centroids.T
        labels = (similarity - prices).argmax(dim=1)
        sizes = torch.bincount(labels, minlength=num_clusters)
        prices += PRICE_STEP * similarity.std() * (sizes.clamp(min=0.1) / even).log()
        sums = torch.zeros_like(centroids).index_add_(0, labels, directions)
        moved = sums.norm(dim=1, keepdim=True) > 0
        centroids = torch.where(moved, normalize(sums, dim=1), centroids)
    return centroids
