"""The additive codebook against brute force, least squares and the paper's."""

import logging
from itertools import product

import faiss
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn.functional import cosine_similarity, normalize

from hymirec.codebook import (
    PRESETS,
    AdditiveCodebook,
    AdditiveConfig,
    CodebookConfig,
    ResidualCodebook,
    ResidualConfig,
    codebook_from_tensors,
    fit_codebook,
    load_codebook,
)
from hymirec.codebook.additive import principal_axes, refit
from hymirec.codebook.beam import _smallest, search
from hymirec.codebook.kmeans import widening_kmeans
from hymirec.codebook.packing import bytes_per_item, pack_codes, unpack_indices
from hymirec.errors import DataError
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clustered(count, width=24, seed=0, spread=0.4):
    """Unit vectors around forty directions."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(40, (count,), generator=generator)
    noise = spread * torch.randn(count, width, generator=generator)
    return normalize(normalize(draw(40, width, seed=1), dim=1)[chosen] * 2 + noise, dim=1)


def fit(vectors, num_layers=4, num_entries=16, **settings):
    config = AdditiveConfig(num_layers=num_layers, num_entries=num_entries, **settings)
    return AdditiveCodebook.fit(vectors, config)


def mean_cosine(codebook, vectors):
    return cosine_similarity(vectors, codebook.decode(codebook.encode(vectors)), dim=1).mean()


def random_case(seed):
    """A few vectors and entries, now and then equal, zero or far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    layers, size, width = (int(torch.randint(1, n, (), generator=generator)) for n in (4, 5, 5))
    entries = torch.randn(layers, size, width, generator=generator)
    vectors = torch.randn(6, width, generator=generator)
    degenerate = seed % 5
    if degenerate == 1:
        entries[:, -1] = entries[:, 0]
    if degenerate == 2:
        entries[-1] = 0
        vectors[0] = 0
    if degenerate == 3:
        entries += 30
        vectors += 30 * layers
    if degenerate == 4:
        entries = entries[:1, :1].repeat(layers, size, 1)
    return vectors, entries


def squared_errors(vectors, entries, codes):
    """Squared distance of each vector [n, D] to the sum its code [n, M] names, in float64."""
    layers = range(len(entries))
    sums = sum(entries[layer].double()[codes[:, layer]] for layer in layers)
    return (vectors.double() - sums).pow(2).sum(dim=1)


def least_errors(vectors, entries):
    """The smallest of all sums, tried one after another."""
    every = product(range(entries.shape[1]), repeat=len(entries))
    errors = [
        squared_errors(vectors, entries, torch.tensor([code] * len(vectors))) for code in every
    ]
    return torch.stack(errors).amin(dim=0)


def test_a_beam_that_holds_everything_finds_the_nearest_sum():
    for seed in range(600):
        vectors, entries = random_case(seed)
        codes = search(vectors, entries, entries.shape[1] ** (len(entries) - 1))
        assert codes.shape == (len(vectors), len(entries))
        torch.testing.assert_close(
            squared_errors(vectors, entries, codes), least_errors(vectors, entries),
            rtol=1e-3, atol=1e-4,
        )  # fmt: skip


def test_a_beam_of_one_is_the_nearest_entry_layer_by_layer():
    for seed in range(600):
        vectors, entries = random_case(seed)
        codes = search(vectors, entries, 1)
        means = entries.mean(dim=1)
        for vector, code in zip(vectors, codes, strict=True):
            left = vector - means.sum(dim=0)
            for layer, mean, entry in zip(entries, means, code.tolist(), strict=True):
                distances = (left - (layer - mean)).norm(dim=1)
                assert distances[entry] == pytest.approx(distances.min().item(), abs=2e-3)
                left = left - (layer - mean)[entry]


