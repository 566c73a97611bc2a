"""Fitting from a codebook that is there: less work, and no worse than from nothing."""

import pytest
import torch
from torch.nn.functional import normalize

from hymirec.codebook import AdditiveConfig, ResidualConfig, additive, fit_codebook, residual

CONFIGS = {
    "residual": ResidualConfig(num_layers=3, num_entries=32),
    "additive": AdditiveConfig(num_layers=4, num_entries=32),
}


def clustered(count, centres, seed):
    """Unit vectors around some of 40 directions [count, 16]."""
    directions = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(*centres, (count,), generator=generator)
    return normalize(directions[which] + 0.3 * torch.randn(count, 16, generator=generator), dim=1)


@pytest.fixture(scope="module")
def catalogue():
    """2,000 vectors the codebook was fitted on, and 400 more that lie elsewhere."""
    return clustered(2000, (0, 30), seed=1), clustered(400, (30, 40), seed=2)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_warm_fit_serves_all_items_as_well_as_a_cold_one(kind, catalogue):
    first, more = catalogue
    everything = torch.cat([first, more])
    old = fit_codebook(first, CONFIGS[kind])
    warm = fit_codebook(everything, CONFIGS[kind], start=old)
    cold = fit_codebook(everything, CONFIGS[kind])
    assert warm.id != old.id
    assert warm.health(everything)["cosine"] > cold.health(everything)["cosine"] - 0.005
    # What the old one serves badly is served better: that is what the update is for.
    assert warm.health(more)["cosine"] > old.health(more)["cosine"] + 0.02


def test_a_warm_residual_fit_takes_a_third_of_the_iterations(catalogue, monkeypatch):
    asked = []
    kmeans = residual.balanced_cosine_kmeans

    def counted(*args, num_iterations, **kwargs):
        asked.append(num_iterations)
        return kmeans(*args, num_iterations=num_iterations, **kwargs)

    monkeypatch.setattr(residual, "balanced_cosine_kmeans", counted)
    config = CONFIGS["residual"]
    old = fit_codebook(catalogue[0], config)
    fit_codebook(catalogue[0], config, start=old)
    assert asked == [15] * 3 + [5] * 3


def test_a_warm_additive_fit_grows_no_layers(catalogue, monkeypatch):
    old = fit_codebook(catalogue[0], CONFIGS["additive"])
    monkeypatch.setattr(additive, "_grow", None)  # not callable: a cold fit fails here
    fit_codebook(catalogue[1], CONFIGS["additive"], start=old)
    with pytest.raises(TypeError):
        fit_codebook(catalogue[1], CONFIGS["additive"])


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_codebook_of_another_shape_or_kind_is_passed_over(kind, catalogue):
    vectors = catalogue[0]
    cold = fit_codebook(vectors, CONFIGS[kind])
    smaller = CONFIGS[kind].model_copy(update={"num_layers": 2})
    for other in (smaller, *(config for name, config in CONFIGS.items() if name != kind)):
        start = fit_codebook(vectors, other)
        assert fit_codebook(vectors, CONFIGS[kind], start=start).id == cold.id


def test_a_centroid_that_had_nothing_to_learn_starts_at_a_point():
    same = torch.eye(4).repeat(4, 1)
    # After the first layer nothing is left: the second layer's centroids are zero.
    old = fit_codebook(same, ResidualConfig(num_layers=2, num_entries=4))
    assert not old.tensor[1].any()
    other = clustered(200, (0, 40), seed=3)
    wide = fit_codebook(other[:, :4], ResidualConfig(num_layers=2, num_entries=4), start=old)
    assert (wide.tensor[1].norm(dim=1) > 0.99).all()
