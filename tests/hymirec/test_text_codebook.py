"""A codebook of a catalogue serves the texts of items to come as well."""

import pytest
import torch
from torch.nn.functional import normalize

from hymirec.codebook import (
    PRESETS,
    AdditiveConfig,
    ExactConfig,
    ResidualConfig,
    fit_codebook,
    fit_item_codebook,
    item_health,
    texts,
)

CONFIGS = {
    "residual": ResidualConfig(num_layers=3, num_entries=64),
    "additive": AdditiveConfig(num_layers=4, num_entries=64),
}


@pytest.fixture(scope="module")
def catalogue():
    """1,500 items [N, 32] as behaviour has them and by text; 300 texts of items to come."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    topics = normalize(drawn(40, 32), dim=1)
    by_text = topics[torch.arange(1800) % 40] + 0.1 * drawn(1800, 32)
    # Behaviour puts them elsewhere.
    vectors = by_text @ torch.linalg.qr(drawn(32, 32)).Q
    by_text, vectors = normalize(by_text, dim=1), normalize(vectors, dim=1)
    return vectors[:1500], by_text[:1500], by_text[1500:]


@pytest.mark.parametrize("kind", CONFIGS)
def test_texts_to_come_are_served_far_better_and_the_items_little_worse(kind, catalogue):
    vectors, by_text, to_come = catalogue
    without = fit_codebook(vectors, CONFIGS[kind])
    found = fit_item_codebook(vectors, by_text, CONFIGS[kind])
    error, error_without = (1 - one.health(to_come)["cosine"] for one in (found, without))
    assert error < 0.8 * error_without
    known, known_without = (1 - one.health(vectors)["cosine"] for one in (found, without))
    assert known < 1.4 * known_without


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_health_foretells_the_error_on_texts_to_come(kind, catalogue):
    vectors, by_text, to_come = catalogue
    found = fit_item_codebook(vectors, by_text, CONFIGS[kind], seed=3)
    health = item_health(found, vectors, by_text, seed=3)
    assert health["cosine"] == found.health(vectors)["cosine"]
    expected = 1 - health["text_cosine"]
    assert 1 - found.health(to_come)["cosine"] == pytest.approx(expected, rel=0.1)
    # Fitted on the very texts, the codebook would promise too much.
    fitted_on = by_text[texts._fitted_on(len(by_text), 3)]
    assert 1 - found.health(fitted_on)["cosine"] < 0.9 * expected


def test_the_same_seed_gives_the_same_codebook_another_one_another(catalogue):
    vectors, by_text, _ = catalogue
    ids = [fit_item_codebook(vectors, by_text, CONFIGS["residual"], seed=n).id for n in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


def test_without_a_codebook_texts_are_left_out(catalogue):
    vectors, by_text, _ = catalogue
    assert fit_item_codebook(vectors, by_text, ExactConfig()).num_entries == len(vectors)


def test_one_item_is_enough():
    one = normalize(torch.ones(1, 4), dim=1)
    found = fit_item_codebook(one, one, PRESETS["paper"])
    assert item_health(found, one, one)["text_cosine"] == pytest.approx(1)
