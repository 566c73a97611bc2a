"""The codebook against plain loops, and what it promises about bytes and ids."""

import logging
import math

import pytest
import torch
from torch.nn.functional import normalize

from hymirec.codebook import ResidualCodebook, ResidualConfig, load_codebook
from hymirec.codebook.kmeans import balanced_cosine_kmeans
from hymirec.codebook.packing import bytes_per_item, pack_codes, unpack_codes


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit(vectors, num_layers=3, num_entries=16, **settings):
    config = ResidualConfig(num_layers=num_layers, num_entries=num_entries, **settings)
    return ResidualCodebook.fit(vectors, config)


def encode_slowly(vector, codebook):
    """One vector, layer by layer: entries by cosine, exact scales and all residuals."""
    residual, entries, scales, residuals = vector.double(), [], [], [vector.double()]
    for layer in codebook.centroids.double():
        cosines = [(residual @ c / (residual.norm() * c.norm() + 1e-30)).item() for c in layer]
        entry = cosines.index(max(cosines))
        scale = (residual @ layer[entry]) / (layer[entry] @ layer[entry])
        residual = residual - scale * layer[entry]
        entries.append(entry)
        scales.append(scale.item())
        residuals.append(residual)
    return entries, scales, residuals


@pytest.mark.parametrize(("num_entries", "index_bytes"), [(2, 1), (256, 1), (257, 2), (65_536, 2)])
def test_packing_round_trip(num_entries, index_bytes):
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(0, num_entries, (7, 5, 3), generator=generator)
    indices[0, 0] = num_entries - 1
    scales = draw(7, 5, 3).half().float()  # what half precision holds comes back as it was
    packed = pack_codes(indices, scales, num_entries)
    assert packed.dtype == torch.uint8
    assert packed.shape == (7, 5, 3 * (index_bytes + 2))
    assert packed.shape[-1] == bytes_per_item(3, num_entries)
    back, back_scales = unpack_codes(packed, 3, num_entries)
    assert torch.equal(back, indices)
    assert torch.equal(back_scales, scales)


def test_packed_bytes_are_low_bytes_then_high_bytes_then_little_endian_halves():
    packed = pack_codes(torch.tensor([[1, 258]]), torch.tensor([[1.0, -2.0]]), 300)
    assert packed.tolist() == [[1, 2, 0, 1, 0x00, 0x3C, 0x00, 0xC0]]


def test_more_entries_than_two_bytes_hold_are_refused():
    with pytest.raises(ValueError, match="65537"):
        bytes_per_item(1, 65_537)


def test_codes_are_those_of_a_plain_loop():
    vectors = draw(40, 12)
    codebook = fit(draw(200, 12, seed=1))
    packed = codebook.encode(vectors)
    indices, scales = unpack_codes(packed, 3, 16)
    decoded = codebook.decode(packed)
    for row, vector in enumerate(vectors):
        entries, exact_scales, _ = encode_slowly(vector, codebook)
        assert indices[row].tolist() == entries
        # Half precision keeps 11 bits of a scale.
        assert scales[row].tolist() == pytest.approx(exact_scales, rel=2**-11, abs=1e-6)
        total = sum(
            scales[row, layer] * codebook.centroids[layer, entry]
            for layer, entry in enumerate(entries)
        )
        torch.testing.assert_close(decoded[row], total)


def test_residuals_are_orthogonal_and_never_grow():
    vectors = draw(40, 12)
    codebook = fit(draw(200, 12, seed=1), num_layers=5)
    for vector in vectors:
        entries, _, residuals = encode_slowly(vector, codebook)
        norms = [residual.norm().item() for residual in residuals]
        assert norms == sorted(norms, reverse=True)
        for layer, entry in enumerate(entries):
            cosine = residuals[layer + 1] @ codebook.centroids[layer, entry].double()
            assert abs(cosine.item()) < 1e-6


def test_more_layers_keep_more_of_clustered_vectors():
    vectors, _ = topics_of_unequal_size()
    cosines = [fit(vectors, num_layers=n).health(vectors)["cosine"] for n in (1, 2, 3, 4)]
    assert cosines == sorted(cosines)
    assert cosines[3] > cosines[0] + 0.05


