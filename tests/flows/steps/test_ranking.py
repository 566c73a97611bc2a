"""Cases ranked in shards: the answers that a shard gives alone, in order, none twice."""

import numpy as np
import pytest
import torch

from flows.steps import ranking
from hymirec.codebook import ResidualCodebook, ResidualConfig
from hymirec.evaluation.protocol import answer_cases
from hymirec.evaluation.report import LIST_LENGTH
from hymirec.inputs import IndexedHistory
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig
from hymirec.splits import Case


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    items = torch.nn.functional.normalize(torch.randn(41, 16), dim=1)
    items[0] = 0
    book = ResidualCodebook.fit(items[1:], ResidualConfig(num_layers=2, num_entries=8))
    config = HyMiRecConfig(
        num_interests=2, num_coarse=2, max_history=12, num_recent=6, coarse_layers=1,
        backbone=BackboneConfig(num_layers=1, num_heads=2, dropout=0.0),
    )  # fmt: skip
    return HyMiRec(items, book, config).eval()


@pytest.fixture(scope="module")
def cases(model):
    rng = np.random.default_rng(0)
    codes = model.codebook.encode(model.item_vectors()).numpy()
    found = []
    for user, length in enumerate(rng.integers(1, 30, 25)):
        items = rng.integers(1, 41, length)
        known = IndexedHistory.of(items, codes[items], np.arange(length))
        later = rng.integers(1, 41, 2 if user == 7 else 0)  # one window is wider than the others
        found.append(Case(known, int(rng.integers(1, 41)), later, user))
    return found


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_shards_are_answered_as_each_alone_and_stand_in_order(
    model, cases, saved, tmp_path, monkeypatch
):
    monkeypatch.setattr(ranking, "CASES_PER_SHARD", 10)
    found = ranking.in_shards(saved, tmp_path / "parts")(cases)
    assert found.ranks.shape == (25, 3)
    for first in (0, 10, 20):
        alone = answer_cases(model, cases[first : first + 10], list_length=LIST_LENGTH)
        part = slice(first, first + 10)
        width = alone.ranks.shape[1]
        torch.testing.assert_close(
            found.ranks[part, :width], alone.ranks, rtol=0, atol=0, equal_nan=True
        )
        assert found.ranks[part, width:].isnan().all()
        assert torch.equal(found.seen_kept[part], alone.seen_kept)
        assert torch.equal(found.lists[part], alone.lists)
    assert not list((tmp_path / "parts").glob("*.cases.npz"))


def test_what_was_ranked_before_an_interruption_is_not_ranked_again(
    cases, saved, tmp_path, monkeypatch
):
    monkeypatch.setattr(ranking, "CASES_PER_SHARD", 10)
    work, done = ranking.rank_shard, []

    def die_in_the_second(**shard):
        done.append(shard["part"].name)
        if len(done) == 2:
            raise KeyboardInterrupt
        work(**shard)

    monkeypatch.setattr(ranking, "rank_shard", die_in_the_second)
    answer = ranking.in_shards(saved, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        answer(cases)
    whole = ranking.in_shards(saved, tmp_path / "whole")
    found = answer(cases)
    assert done == [f"{first:010}.npz" for first in (0, 10, 10, 20)]
    assert torch.equal(found.lists, whole(cases).lists)
