"""What is published under a codebook while another publication runs."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flows.runtime.locks import STORES, alone_in
from flows.steps import publish as module
from flows.steps.results import run_step
from hymirec.additions import Additions, publish
from hymirec.errors import UsageError
from hymirec.home import Home


def published(home, item, code):
    vectors, codes = np.ones((1, 2), np.float32), np.array([[code]], np.uint8)
    publish(home.catalogue / "c0ffee", Additions([item], [item], [item], vectors, codes, []))


@pytest.fixture
def data(tmp_path):
    table = SimpleNamespace(interactions=pd.DataFrame({"user_id": ["u"]}))
    return SimpleNamespace(read=lambda: table, interactions=tmp_path, digest="d")


def test_nobody_else_is_at_the_step_s_folder_meanwhile(tmp_path, monkeypatch, data):
    home, written = Home.at(tmp_path).create(), []

    def run_alone(home, name, inputs, work):
        with pytest.raises(UsageError, match="another stores"), alone_in(home, STORES):
            pass
        return run_step(home, name, inputs, work)

    monkeypatch.setattr(module, "run_step", run_alone)
    monkeypatch.setattr(module.publication, "publish", lambda *_: written.append("all"))
    for name in ("publish_statistics", "note_published_data"):
        monkeypatch.setattr(module, name, lambda *_: None)
    for _ in range(2):  # the second forgets what the first did
        assert not module._publish(home, data, ["a"], np.zeros((1, 1), np.uint8), "c0ffee").skipped
    assert written == ["all", "all"]
    with alone_in(home, STORES):
        pass


def test_an_item_that_changes_while_histories_are_written_keeps_its_new_code(
    tmp_path, monkeypatch, data
):
    home, written, again = Home.at(tmp_path).create(), [], []
    published(home, "b", 7)

    def meanwhile(home, codebook_id, interactions, item_ids, codes, *_):
        written.append((item_ids, codes.ravel().tolist()))
        published(home, "a", 8)

    def brought(home, codebook_id, additions):
        again.append((additions.item_ids, additions.codes.ravel().tolist()))

    monkeypatch.setattr(module.publication, "publish", meanwhile)
    for name in ("publish_statistics", "note_published_data"):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr("flows.catalogue.items.bring_online", brought)
    module.publish_codes(home, data, ["a"], np.array([[1]], np.uint8), "c0ffee")
    assert written == [(["a", "b"], [1, 7])]
    assert again == [(["a"], [8])]
