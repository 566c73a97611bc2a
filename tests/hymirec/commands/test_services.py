"""`hymirec up` and `down` before anything is started; what they start is tried by hand and by
benchmarks/unattended.py."""

import json
import os

import psutil
import pytest

from hymirec import supervision
from hymirec.commands import services
from hymirec.errors import UsageError
from hymirec.home import Home


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What a command tells its process is gone after the test."""
    for name in list(os.environ):
        monkeypatch.setenv(name, os.environ[name])


def up(home, *names, data=None, deployments=None):
    services.up(
        list(names) or None, data=data, recipe=None, webhook="", deployments=deployments,
        prefect_port=None, mlflow_port=None, gateway_port=None, keep=False,
        home=home, as_json=False,
    )  # fmt: skip


def test_a_service_nobody_knows_is_named_and_no_home_is_made(tmp_path):
    for command in (up, lambda home, name: services.down([name], home=home)):
        with pytest.raises(UsageError, match="no service is called 'postgres'; there are prefect"):
            command(tmp_path / "home", "postgres")
    assert not (tmp_path / "home").exists()


def test_schedules_need_data_that_is_there(tmp_path):
    with pytest.raises(UsageError, match="--data DIR names what the schedules work on"):
        up(tmp_path / "home")
    with pytest.raises(UsageError, match="elsewhere is not a folder"):
        up(tmp_path / "home", data=tmp_path / "elsewhere")
    assert not (supervision.folder(Home.at(tmp_path / "home")) / services.SETTINGS).exists()


def test_what_cannot_be_entered_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(services, "_start", lambda *_: pytest.fail("started"))
    home = tmp_path / "home"
    for schedules in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(UsageError, match=f"^{schedules} is not a file$"):
            up(home, data=tmp_path, deployments=schedules)
    with pytest.raises(UsageError, match="--data DIR"):  # nothing of that is remembered
        up(home)


def test_what_is_told_once_is_remembered(tmp_path):
    home = Home.at(tmp_path).create()
    services._remember(home, services._told(home, data="/data", recipe=None, gateway_port=6000))
    told = services._told(home, data=None, recipe="base", gateway_port=None)
    assert (told.data, told.recipe, told.gateway_port) == ("/data", "base", 6000)
    assert told.mlflow_port == 5000


def test_programs_find_a_recipe_of_the_callers_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    home = Home.at(tmp_path).create()
    environment = services._environment(home, services.Told(code="/mine"), "worker")
    assert environment["PYTHONPATH"] == os.pathsep.join(["/mine", "/elsewhere"])
    assert services._environment(home, services.Told(), "worker")["PYTHONPATH"] == "/elsewhere"


def test_programs_are_told_of_a_server_that_runs_and_not_of_one_that_ran(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home = Home.at(tmp_path).create()
    began = psutil.Process().create_time()
    file = supervision.folder(home) / "prefect.json"
    file.parent.mkdir(parents=True)
    for began_then, url in ((began, "http://127.0.0.1:4200/api"), (began - 100, None)):
        server = {
            "name": "prefect", "pid": os.getpid(), "began": began_then, "command": [],
            "url": "http://127.0.0.1:4200", "health": "/api/health",
        }  # fmt: skip
        file.write_text(json.dumps(server))
        environment = services._environment(home, services.Told(), "worker")
        assert environment.get("PREFECT_API_URL") == url


def test_schedules_are_entered_when_something_of_them_is_new(tmp_path, monkeypatch):
    entered = []
    monkeypatch.setattr("flows.deployments.deploy", lambda *_, **more: entered.append(more))
    monkeypatch.setattr(services, "_environment", lambda *_: {})
    home, file = Home.at(tmp_path / "home").create(), tmp_path / "mine.yaml"
    file.write_text("deployments: []")

    def again(webhook="", ran_already=True, **told):
        services._remember(home, services._told(home, **told))
        services._deploy(home, services._told(home), webhook, ran_already)
        return len(entered)

    assert again(data="/data", ran_already=False) == 1
    assert again() == 1
    assert again(data="/elsewhere") == 2
    assert again(deployments=str(file)) == 3
    assert entered[-1]["file"] == file
    assert again() == 3
    file.write_text("deployments: [1]")
    assert again() == 4
    assert again(webhook="https://example.org") == 5
    assert again(ran_already=False) == 6


def test_a_home_in_brackets_is_named_as_it_is(tmp_path, capsys):
    home = Home.at(tmp_path / "[prod]" / "[/]")
    services.status(home.root)
    services.down(home=home.root)
    assert capsys.readouterr().out.count(str(home.root)) == 2
