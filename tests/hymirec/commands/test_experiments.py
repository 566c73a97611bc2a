"""`hymirec experiment`: from a declaration to a winner, and what is refused."""

import json
from unittest import mock

import mlflow
import pytest
import yaml
from typer.testing import CliRunner

from features import online
from flows.registry.aliases import Aliases
from hymirec.cli import app
from hymirec.errors import UsageError
from hymirec.home import Home

CODEBOOK = "0123456789ab"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with versions 1, which is champion, and 2."""
    home = Home.at(tmp_path_factory.mktemp("home")).create()
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    client.create_registered_model("hymirec")
    for _ in range(2):
        client.create_model_version("hymirec", "/nowhere", tags={"codebook_id": CODEBOOK})
    client.set_registered_model_alias("hymirec", "champion", "1")
    with mock.patch.object(online, "list_codebooks", return_value=[CODEBOOK]):
        yield home


@pytest.fixture
def run(home):
    """Run a command; what it prints, and its JSON object."""

    def command(*words, ends_with=0):
        place = ["--home", str(home.root)] if words[0] not in ("example", "metrics") else []
        found = CliRunner().invoke(app, ["experiment", *map(str, words), *place])
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == ends_with, found.output
        last = found.output.strip().splitlines()[-1] if found.output.strip() else ""
        return found.output, json.loads(last) if last.startswith("{") else None

    return command


def test_an_owner_goes_from_a_declaration_to_a_winner(run, home, tmp_path):
    example, _ = run("example")
    declared = yaml.safe_load(example) | {"name": "first"}
    declared["variants"][1]["model"] = 2
    file = tmp_path / "first.yaml"
    file.write_text(yaml.safe_dump(declared))
    said, created = run("create", file, "--json")
    assert "first is a draft: control version 1, longer version 2" in said
    assert "nothing has been served yet that could tell how many users it needs" in said
    assert (created["name"], created["state"]) == ("first", "draft")
    said, _ = run("start", "first", "--reason", "go")
    assert "first is running at 0.01 of its traffic" in said
    said, _ = run("ramp", "first", "--step", 2)
    assert "first is running at 0.1 of its traffic" in said
    assert "first is paused" in run("pause", "first", "--reason", "looks odd")[0]
    assert "first is running at 0.1" in run("start", "first")[0]
    said, found = run("readout", "first", "--json")
    assert "hold: 0 of 1000 users of each variant" in said
    assert found["experiments"][0]["action"] == "hold"
    said, shown = run("status", "first", "--json")
    assert "looks odd" in said
    assert [entry["kind"] for entry in shown["log"]] == [
        "resumed", "paused", "ramped", "started", "created",
    ]  # fmt: skip
    assert shown["latest"]["action"] == "hold"
    with pytest.raises(UsageError, match="--reason"):
        run("conclude", "first", "longer", "--force")
    passed = {"gate": "champion", "verdict": "pass", "compared_with": "1"}
    Aliases(home).note_verdict("champion", "2", reason="passed", evidence=passed)
    assert "longer has won: version 2 is champion" in run("conclude", "first", "longer")[0]
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    assert client.get_registered_model("hymirec").aliases["champion"] in ("2", 2)
    client.set_registered_model_alias("hymirec", "champion", "1")
    assert run("list", "--json")[1]["experiments"][0]["winner"] == "longer"


def test_without_a_file_and_the_kill_switch(run):
    words = ("--hypothesis", "more", "--owner", "us", "--treatment", "2")
    run("create", "--name", "left", "--traffic", "0-0.5", *words)
    run("create", "--name", "right", "--traffic", "0.5-1", "--ramp", "0.5:10,1:20", *words)
    run("create", "--name", "third", *words)
    run("start", "left")
    _, started = run("start", "right", "--json")
    assert started["experiment"]["ramp"][0] == {"share": 0.5, "min_users": 10, "min_hours": 0.0}
    with pytest.raises(UsageError, match="third wants 0 to 1 of layer 'ranking', and left"):
        run("start", "third")
    said, killed = run("kill", "--all", "--reason", "[ticket 7] page is down [/]", "--json")
    assert set(killed["killed"]) == {"left", "right"}
    assert "[ticket 7] page is down [/]" in said
    assert "nothing holds traffic" in run("kill", "--all")[0]
    assert "third is stopped" in run("stop", "third")[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("create",), "either a FILE or --name"),
        (("create", "/nowhere.yaml"), "/nowhere.yaml cannot be read"),
        (("create", "--name", "x"), "the declaration: hypothesis: "),
        (("create", "--name", "x", "--traffic", "half"), "--traffic is from-to"),
        (("create", "--name", "x", "--ramp", "all"), "--ramp is share:users"),
        (
            ("create", "--name", "x", "--hypothesis", "y", "--owner", "z", "--treatment", "7"),
            "no version of hymirec is '7'; there are 1, 2",
        ),
        (("start", "nobody"), "no experiment is called 'nobody'"),
        (("kill",), "kill either one NAME or --all"),
    ],
)
def test_what_is_impossible_is_refused_in_a_line(run, words, says):
    with pytest.raises(UsageError) as refused:
        run(*words)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_metrics_are_listed(run):
    _, found = run("metrics", "--json")
    assert {"click_through", "item_cold_start"} <= {one["name"] for one in found["metrics"]}
