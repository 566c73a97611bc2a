"""Balanced k-means under cosine similarity.

N points, K clusters, D width. Balance keeps every centroid in use: item embeddings crowd into a
few directions, and plain k-means spends most of its entries there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

SOFTNESS = 0.1
"""Within how much of a tie a point counts for several clusters, in standard deviations of the
similarities."""


def balanced_cosine_kmeans(
    points: Tensor, num_clusters: int, *, num_iterations: int, generator: torch.Generator
) -> Tensor:
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
        softness = SOFTNESS * similarity.std(correction=0).clamp(min=1e-6)
        sizes = ((similarity - prices) / softness).softmax(dim=1).sum(dim=0)
        prices += softness * (sizes.clamp(min=0.1) / even).log()
        labels = (similarity - prices).argmax(dim=1)
        sums = torch.zeros_like(centroids).index_add_(0, labels, directions)
        moved = sums.norm(dim=1, keepdim=True) > 0
        centroids = torch.where(moved, normalize(sums, dim=1), centroids)
    return centroids
