"""What a codebook is refitted on."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from flows.catalogue import recode
from hymirec.additions import Additions


def test_items_of_an_earlier_update_are_fitted_on_as_they_are(monkeypatch):
    trained, early, late, changed = torch.eye(4)
    read = torch.stack([torch.zeros(4), trained, trained])  # padding, and two items of training
    monkeypatch.setattr(recode, "read_texts", lambda encoder: read)
    embed = {"late": late, "changed": changed}
    encoder = SimpleNamespace(
        embed=lambda texts, items: torch.stack([embed[text] for text in texts])
    )
    monkeypatch.setattr(recode.FrozenEncoder, "load", lambda directory: encoder)
    package = SimpleNamespace(items=pd.DataFrame({"item_id": ["a", "b", "early", "late"]}))
    vectors = torch.stack([trained + late, trained + early, early, late])
    codes = np.zeros((2, 1), np.uint8)
    added = Additions(["late", "b"], ["", ""], ["late", "changed"], vectors[:2].numpy(), codes)
    found = recode._by_text(SimpleNamespace(encoder=None), package, vectors, added)
    assert torch.equal(found, torch.stack([trained, changed, early, late]))


def test_before_and_after_are_asked_of_the_version_s_own_data(monkeypatch):
    times = pd.to_datetime([1, 2, 3, 4], unit="s", utc=True)
    table = {"user_id": ["u"] * 4, "item_id": ["a", "c", "b", "new"], "timestamp": times}
    dataset = SimpleNamespace(interactions=pd.DataFrame(table))
    vectors, asked = torch.arange(5.0).unsqueeze(1), {}  # row 0 is padding

    def ask(model, cases):
        asked[getattr(model, "name", "popularity")] = cases
        return torch.ones(len(cases), 1)

    monkeypatch.setattr(recode, "rank_cases", ask)
    for name, add in (("before", 0), ("after", 10)):
        book = SimpleNamespace(encode=lambda vectors, add=add: (vectors + add).byte())
        model = SimpleNamespace(name=name, codebook=book, item_vectors=lambda: vectors)
        package = SimpleNamespace(
            model=model,
            items=pd.DataFrame({"item_id": ["a", "b", "c", "new"]}),
            info=SimpleNamespace(codebook_id=name),
        )
        metrics, floor = recode._measure(package, dataset)
        assert metrics["R@10"] == floor["R@10"] == 1
        (case,) = asked[name]
        assert case.known.items.tolist() == [1, 3, 2]
        assert case.known.codes.ravel().tolist() == [1 + add, 3 + add, 2 + add]
        assert case.target == 4
