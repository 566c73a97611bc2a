"""Artifacts of registered versions: where they lie, or brought into the home once."""

from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from flows.registry.served import fetch_model
from hymirec.errors import UsageError
from hymirec.home import Home

VERSION = SimpleNamespace(source="models:/m-1")


@pytest.fixture
def fetch(tmp_path):
    """Fetch a version whose artifacts lie at a location."""
    home = Home.at(tmp_path / "home").create()

    def fetch_from(location):
        model = SimpleNamespace(artifact_location=location)
        return fetch_model(home, SimpleNamespace(get_logged_model=lambda _: model), VERSION)

    return fetch_from


def test_artifacts_on_this_machine_are_taken_where_they_lie(fetch, tmp_path):
    (tmp_path / "m-1").mkdir()
    assert fetch((tmp_path / "m-1").as_uri()) == tmp_path / "m-1"


def test_artifacts_elsewhere_are_brought_once_whole_or_not_at_all(fetch, tmp_path, monkeypatch):
    calls = []

    def download(*, artifact_uri, dst_path):
        calls.append(artifact_uri)
        Path(dst_path).mkdir()
        (Path(dst_path) / "weights").write_text("right")
        if len(calls) == 1:
            raise OSError("the connection is lost\nsomewhere")
        return dst_path

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    with pytest.raises(UsageError, match="artifacts of m-1 cannot be fetched: the connection is"):
        fetch("s3://bucket/m-1")
    place = fetch("s3://bucket/m-1")
    assert (place / "weights").read_text() == "right"
    assert place == fetch("s3://bucket/m-1")
    assert len(calls) == 2
    assert [path.name for path in place.parent.iterdir()] == ["m-1"]
