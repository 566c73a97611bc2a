"""The codebook against plain loops, and what it promises about bytes and ids."""

import logging
import math

import pytest
import torch
from torch.nn.functional import normalize

from hymirec.codebook.kmeans import balanced_cosine_kmeans
from hymirec.codebook.packing import bytes_per_item, pack_codes, unpack_codes
from hymirec.codebook.residual import CodebookConfig, ResidualCodebook


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit(vectors, num_layers=3, num_entries=16, **settings):
    config = CodebookConfig(num_layers=num_layers, num_entries=num_entries, **settings)
    return ResidualCodebook.fit(vectors, config)


def encode_slowly(vector, codebook):
    """One vector, layer by layer: entries by cosine, exact scales and all residuals."""
    residual, entries, scales, residuals = vector.double(), [], [], [vector.double()]
    for layer in codebook.centroids.double():
        cosines = [
            (residual @ c / (residual.norm() * c.norm() + 1e-30)).item() for c in layer
        ]
        entry = cosines.index(max(cosines))
        scale = (residual @ layer[entry]) / (layer[entry] @ layer[entry])
        residual = residual - scale * layer[entry]
        entries.append(entry)
        scales.append(scale.item())
        residuals.append(residual)
    return entries, scales, residuals


def group_sizes(points, centroids):
    return torch.bincount((points @ centroids.T).argmax(dim=1), minlength=len(centroids))


def crowded(num_points=2000, num_crowded=1400, width=16):
    """Seven points of ten lie around one direction, the others anywhere."""
    spot = normalize(draw(1, width, seed=1), dim=1)
    near = spot + 0.15 * draw(num_crowded, width, seed=2)
    return normalize(torch.cat([near, draw(num_points - num_crowded, width, seed=3)]), dim=1)


@pytest.mark.parametrize(
    ("num_entries", "index_bytes"), [(2, 1), (256, 1), (257, 2), (65_536, 2)]
)
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
    vectors = draw(200, 12)
    codebook = fit(vectors)
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
    vectors = draw(200, 12)
    codebook = fit(vectors, num_layers=5)
    for vector in vectors:
        entries, _, residuals = encode_slowly(vector, codebook)
        norms = [residual.norm().item() for residual in residuals]
        assert all(after <= before for before, after in zip(norms, norms[1:], strict=False))
        for layer, entry in enumerate(entries):
            cosine = residuals[layer + 1] @ codebook.centroids[layer, entry].double()
            assert abs(cosine.item()) < 1e-6


def test_more_layers_keep_more_of_clustered_vectors():
    vectors = crowded()
    cosines = [fit(vectors, num_layers=n).health(vectors)["cosine"] for n in (1, 2, 3, 4)]
    assert cosines == sorted(cosines)
    assert cosines[0] < 0.8
    assert cosines[3] > 0.9


def test_nearest_is_by_cosine_not_by_distance():
    # (10, 6) is nearer in space to (0, 9), but nearer in direction to (1, 0).
    codebook = ResidualCodebook(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
    indices, scales = unpack_codes(codebook.encode(torch.tensor([[10.0, 6.0]])), 1, 2)
    assert indices.tolist() == [[1]]
    assert scales.tolist() == [[10.0]]


def test_balanced_kmeans_fills_groups_evenly_where_plain_kmeans_does_not(monkeypatch):
    points, num_clusters = crowded(), 10
    even = len(points) / num_clusters

    def sizes():
        centroids = balanced_cosine_kmeans(
            points, num_clusters, num_iterations=15, generator=torch.Generator().manual_seed(0)
        )
        torch.testing.assert_close(centroids.norm(dim=1), torch.ones(num_clusters))
        return group_sizes(points, centroids) / even

    balanced = sizes()
    monkeypatch.setattr("hymirec.codebook.kmeans.PRICE_STEP", 0.0)  # plain spherical k-means
    plain = sizes()
    print("balanced", balanced.tolist(), "plain", plain.tolist())
    assert plain.max() > 2.5
    assert balanced.max() < 1.8
    assert balanced.min() > 0.4


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
    assert torch.equal(
        unpack_codes(single, 3, 16)[0], unpack_codes(packed, 3, 16)[0]
    )
    decoded = codebook.decode(packed)
    torch.testing.assert_close(codebook.decode(packed.view(20, 5, -1)), decoded.view(20, 5, 12))
    assert codebook.encode(vectors[:0]).shape == (0, 9)


def test_fitting_is_repeatable_and_seeds_differ():
    vectors = draw(300, 8)
    config = CodebookConfig(num_entries=16)
    first = ResidualCodebook.fit(vectors, config, seed=1)
    assert ResidualCodebook.fit(vectors, config, seed=1).id == first.id
    assert ResidualCodebook.fit(vectors, config, seed=2).id != first.id


def test_pool_is_cut_to_its_limit():
    vectors = draw(300, 8)
    assert fit(vectors, num_entries=32, max_pool=20).num_entries == 20


def test_id_tells_content_and_survives_saving(tmp_path):
    codebook = fit(draw(50, 8))
    codebook.save(tmp_path / "codebook.safetensors")
    loaded = ResidualCodebook.load(tmp_path / "codebook.safetensors")
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
    vectors = torch.tensor(
        [[1.0, 0, 0, 0], [2.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 4.0, 3.0]]
    )
    health = codebook.health(vectors)
    assert health == pytest.approx(
        {
            "cosine": (1 + 1 + 1 + 4 / 5) / 4,
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
