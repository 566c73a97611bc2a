"""The process around the model server, as far as nothing has to be started."""

from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException

from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home
from serving.registry import Registry
from serving.server import last_line


def test_asking_for_a_champion_does_not_make_a_home(tmp_path):
    home = Home.at(tmp_path / "typo")
    with pytest.raises(UsageError, match="run `hymirec pipeline` first"):
        Registry(home, "hymirec").resolve("champion")
    assert not home.root.exists()


def test_a_registry_that_is_away_is_said_to_be(tmp_path):
    def away(*_, **__):
        raise MlflowException("API request to http://mlflow:5000 failed\nwith a trace")

    home = Home.at(tmp_path).create()
    (home.mlflow / "mlflow.db").touch()
    registry = Registry(home, "hymirec")
    registry.__dict__["_client"] = SimpleNamespace(
        get_model_version_by_alias=away, get_model_version=away
    )
    for ask in (lambda: registry.resolve("champion"), lambda: registry.info(1)):
        with pytest.raises(HymirecError) as failed:
            ask()
        said = "the registry cannot be read: API request to http://mlflow:5000 failed"
        assert (type(failed.value), str(failed.value)) == (HymirecError, said)


def test_a_stopped_server_is_explained_by_our_own_error(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(
        "Traceback (most recent call last):\n"
        "hymirec.errors.VersionError: codebook 2f01 is not published in /home: nothing is\n"
        "Exception: Command '['bash', '-c', 'exec uvicorn']' returned non zero return code\n"
    )
    assert last_line(log) == "codebook 2f01 is not published in /home: nothing is"


def test_a_home_with_a_question_mark_is_refused(tmp_path):
    with pytest.raises(UsageError, match="question mark"):
        Home.at(tmp_path / "what?")


def test_a_home_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        Home.at(tmp_path / "file").create()


@pytest.fixture
def registry(tmp_path):
    """A registry whose version 1 is a folder with one file."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("right")
    found = Registry(Home.at(tmp_path / "home").create(), "hymirec")
    client = SimpleNamespace(get_model_version_download_uri=lambda name, version: str(model))
    found.__dict__["_client"] = client
    return found


def test_files_of_a_version_are_brought_once(registry, tmp_path):
    place = registry.fetch(1)
    assert (place / "weights").read_text() == "right"
    (tmp_path / "model" / "weights").unlink()
    assert registry.fetch(1) == place


def test_files_that_were_damaged_here_are_brought_again(registry, caplog):
    place = registry.fetch(1)
    (place / "weights").write_text("wrong")
    assert registry.fetch(1) == place
    assert (place / "weights").read_text() == "right"
    assert "weights is not the file that was written" in caplog.text
    assert [path.name for path in place.parent.iterdir()] == [place.name]