def test_a_wide_beam_comes_closer_than_a_narrow_one():
    vectors, entries = draw(500, 8), draw(5, 16, 8, seed=1)
    errors = [
        squared_errors(vectors, entries, search(vectors, entries, b)).mean() for b in (1, 4, 16)
    ]
    assert errors[0] > 1.1 * errors[1] > 1.1 * errors[2]


def test_smallest_are_those_of_a_sort():
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        size = int(torch.randint(1, 12, (), generator=generator)) * (32 if seed % 2 else 1)
        count = int(torch.randint(1, min(size, 9) + 1, (), generator=generator))
        costs = torch.randn(7, size, generator=generator)
        if seed % 3 == 0:
            costs = costs.round()  # ties
        values, places = _smallest(costs.clone(), count)
        assert torch.equal(values, costs.sort(dim=1).values[:, :count])
        assert torch.equal(costs.gather(1, places), values)
        assert all(len(set(row)) == count for row in places.tolist())


def test_refit_is_the_answer_of_least_squares():
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        layers, size, width, count = (
            int(torch.randint(1, n, (), generator=generator)) for n in (4, 6, 5, 30)
        )
        prior = torch.randn(layers, size, width, generator=generator)
        pool = torch.randn(count, width, generator=generator)
        codes = torch.randint(size, (count, layers), generator=generator)
        weight = 10 ** float(torch.randint(-1, 2, (), generator=generator))
        found = refit(pool, codes, prior, weight)

        taken = np.zeros((count, layers * size))
        for row, code in enumerate(codes.tolist()):
            for layer, entry in enumerate(code):
                taken[row, layer * size + entry] = 1
        flat = prior.reshape(-1, width).double().numpy()
        stacked = np.concatenate([taken, np.sqrt(weight) * np.eye(layers * size)])
        wanted = np.concatenate([pool.double().numpy(), np.sqrt(weight) * flat])
        expected = np.linalg.lstsq(stacked, wanted, rcond=None)[0].reshape(prior.shape)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4)

        before = squared_errors(pool, prior, codes).sum()
        assert squared_errors(pool, found, codes).sum() <= before * (1 + 1e-5) + 1e-6
        idle = taken.sum(axis=0) == 0
        np.testing.assert_allclose(found.view(-1, width).numpy()[idle], flat[idle], atol=1e-6)


def test_principal_axes_are_those_of_a_known_spectrum(monkeypatch):
    monkeypatch.setattr("hymirec.codebook.additive._FEWEST_AXES", 1)
    rotation, _ = torch.linalg.qr(draw(4, 4))
    pool = torch.eye(4).repeat(2, 1) * torch.tensor([1.0, 4.0, 2.0, 3.0])  # variances 1, 16, 4, 9
    for share, count in ((0.5, 1), (0.54, 2), (0.8, 2), (0.9, 3), (0.99, 4), (1.0, 4)):
        axes = principal_axes(pool @ rotation, share)
        assert axes.shape == (4, count)
        expected = rotation[[1, 3, 2, 0]][:count]
        torch.testing.assert_close((expected @ axes).abs(), torch.eye(count), rtol=0, atol=1e-4)


def inertia(points, centroids):
    return torch.cdist(points, centroids).amin(dim=1).pow(2).mean().item()


def plain_kmeans(points, num_clusters, num_iterations, generator):
    centroids = points[torch.randperm(len(points), generator=generator)[:num_clusters]]
    for _ in range(num_iterations):
        nearest = torch.cdist(points, centroids).argmin(dim=1)
        for cluster in nearest.unique():
            centroids[cluster] = points[nearest == cluster].mean(dim=0)
    return centroids


@pytest.mark.parametrize("count", [600, 4000])  # all in one part, and in several
def test_widening_kmeans_is_as_close_as_plain_kmeans_on_all_points(count):
    points = draw(count, 40, seed=3) * torch.linspace(2, 0.2, 40) + draw(1, 40)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        plain = inertia(points, plain_kmeans(points, 20, 12, generator))
        widening = inertia(points, widening_kmeans(points, 20, generator=generator))
        assert widening == pytest.approx(plain, rel=0.03)
        assert widening < 0.9 * inertia(points, points[:20])


