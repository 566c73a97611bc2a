"""A retrain's data: the version's own and what came since, each thing once."""

from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from features.logs.event_log import Event
from flows.collect import published_under, with_additions, with_clicks
from flows.retrain import _as_trained
from hymirec.additions import Additions
from hymirec.datasets import load
from hymirec.errors import HymirecError
from hymirec.home import Home
from hymirec.texts import item_texts


def frame(**columns):
    return pd.DataFrame(columns)


def dataset(tmp_path):
    """Two users, three items, one of them with an extra column of text."""
    frame(
        user_id=["a", "a", "b"],
        item_id=["1", "2", "3"],
        timestamp=[100, 100, 200],
        rating=[5, 4, 3],
    ).to_csv(tmp_path / "interactions.csv", index=False)
    frame(
        item_id=["1", "2", "3"], title=["One", "Two", "Three"], genre=["x", "y", "z"],
        plot=["p", "q", "r"],
    ).to_csv(tmp_path / "items.csv", index=False)  # fmt: skip
    return load(tmp_path)


def rows(interactions):
    times = (interactions["timestamp"].astype("int64") // 10**9).tolist()
    return list(
        zip(interactions["user_id"].tolist(), interactions["item_id"].tolist(), times, strict=True)
    )


def additions(items):
    """Of (id, title, text)."""
    ids, titles, texts = zip(*items, strict=True)
    vectors = np.zeros((len(items), 4), np.float32)
    return Additions(list(ids), list(titles), list(texts), vectors, np.zeros((len(items), 2), "u1"))


def test_clicks_come_in_order_and_what_the_data_holds_comes_once(tmp_path):
    data = dataset(tmp_path)
    clicks = [
        Event("1", "c", "1", "click", 300),
        Event("2", "a", "1", "click", 100),  # the data holds it
        Event("3", "a", "2", "click", 100),  # and it once,
        Event("4", "a", "2", "click", 100),  # but not twice
        Event("5", "a", "3", "click", 50),
        Event("6", "b", "unheard of", "click", 60),
    ]
    found = with_clicks(data.interactions, clicks, data.items)
    assert rows(found) == [
        ("a", "3", 50), ("a", "1", 100), ("a", "2", 100), ("a", "2", 100), ("b", "3", 200),
        ("c", "1", 300),
    ]  # fmt: skip
    assert found.dtypes["timestamp"] == data.interactions.dtypes["timestamp"]
    assert list(found.columns) == list(data.interactions.columns)
    again = with_clicks(found, clicks, data.items)
    assert rows(again) == rows(found)


def test_without_clicks_the_data_is_as_it_was(tmp_path):
    data = dataset(tmp_path)
    found = with_clicks(data.interactions, [], data.items)
    pd.testing.assert_frame_equal(found, data.interactions)


def test_published_items_read_as_they_were_published(tmp_path):
    items = dataset(tmp_path).items
    new = [("4", "Four", "Title: Four Content: x new"), ("2", "Two!", "Title: Two! Content: other")]
    found = with_additions(items, additions(new))
    texts = dict(zip(found["item_id"], item_texts(found), strict=True))
    assert texts["1"] == "Title: One Content: x p"
    assert texts["2"].split() == ["Title:", "Two!", "Content:", "other"]
    assert texts["4"].split() == ["Title:", "Four", "Content:", "x", "new"]
    assert found["item_id"].tolist() == ["1", "2", "3", "4"]
    assert list(found.columns) == list(items.columns)
    assert with_additions(items, None) is items


def test_data_without_a_column_of_text_gets_one(tmp_path):
    items = dataset(tmp_path).items.drop(columns=["genre", "plot"])
    found = with_additions(items, additions([("4", "Four", "Title: Four Content: new")]))
    assert item_texts(found)[0].strip() == "Title: One Content:"
    assert item_texts(found)[3] == "Title: Four Content: new"


def test_a_version_with_a_refitted_codebook_is_trained_again_as_its_parent_was(
    tmp_path, monkeypatch
):
    home = Home.at(tmp_path).create()
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    experiment = client.create_experiment("hymirec", home.artifact_uri)
    settings = {
        "first_training.seed": "1",
        "encoder.backbone.pretrained.source": "/a/text/model",
        "encoder.backbone.pretrained.tuning": "lora",
    }
    encoder = client.create_logged_model(experiment, name="encoder", params=settings).model_id
    client.create_registered_model("hymirec")
    for number, codebook_id in enumerate(("first", "second", "third")):
        tags = {"codebook_id": codebook_id, "encoder_model": encoder}
        if number:
            tags["parent_version"] = f"hymirec/{number}"
        client.create_model_version("hymirec", "/nowhere", tags=tags)
    version = client.get_model_version("hymirec", "3")
    served = SimpleNamespace(version=version, codebook_id="third", info={"recipe": "small"})
    assert published_under(home, served) == ["first", "second", "third"]
    assert _as_trained(home, served) == {
        "recipe": "small", "seed": 1, "backbone": "/a/text/model", "tuning": "lora",
    }  # fmt: skip
    # Of a seed that nobody named, the recipe's own stand, one for each training.
    params = client.get_logged_model(encoder).params | {"first_training.seed": "0"}
    plain = client.create_logged_model(experiment, name="encoder", params=params).model_id
    client.set_model_version_tag("hymirec", "3", "encoder_model", plain)
    served.version = client.get_model_version("hymirec", "3")
    assert "seed" not in _as_trained(home, served)

    def away(*_):
        raise MlflowException("API request to http://mlflow:5000 failed\nwith a trace")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_model_version", away)
        with pytest.raises(HymirecError, match=r"cannot be read: API request .* failed$"):
            published_under(home, served)
    client.delete_model_version("hymirec", "1")
    assert published_under(home, served) == ["second", "third"]