def test_nearest_is_by_direction_at_any_length():
    codebook = ResidualCodebook(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
    vectors = torch.tensor([[10.0, 6.0], [0.010, 0.006], [-10.0, 1.0], [-3.0, -2.0]])
    indices, scales = unpack_codes(codebook.encode(vectors), 1, 2)
    assert indices[:, 0].tolist() == [1, 1, 0, 0]  # the opposite of a centroid is not near it
    assert scales[:, 0].tolist() == pytest.approx([10, 0.01, 1, -2], rel=1e-3)


def test_fitted_centroids_have_unit_length():
    norms = fit(5 * draw(300, 8)).centroids.norm(dim=2)
    torch.testing.assert_close(norms, torch.ones(3, 16))


@pytest.mark.parametrize("num_entries", [16, 300])
@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_one_code_alone_is_read_as_among_others(num_layers, num_entries):
    vectors = draw(300, 4)
    codebook = fit(vectors, num_layers=num_layers, num_entries=num_entries, num_iterations=1)
    packed = codebook.encode(vectors[:3])
    decoded = codebook.decode(packed)
    for place in range(3):
        torch.testing.assert_close(codebook.decode(packed[place]), decoded[place])
        one = packed[place : place + 1].clone()
        torch.testing.assert_close(codebook.decode(one), decoded[place : place + 1])


def topics_of_unequal_size():
    """Twenty tight topics, the largest of which holds twenty times the smallest."""
    generator = torch.Generator().manual_seed(1)
    topics = normalize(draw(20, 32, seed=2), dim=1)
    sizes = 1 / torch.arange(1, 21)
    members = torch.multinomial(sizes, 4000, replacement=True, generator=generator)
    return normalize(topics[members] + 0.05 * draw(4000, 32, seed=3), dim=1), 64


def one_crowded_spot():
    """Seven points of ten lie around one direction, the others anywhere."""
    spot = normalize(draw(1, 16, seed=1), dim=1)
    near = spot + 0.05 * draw(1400, 16, seed=2)
    return normalize(torch.cat([near, draw(600, 16, seed=3)]), dim=1), 10


def plain_cosine_kmeans(points, num_clusters, generator):
    centroids = points[torch.randperm(len(points), generator=generator)[:num_clusters]]
    for _ in range(15):
        nearest = (points @ centroids.T).argmax(dim=1)
        for cluster in range(num_clusters):
            if (nearest == cluster).any():
                centroids[cluster] = normalize(points[nearest == cluster].sum(dim=0), dim=0)
    return centroids


@pytest.mark.parametrize("make", [topics_of_unequal_size, one_crowded_spot])
@pytest.mark.parametrize("seed", [0, 1])
def test_balanced_kmeans_shares_out_points_that_plain_kmeans_does_not(make, seed):
    points, num_clusters = make()

    def shares(centroids):
        """Sizes of the groups that encoding will make, in even shares, and clusters in use."""
        nearest = (points @ centroids.T).argmax(dim=1)
        sizes = torch.bincount(nearest, minlength=num_clusters) / len(points)
        in_use = torch.special.entr(sizes).sum().exp() / num_clusters
        return (sizes * num_clusters).max().item(), in_use.item()

    generator = torch.Generator().manual_seed(seed)
    plain, plain_use = shares(plain_cosine_kmeans(points, num_clusters, generator))
    generator = torch.Generator().manual_seed(seed)
    largest, use = shares(
        balanced_cosine_kmeans(points, num_clusters, num_iterations=15, generator=generator)
    )
    print(f"largest group {plain:.2f} -> {largest:.2f}, in use {plain_use:.2f} -> {use:.2f}")
    assert plain_use < 0.9
    assert use > 0.92
    assert largest < min(2.5, plain)


def test_fewer_vectors_than_entries_use_as_many_entries(caplog):
    vectors = draw(5, 8)
    with caplog.at_level(logging.WARNING):
        codebook = fit(vectors, num_entries=256)
    assert codebook.num_entries == 5
    assert codebook.bytes_per_item == 9
    assert "256 entries asked for, 5 vectors" in caplog.text
    assert codebook.health(vectors)["cosine"] > 0.999


def test_one_vector_is_kept_whole():
    vector = draw(1, 8)
    codebook = fit(vector)
    assert codebook.num_entries == 1
    torch.testing.assert_close(codebook.decode(codebook.encode(vector)), vector, rtol=1e-3, atol=0)


def test_all_equal_vectors_are_kept_and_nothing_is_not_a_number():
    vectors = draw(1, 8).expand(40, 8)
    codebook = fit(vectors)
    assert codebook.centroids.isfinite().all()
    decoded = codebook.decode(codebook.encode(vectors))
    torch.testing.assert_close(decoded, vectors.clone(), rtol=1e-3, atol=1e-5)
    assert codebook.health(vectors)["collision_rate"] == 1.0


def test_zero_vectors_decode_to_zero_and_pull_no_centroid():
    vectors = normalize(draw(100, 8), dim=1)
    codebook = fit(torch.cat([vectors, torch.zeros(50, 8)]), num_layers=2, num_entries=8)
    assert codebook.centroids.isfinite().all()
    decoded = codebook.decode(codebook.encode(torch.zeros(3, 8)))
    assert torch.equal(decoded, torch.zeros(3, 8))
    only_zeros = fit(torch.zeros(20, 8), num_entries=4)
    assert torch.equal(only_zeros.decode(only_zeros.encode(vectors)), torch.zeros(100, 8))


def test_batch_equals_single_and_batches_of_any_size():
    vectors = draw(100, 12)
    codebook = fit(vectors)
    packed = codebook.encode(vectors)
    assert torch.equal(packed, codebook.encode(vectors, batch_size=7))
    single = torch.cat([codebook.encode(vector[None]) for vector in vectors])
    # A single product may round otherwise than one of a batch: the last bit of a scale.
    torch.testing.assert_close(codebook.decode(single), codebook.decode(packed), rtol=0, atol=4e-3)
    assert torch.equal(unpack_codes(single, 3, 16)[0], unpack_codes(packed, 3, 16)[0])
    decoded = codebook.decode(packed)
    torch.testing.assert_close(codebook.decode(packed.view(20, 5, -1)), decoded.view(20, 5, 12))
    assert codebook.encode(vectors[:0]).shape == (0, 9)


def test_fitting_is_repeatable_and_seeds_differ():
    vectors = draw(300, 8)
    config = ResidualConfig(num_entries=16)
    first = ResidualCodebook.fit(vectors, config, seed=1)
    assert ResidualCodebook.fit(vectors, config, seed=1).id == first.id
    assert ResidualCodebook.fit(vectors, config, seed=2).id != first.id


def test_pool_is_cut_to_its_limit():
    vectors = draw(300, 8)
    assert fit(vectors, num_entries=32, max_pool=20).num_entries == 20


def test_id_tells_content_and_survives_saving(tmp_path):
    codebook = fit(draw(50, 8))
    codebook.save(tmp_path / "codebook.safetensors")
    loaded = load_codebook(tmp_path / "codebook.safetensors")
    assert torch.equal(loaded.centroids, codebook.centroids)
    assert loaded.id == codebook.id
    assert len(codebook.id) == 12
    assert int(codebook.id, 16) >= 0
    changed = codebook.centroids.clone()
    changed[2, 3, 4] += 1e-6
    assert ResidualCodebook(changed).id != codebook.id
    assert ResidualCodebook(codebook.centroids.reshape(3, 8, 16)).id != codebook.id


def test_paper_setting_compresses_2048_dimensions_over_300_fold():
    codebook = fit(draw(300, 2048), num_entries=256, num_iterations=1)
    packed = codebook.encode(draw(2, 2048, seed=1))
    assert packed.shape == (2, 9)
    assert 4 * 2048 / packed.shape[1] == 8192 / 9 > 300


def test_health_of_a_case_done_by_hand():
    # One layer of four axes; two vectors share an axis, one lies between two, one axis is idle.
    codebook = ResidualCodebook(torch.eye(4)[None])
    vectors = torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 4.0, 3.0]])
    health = codebook.health(vectors)
    assert health == pytest.approx(
        {
            "cosine": (1 + 1 + 1 + 4 / 5) / 4,
            "cosine_1": (1 + 1 + 1 + 4 / 5) / 4,
            "collision_rate": 2 / 4,
            "utilisation_1": 3 / 4,
            # Shares 1/2, 1/4, 1/4: an entropy of 3/2 bits.
            "perplexity_1": 2 ** (3 / 2),
        },
        rel=1e-4,
    )


def test_health_of_an_evenly_used_layer_is_full():
    codebook = ResidualCodebook(torch.eye(8)[None])
    health = codebook.health(torch.eye(8).repeat_interleave(3, dim=0))
    assert health["utilisation_1"] == 1
    assert health["perplexity_1"] == pytest.approx(8)
    assert math.isclose(health["cosine"], 1, rel_tol=1e-6)