def test_widening_kmeans_of_as_many_clusters_as_points_keeps_the_points():
    points = draw(40, 20)
    found = widening_kmeans(points, 40, generator=torch.Generator().manual_seed(0))
    assert inertia(points, found) < 1e-5


@pytest.mark.parametrize("num_entries", [2, 256, 257, 65_536])
def test_packing_without_scales_round_trip(num_entries):
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(0, num_entries, (7, 5, 3), generator=generator)
    indices[0, 0] = num_entries - 1
    packed = pack_codes(indices, None, num_entries)
    assert packed.shape[-1] == bytes_per_item(3, num_entries, scaled=False)
    assert packed.shape[-1] == (3 if num_entries <= 256 else 6)
    assert torch.equal(unpack_indices(packed, 3, num_entries), indices)


@pytest.mark.parametrize("num_entries", [16, 300])
def test_decoding_adds_up_the_entries(num_entries):
    vectors = clustered(400)
    codebook = fit(vectors, num_entries=num_entries)
    packed = codebook.encode(vectors)
    assert packed.shape == (400, codebook.bytes_per_item)
    indices = codebook.indices(packed)
    for depth in (1, 2, 4):
        total = sum(codebook.entries[layer][indices[:, layer]] for layer in range(depth))
        torch.testing.assert_close(codebook.decode(packed, depth=depth), total)
    decoded = codebook.decode(packed)
    torch.testing.assert_close(codebook.decode(packed.view(20, 20, -1)), decoded.view(20, 20, 24))
    torch.testing.assert_close(codebook.decode(packed[3]), decoded[3])
    assert codebook.decode(packed[:0]).shape == (0, 24)
    assert codebook.encode(vectors[:0]).shape == (0, codebook.bytes_per_item)
    assert torch.equal(codebook.encode(vectors.double()), packed)


def test_more_is_kept_than_by_the_papers_scheme_in_the_same_bytes():
    vectors = clustered(1500)
    paper = fit_codebook(vectors, ResidualConfig(num_layers=2, num_entries=64))
    own = fit_codebook(vectors, AdditiveConfig(num_layers=6, num_entries=64))
    assert own.bytes_per_item == paper.bytes_per_item == 6
    assert mean_cosine(own, vectors) > mean_cosine(paper, vectors) + 0.03


@pytest.mark.parametrize("make", [clustered, lambda count: normalize(draw(count, 24), dim=1)])
def test_more_is_kept_than_by_a_residual_quantiser_of_the_same_size(make):
    vectors = make(2000)
    peer = faiss.ResidualQuantizer(24, 4, 6)
    peer.train(vectors.numpy())
    decoded = torch.from_numpy(peer.decode(peer.compute_codes(vectors.numpy())))
    own = fit(vectors, num_layers=4, num_entries=64)
    assert mean_cosine(own, vectors) > cosine_similarity(vectors, decoded, dim=1).mean()


def test_refit_and_search_each_keep_more():
    vectors = normalize(draw(2000, 24), dim=1)
    steps = [
        {"beam": 1, "num_refits": 0},
        {"beam": 1},
        {"beam": 6},
        {"beam": 6, "num_refits": 2},
    ]
    cosines = [mean_cosine(fit(vectors, num_entries=64, **step), vectors).item() for step in steps]
    print("cosines", cosines)
    assert cosines == sorted(cosines)
    assert cosines[3] > cosines[0] + 0.01


def test_the_prior_holds_an_entry_of_few_vectors_back():
    vectors, unseen = clustered(300, seed=5), clustered(1000, seed=6)
    loose = fit(vectors, num_layers=6, num_entries=32, prior_weight=1e-3)
    held = fit(vectors, num_layers=6, num_entries=32)
    assert mean_cosine(loose, vectors) >= mean_cosine(held, vectors)
    assert mean_cosine(held, unseen) > mean_cosine(loose, unseen)


