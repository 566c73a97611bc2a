"""A registry and model servers that stand in for MLflow's: real processes, up in an instant."""

import json
from pathlib import Path

import pytest

import serving.server
from features.logs.experiments import ExperimentStore
from hymirec.errors import UsageError
from hymirec.home import Home
from serving.fleet import Fleet
from serving.registry import VersionInfo
from serving.rollout import ChampionOnly
from serving.settings import GatewaySettings

from .console_desk import FakeDesk

EXAMPLE = {"inputs": [{"user_id": "u1"}]}


class FakeRegistry:
    """Versions 1, 2, 3 … as `make` has made them, and the alias."""

    name = "hymirec"

    def __init__(self, home):
        self.home = home
        self.champion = 0
        self.others = {}
        self.forgotten = []

    def make(self, number, **told):
        """Add a version; `told` is what its servers are told, see fake_model_server.py."""
        directory = self.fetch(number)
        directory.mkdir(parents=True)
        marks = {"version": str(number), "run": f"run{number}", "codebook": "book"}
        (directory / "answers.json").write_text(json.dumps(marks | told))
        (directory / "serving_input_example.json").write_text(json.dumps(EXAMPLE))
        return number

    def resolve(self, alias):
        if not self.champion:
            raise UsageError(f"no version of hymirec is {alias!r}")
        return self.champion

    def aliases(self):
        champion = {"champion": self.champion} if self.champion else {}
        return self.others | champion

    def info(self, version):
        if not self.fetch(version).is_dir():
            raise UsageError(f"there is no version {version} of hymirec")
        return VersionInfo(version, f"run{version}", "book")

    def fetch(self, version):
        return self.home.root / "served" / f"hymirec-{version}"

    def forget(self, version):
        self.forgotten.append(version)


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path).create()


@pytest.fixture
def registry(home, monkeypatch):
    """A registry with version 1 as champion."""
    monkeypatch.setattr(serving.server, "STANDBY", Path(__file__).with_name("fake_model_server.py"))
    monkeypatch.setattr("serving.fleet.LOOK_SECONDS", 0.05)
    found = FakeRegistry(home)
    found.champion = found.make(1)
    return found


@pytest.fixture
def make_fleet(registry):
    """Make a fleet on the registry; settings by name."""

    def make(rollout=None, **settings):
        chosen = GatewaySettings(**{"replicas": 1, "standby": False} | settings)
        return Fleet(registry, "champion", rollout or ChampionOnly(), chosen)

    return make


@pytest.fixture
def store(home):
    store = ExperimentStore(home)
    yield store
    store.close()


@pytest.fixture
def desk(store):
    return FakeDesk(store)
