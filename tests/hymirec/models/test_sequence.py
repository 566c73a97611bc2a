"""Models that predict the next item at every position."""

import pytest
import torch

from hymirec.models.gru4rec import GRU4Rec
from hymirec.models.hllm import HLLM
from hymirec.models.hstu import HSTU
from hymirec.models.morec import MoRec
from hymirec.models.nextitem import NextItemRecommender
from hymirec.models.sasrec import SASRec

SEQUENCE_MODELS = [GRU4Rec, HLLM, HSTU, MoRec, NextItemRecommender, SASRec]


def next_item_loss_slowly(model, histories, temperature=0.07):
    """Every position asked alone, by the history before it, against all other items."""
    vectors = model.item_vectors()
    losses = []
    for history in histories:
        items = history.items
        for place in range(1, len(items)):
            user = model.encode_user(model.assemble([history.until(place)]))[0, 0]
            logits = vectors[1:] @ user / temperature
            losses.append(logits.logsumexp(dim=0) - logits[items[place] - 1])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("model_class", SEQUENCE_MODELS)
def test_loss_is_that_of_every_position_asked_alone(model_class, build, random_histories):
    model = build(model_class, num_negatives=40, num_recent=30)
    histories = random_histories([9, 2, 5], seed=7)
    expected = next_item_loss_slowly(model, histories)  # reads every text anew, too
    with torch.no_grad():
        found = model(**model.examples(histories).collate(histories))["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_item_vectors_follow_training_and_loading(build):
    model = build(NextItemRecommender)
    before = model.item_vectors()
    assert model.item_vectors() is before
    other = {name: value.clone() for name, value in model.state_dict().items()}
    other["tower.free.weight"] += torch.randn_like(other["tower.free.weight"])
    model.load_state_dict(other)
    loaded = model.item_vectors()
    assert not torch.allclose(loaded, before, atol=1e-2)
    model.train()
    with torch.no_grad():
        model.tower.free.weight += torch.randn_like(model.tower.free.weight)
    model.eval()
    assert not torch.allclose(model.item_vectors(), loaded, atol=1e-2)
