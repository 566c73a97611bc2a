"""Steps as flows of their own find what the pipeline made, and say what is missing."""

import json
import os
import subprocess
import sys

import pytest

# All in one process: importing and starting Prefect is most of what a flow takes here.
EVERY_FLOW = """
import json, sys
from flows.runtime.settings import configure_tools
from hymirec.errors import UsageError
from hymirec.home import Home
home, world = Home.at(sys.argv[1]), sys.argv[2]
configure_tools(home)
from flows.runtime.temporary_server import start_temporary_server
start_temporary_server()
from flows.names import FLOWS, load_flow
from flows.tracking.runs import launch
for name in sys.argv[3].split():
    given = {"data": world} if name == "validate" else {"recipe": sys.argv[4]}
    if name == "monitor":
        given = {"deployment": ""}
    if name == "missing":
        name, given = "evaluate", {"recipe": "small"}
    try:
        found = launch(load_flow(name), home=home.root, **given).to_json()
    except UsageError as error:
        found = {"error": str(error)}
    print(json.dumps({"name": name} | found))
"""
ALONE = (
    "validate train-encoder build-codebook publish-features train-recommender evaluate register "
    "promote"
)


def run_flows(home, world, names, recipe="tiny"):
    done = subprocess.run(
        [sys.executable, "-c", EVERY_FLOW, home.root, world, names, recipe],
        capture_output=True, text=True, timeout=280, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_flow_alone_finds_what_the_pipeline_made(home, world, result):
    *rest, missing = run_flows(home, world, f"{ALONE} missing")
    assert missing["error"].endswith(
        "with recipe small has not been through train-encoder, or by other code: run "
        "`hymirec flow run train-encoder` first"
    )
    found = {one["name"]: one for one in rest}
    assert {name: one["error"] for name, one in found.items() if "error" in one} == {}
    assert [name for one in found.values() for name in one["ran"]] == []
    assert found["validate"]["skipped"] == ["data", "validate"]
    assert found["evaluate"]["metrics"]["R@10"] == result["metrics"]["R@10"]
    assert found["promote"]["model_version"] == result["model_version"]
    assert found["promote"]["standing"] == "champion"


@pytest.mark.slow
def test_the_flows_one_after_another_make_what_the_pipeline_makes(world, result, tmp_path):
    from hymirec.home import Home

    ran = run_flows(Home.at(tmp_path), world, f"{ALONE} monitor")
    found = {one["name"]: one for one in ran}
    assert "error" not in found.pop("monitor")  # which asks the version's run for its metrics
    assert [name for one in found.values() for name in one["skipped"]] == []
    assert found["evaluate"]["metrics"] == result["metrics"]
    assert found["promote"]["standing"] == "champion"