def test_unseen_vectors_keep_most_of_what_fitted_ones_keep():
    vectors, unseen = clustered(2000, seed=5), clustered(1000, seed=6)
    codebook = fit(vectors, num_layers=4, num_entries=32)
    gap = mean_cosine(codebook, vectors) - mean_cosine(codebook, unseen)
    assert 0 < gap < 0.04


def test_fewer_vectors_than_entries_are_kept_whole(caplog):
    vectors = draw(5, 8)
    with caplog.at_level(logging.WARNING):
        codebook = fit(vectors, num_entries=256)
    assert codebook.num_entries == 5
    assert "256 entries asked for, 5 vectors" in caplog.text
    assert mean_cosine(codebook, vectors) > 0.999
    one = fit(vectors[:1])
    torch.testing.assert_close(one.decode(one.encode(vectors[:1])), vectors[:1])


def test_all_equal_vectors_are_kept_whole_and_seen_as_one():
    vectors = draw(1, 8).expand(400, 8)
    codebook = fit(vectors)
    assert codebook.entries.isfinite().all()
    torch.testing.assert_close(codebook.decode(codebook.encode(vectors)), vectors.clone())
    health = codebook.health(vectors)
    assert health["collision_rate"] == 1
    assert health["utilisation_1"] == 1 / 16
    assert health["perplexity_1"] == pytest.approx(1)
    assert health["cosine"] == pytest.approx(1)


def test_zero_vectors_decode_to_almost_nothing():
    vectors = torch.cat([normalize(draw(100, 8), dim=1), torch.zeros(50, 8)])
    codebook = fit(vectors)
    assert codebook.entries.isfinite().all()
    assert codebook.decode(codebook.encode(torch.zeros(3, 8))).norm(dim=1).max() < 0.2
    only_zeros = fit(torch.zeros(40, 8))
    assert torch.equal(only_zeros.decode(only_zeros.encode(vectors)), torch.zeros(150, 8))
    assert only_zeros.health(torch.zeros(3, 8))["cosine"] == 0


