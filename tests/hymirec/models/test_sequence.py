"""Models that predict the next item at every position."""

import pytest
import torch

from hymirec.inputs import IndexedHistory
from hymirec.models.gru4rec import GRU4Rec
from hymirec.models.hllm import HLLM
from hymirec.models.hstu import HSTU
from hymirec.models.morec import MoRec
from hymirec.models.nextitem import NextItemRecommender
from hymirec.models.sasrec import SASRec

SEQUENCE_MODELS = [GRU4Rec, HLLM, HSTU, MoRec, NextItemRecommender, SASRec]


def next_item_loss_slowly(model, sequences, temperature=0.07):
    """Every position asked alone, by the history before it, against all other items."""
    vectors = model.item_vectors()
    losses = []
    for items in sequences:
        for place in range(1, len(items)):
            known = IndexedHistory(items[:place], torch.zeros(place, 0).byte().numpy())
            user = model.encode_user(model.assemble([known]))[0, 0]
            logits = vectors[1:] @ user / temperature
            losses.append(logits.logsumexp(dim=0) - logits[items[place] - 1])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("model_class", SEQUENCE_MODELS)
def test_loss_is_that_of_every_position_asked_alone(model_class, build, random_histories):
    model = build(model_class, num_negatives=40, num_recent=30)
    sequences = [history.items for history in random_histories([9, 2, 5], seed=7)]
    batch = torch.zeros(3, 12, dtype=torch.int64)
    for row, items in zip(batch, sequences, strict=True):
        row[: len(items)] = torch.from_numpy(items)
    expected = next_item_loss_slowly(model, sequences)  # reads every text anew, too
    with torch.no_grad():
        found = model(batch)["loss"]
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
