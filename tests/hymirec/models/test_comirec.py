"""ComiRec: interests at a cut, both ways of making them, and the loss."""

import pytest
import torch
from torch.nn.functional import normalize

from hymirec.models.comirec import ComiRec, SelfAttention, squash

WAYS = ("attention", "routing")


@pytest.mark.parametrize("extraction", WAYS)
def test_a_cut_answers_as_the_shortened_history_does(extraction, build, random_histories):
    model = build(ComiRec, extraction=extraction)
    (history,) = random_histories([8])
    vectors = model.item_vectors()
    cuts = torch.tensor([[1, 3, 8, 5]])
    with torch.no_grad():
        found = model.interests_at(vectors[torch.from_numpy(history.items)][None], cuts)[0]
    for interests, cut in zip(found, cuts[0].tolist(), strict=True):
        alone = model.encode_user(model.assemble([history.until(cut)]))[0]
        torch.testing.assert_close(interests, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extraction", WAYS)
def test_loss_is_that_of_the_nearest_interest_against_all_other_items(
    extraction, build, random_histories
):
    model = build(ComiRec, extraction=extraction, num_negatives=40, num_cuts=50, num_recent=30)
    (history,) = random_histories([9])
    examples = model.examples([history])
    example = examples[0]
    losses = []
    for cut, (target,) in zip(example.cuts.tolist(), example.targets.tolist(), strict=True):
        if target:
            interests = model.encode_user(model.assemble([history.until(cut)]))[0]
            logits = interests @ model.item_vectors()[1:].T / model.settings.temperature
            nearest = logits[:, target - 1].argmax()
            losses.append(logits[nearest].logsumexp(dim=0) - logits[nearest, target - 1])
    with torch.no_grad():
        out = model(**examples.collate([example]))
    assert out["weight"] == len(losses)
    torch.testing.assert_close(out["loss"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_attention_by_hand():
    attention = SelfAttention(2, 3, 1, 4)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
    tokens = torch.tensor([[[1.0, 0], [0, 1], [5, 5]]])
    ago = torch.tensor([[[1, 0, -1], [0, -1, -2]]])
    # Nothing is preferred: the mean of what lies before the cut.
    assert attention(tokens, ago).tolist() == [[[[0.5, 0.5]], [[1, 0]]]]


def test_squash_keeps_directions_and_brings_lengths_below_one():
    capsules = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 3
    squashed = squash(capsules)
    torch.testing.assert_close(normalize(squashed, dim=1), normalize(capsules, dim=1))
    lengths = capsules.norm(dim=1)
    torch.testing.assert_close(squashed.norm(dim=1), lengths**2 / (1 + lengths**2))
    assert squash(torch.zeros(1, 3)).isfinite().all()
