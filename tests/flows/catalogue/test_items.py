"""What a published item costs and says, before any store or server stands around it."""

import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from flows.catalogue.coding import Coded, coding_process, cosine_error
from flows.catalogue.items import _drift, as_catalogue
from flows.registry.served import served_versions
from hymirec.codebook import ResidualCodebook
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home
from hymirec.texts import item_texts

# One layer of two entries: whatever is coded becomes one of the axes.
AXES = ResidualCodebook(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))


def coded(*vectors):
    found = normalize(torch.tensor(vectors), dim=1)
    return found, AXES.encode(found)


def test_the_cosine_error_is_one_less_the_cosine():
    assert cosine_error(AXES, *coded([1.0, 0.0], [0.0, 2.0])) == pytest.approx(0, abs=1e-6)
    assert cosine_error(AXES, *coded([4.0, 3.0])) == pytest.approx(0.2, abs=1e-6)
    assert cosine_error(AXES, *coded([4.0, 3.0], [1.0, 0.0])) == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(("training", "alarm"), [(0.8, False), (0.87, True), (1.0, True)])
def test_drift_is_an_error_far_above_trainings(training, alarm, tmp_path, caplog):
    (tmp_path / "health.json").write_text(f'{{"cosine": 0.9, "text_cosine": {training}}}')
    served = SimpleNamespace(codebook=tmp_path, codebook_id="c0ffee")
    vectors, codes = coded([4.0, 3.0])
    of_these = Coded(vectors.numpy(), codes.numpy(), 0.2)
    found = _drift(served, of_these, 1.5)
    assert found["drift"] is alarm
    assert found["training_error"] == pytest.approx(1 - training)
    assert ("codebook c0ffee has drifted: cosine error 0.2000" in caplog.text) is alarm


def test_texts_are_read_as_the_catalogues_were(caplog):
    table = pd.DataFrame(
        {"item_id": ["1"], "year": ["1999"], "genre": ["drama"], "title": ["One"], "more": ["x"]}
    )
    texts = item_texts(as_catalogue(table, ["genre", "year"]))
    assert texts == ["Title: One Content: drama 1999"]
    assert item_texts(as_catalogue(table, ["plot", "genre"])) == ["Title: One Content:  drama"]
    assert "no column 'plot': read as empty" in caplog.text


def test_without_a_registry_nothing_is_served_and_none_is_made(tmp_path):
    home = Home.at(tmp_path / "home")
    with pytest.raises(UsageError, match="run `hymirec pipeline` first"):
        served_versions(home)
    assert not home.root.exists()


def test_a_version_that_others_registered_is_refused_in_a_line(monkeypatch):
    client = SimpleNamespace(
        get_registered_model=lambda name: SimpleNamespace(aliases={"champion": "3"}),
        get_model_version=lambda name, number: SimpleNamespace(version=number, tags={}),
    )
    monkeypatch.setattr("mlflow.MlflowClient", lambda *_: client)
    home = SimpleNamespace(root="home", has_mlflow=True, mlflow_uri="")
    with pytest.raises(UsageError, match="version 3 of hymirec does not say which encoder"):
        served_versions(home)


def test_an_error_of_the_coding_process_comes_back_in_one_line(tmp_path):
    AXES.save(tmp_path / "codebook.safetensors")
    with coding_process() as code, pytest.raises(UsageError, match="the encoder is not there"):
        code(Path(tmp_path), tmp_path, ["text"], np.array([0]))


def test_a_coding_process_that_was_killed_is_one_line_and_one_not_needed_is_not_waited_for():
    with coding_process() as code:
        (process,) = multiprocessing.active_children()
        process.kill()
        with pytest.raises(HymirecError, match="the process that reads item texts ended"):
            code(Path("encoder"), Path("codebook"), ["text"], [0])
    with coding_process():
        (process,) = multiprocessing.active_children()
    assert process.exitcode == -signal.SIGKILL


def test_neither_the_feature_store_nor_publishing_items_imports_pytorch():
    program = (
        "import flows.catalogue.items, sys; print({'torch', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