@pytest.mark.parametrize("config", [ResidualConfig(num_entries=8), AdditiveConfig(num_entries=8)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_vectors_that_are_not_finite_are_refused(config, value):
    vectors = draw(40, 8)
    codebook = fit_codebook(vectors, config)
    vectors[[7, 9], 2] = value
    for use in (lambda v: fit_codebook(v, config), codebook.encode, codebook.health):
        with pytest.raises(DataError, match="2 of 40 vectors are not finite, row 7 the first"):
            use(vectors)
    with pytest.raises(DataError, match="no vectors"):
        fit_codebook(vectors[:0], config)
    with pytest.raises(DataError, match="40 × 3 where N × 8"):
        codebook.encode(vectors[:, :3])
    with pytest.raises(DataError, match="shape 8 where N × D"):
        fit_codebook(vectors[0], config)


def test_vectors_longer_than_a_scale_are_refused_by_the_papers_codebook_only():
    vectors = 1e5 * draw(40, 8)
    paper = fit_codebook(vectors, ResidualConfig(num_entries=8))
    with pytest.raises(DataError, match="40 vectors are longer than 65504"):
        paper.encode(vectors)
    assert mean_cosine(fit(vectors), vectors) > 0.9


def test_fitting_is_repeatable_seeds_differ_and_the_pool_has_a_limit():
    vectors = clustered(400)
    config = AdditiveConfig(num_layers=2, num_entries=16)
    first = fit_codebook(vectors, config, seed=1)
    assert fit_codebook(vectors, config, seed=1).id == first.id
    assert fit_codebook(vectors, config, seed=2).id != first.id
    assert fit(vectors, num_entries=32, max_pool=20).num_entries == 20


def test_vectors_that_hardly_differ_are_told_apart():
    # All share one direction that holds all but a millionth of their length.
    vectors = normalize(torch.ones(1, 16) + 1e-3 * draw(500, 16), dim=1)
    codebook = fit(vectors, num_layers=6)
    middle = vectors.mean(dim=0)
    decoded = codebook.decode(codebook.encode(vectors))
    assert cosine_similarity(vectors - middle, decoded - middle, dim=1).mean() > 0.8


def test_kinds_save_load_and_differ(tmp_path):
    vectors = clustered(100)
    for codebook in (fit(vectors, beam=3), ResidualCodebook.fit(vectors, ResidualConfig())):
        path = tmp_path / codebook.tensor_name
        codebook.save(path)
        inside_a_model = {f"codebook.{n}": t for n, t in codebook.state_dict().items()}
        for other in (
            load_codebook(path),
            codebook_from_tensors({**inside_a_model, "items": vectors}, "codebook."),
        ):
            assert type(other) is type(codebook)
            assert other.id == codebook.id
            assert torch.equal(other.encode(vectors), codebook.encode(vectors))
    entries = draw(2, 4, 8)
    assert AdditiveCodebook(entries).id != ResidualCodebook(entries).id
    assert AdditiveCodebook(entries).id == AdditiveCodebook(entries, beam=2).id
    assert AdditiveCodebook(entries + 1e-6).id != AdditiveCodebook(entries).id
    with pytest.raises(DataError, match="no codebook among the tensors items"):
        codebook_from_tensors({"items": vectors}, "codebook.")


def test_a_model_carries_its_additive_codebook(items, tmp_path):
    codebook = AdditiveCodebook.fit(items[1:], AdditiveConfig(num_layers=2, num_entries=8, beam=3))
    config = HyMiRecConfig(backbone=BackboneConfig(num_layers=1, num_heads=2), coarse_layers=1)
    HyMiRec(items, codebook, config).save(tmp_path / "model")
    loaded = HyMiRec.load(tmp_path / "model").codebook
    assert isinstance(loaded, AdditiveCodebook)
    assert loaded.id == codebook.id
    assert torch.equal(loaded.encode(items), codebook.encode(items))


def test_presets_are_nine_bytes_and_settings_tell_their_kind():
    vectors = clustered(300)
    read = TypeAdapter(CodebookConfig)
    for config in PRESETS.values():
        assert read.validate_python(config.model_dump(mode="json")) == config
        small = config.model_copy(update={"max_pool": 300})
        assert fit_codebook(vectors, small).bytes_per_item == 9
    with pytest.raises(ValidationError, match="beam"):
        read.validate_python({"kind": "residual", "beam": 3})
    with pytest.raises(ValidationError, match="kind"):
        read.validate_python({"kind": "random"})


def test_health_of_a_case_done_by_hand():
    # Two layers of a square's corners: the second halves what the first leaves.
    first = torch.tensor([[2.0, 2], [2, -2], [-2, 2], [-2, -2]])
    codebook = AdditiveCodebook(torch.stack([first, first / 2]))
    vectors = torch.tensor([[3.0, 3], [3, 1], [1, 3], [-3, -1]])  # 3, 1 is (2, 2) + (1, -1)
    health = codebook.health(vectors)
    slanted = (2 * 3 + 2 * 1) / (8**0.5 * 10**0.5)
    assert health == pytest.approx(
        {
            "cosine": 1,
            "collision_rate": 0,
            "cosine_1": (1 + 3 * slanted) / 4,
            "utilisation_1": 2 / 4,
            "perplexity_1": 4 / 3**0.75,  # shares 3/4 and 1/4
            "cosine_2": 1,
            "utilisation_2": 3 / 4,
            "perplexity_2": 2**1.5,  # shares 1/4, 1/2, 1/4
        },
        rel=1e-4,
    )
