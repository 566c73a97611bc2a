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
