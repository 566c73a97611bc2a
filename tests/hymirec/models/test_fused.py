"""The fused pass of a request says what the model says."""

import pytest
import torch

from hymirec.models.fused import FusedHyMiRec
from hymirec.models.hymirec import HyMiRec

SETTINGS = {
    "as it is": {},
    "no coarse interests": {"num_coarse": 0},
    "queries alone": {"coarse_layers": 0},
    "unmarked": {"indicator": False},
    "one interest, one layer": {"num_interests": 1, "coarse_layers": 1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_it_says_what_the_model_says(settings, build, random_histories):
    model = build(HyMiRec, **{"max_history": 20, "num_recent": 8} | settings)
    assert FusedHyMiRec.fits(model)
    fused = FusedHyMiRec(model)
    for lengths in ([1], [7], [30], [5, 30, 1, 8]):
        inputs = model.assemble(random_histories(lengths))
        with torch.inference_mode():
            said = fused(inputs)
        torch.testing.assert_close(said, model.encode_user(inputs), rtol=0, atol=1e-5)


def test_it_follows_what_is_published(build, random_histories):
    model = build(HyMiRec)
    changed = model.with_catalogue(model.items.flip(0), model.codebook)
    inputs = model.assemble(random_histories([9]))
    said = FusedHyMiRec(changed)(inputs)
    torch.testing.assert_close(said, changed.encode_user(inputs), rtol=0, atol=1e-5)
    assert not torch.allclose(said, model.encode_user(inputs), atol=1e-3)


def test_a_backbone_it_does_not_know_is_left_to_the_model(build):
    model = build(HyMiRec)
    attention = model.backbone.layers[0].self_attn
    attention.q_proj = torch.nn.Sequential(attention.q_proj)
    assert not FusedHyMiRec.fits(model)
