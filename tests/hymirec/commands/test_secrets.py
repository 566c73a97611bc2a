"""Passwords in addresses are no argument of any process, in no file and in no message."""

import pytest

from hymirec.cli import app
from hymirec.commands import services
from hymirec.errors import UsageError
from hymirec.home import ENV_MLFLOW, Home

SECRET = "correct-horse-battery"


def test_mlflow_is_told_its_store_in_the_environment(tmp_path, monkeypatch):
    address = f"postgresql://somebody:{SECRET}@host/mlflow"
    monkeypatch.setenv(ENV_MLFLOW, address)
    home, told = Home.at(tmp_path), services.Told()
    # What is written to services/mlflow.json, and what `ps` shows.
    service = services._mlflow(home, told)
    assert SECRET not in repr(service)
    assert services._environment(home, told, "mlflow")["MLFLOW_BACKEND_STORE_URI"] == address


def test_the_page_of_mlflow_is_told_in_the_environment(tmp_path, monkeypatch):
    import os

    started = {}

    def instead(program, command):
        started.update(command=command, store=os.environ["MLFLOW_BACKEND_STORE_URI"])

    address = f"postgresql://somebody:{SECRET}@host/mlflow"
    with monkeypatch.context() as patch:
        for name in list(os.environ):
            patch.setenv(name, os.environ[name])  # to have it back
        for name in ("MLFLOW_BACKEND_STORE_URI", "PREFECT_UI_API_URL"):
            patch.setenv(name, "")
        patch.setenv(ENV_MLFLOW, address)
        patch.setattr(os, "execv", instead)
        app(["ui", "mlflow", "--home", str(Home.at(tmp_path).create().root)],
            standalone_mode=False)  # fmt: skip
    assert SECRET not in repr(started["command"])
    assert started["store"] == address


@pytest.mark.parametrize("address", ["oracle://u:{}@h/d", "postgresql//u:{}@h", "u:{}@h", "{}"])
def test_an_address_that_mlflow_does_not_know_is_not_repeated(address, tmp_path, monkeypatch):
    monkeypatch.setenv(ENV_MLFLOW, address.format(SECRET))
    with pytest.raises(UsageError, match=f"{ENV_MLFLOW} is no address of http, ") as caught:
        _ = Home.at(tmp_path).mlflow_uri
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("address", ["postgresql+psycopg://u@h/d", "http://host:5000"])
def test_addresses_that_mlflow_knows(address, tmp_path, monkeypatch):
    monkeypatch.setenv(ENV_MLFLOW, address)
    assert Home.at(tmp_path).mlflow_uri == address
