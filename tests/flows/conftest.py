"""Registries with versions that were never trained: what is decided of them needs no model."""

import shutil

import mlflow
import pytest

from features import online
from hymirec.home import Home


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """The file of an MLflow store that holds nothing; to be copied, for MLflow takes seconds."""
    home = Home.at(tmp_path_factory.mktemp("store")).create()
    mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri).search_registered_models()
    return home.mlflow / "mlflow.db"


@pytest.fixture
def home_with_store(tmp_path, empty_store):
    """A home whose MLflow store, which clients are pointed at, holds nothing."""
    home = Home.at(tmp_path).create()
    shutil.copy(empty_store, home.mlflow)
    mlflow.set_tracking_uri(home.mlflow_uri)
    return home


@pytest.fixture(scope="session")
def make_registry(tmp_path_factory, empty_store):
    """Make a home with a version of each codebook registered, from 1; to be copied."""

    def make(codebooks, champion=None):
        home = Home.at(tmp_path_factory.mktemp("registry")).create()
        shutil.copy(empty_store, home.mlflow)
        client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
        client.create_registered_model("hymirec")
        for codebook_id in codebooks:
            client.create_model_version("hymirec", "/nowhere", tags={"codebook_id": codebook_id})
        if champion:
            client.set_registered_model_alias("hymirec", "champion", champion)
        return home

    return make


@pytest.fixture
def copy_of(tmp_path, monkeypatch):
    """Copy a home of `make_registry`, with one codebook that is published."""

    def copy(registry, codebook_id):
        home = Home.at(tmp_path).create()
        shutil.copy(registry.mlflow / "mlflow.db", home.mlflow)
        monkeypatch.setattr(online, "list_codebooks", lambda home: [codebook_id])
        mlflow.set_tracking_uri(home.mlflow_uri)
        return home

    return copy
