"""What runs unattended: as the committed snapshot says, and of flows that are there and take it."""

import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect import Flow

from flows.deployments import FILE, RUNS_AT_ONCE
from flows.names import FLOWS
from flows.runtime.notify import notify_failure

SNAPSHOT = Path(__file__).with_name("deployments.json")
KEPT = ("entrypoint", "parameters", "schedules", "concurrency_limit", "work_pool")
DEPLOYMENTS = yaml.safe_load(FILE.read_text())["deployments"]


def flow_of(deployment):
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(import_module(module), name)


def test_schedules_and_limits_are_those_of_the_snapshot():
    """One that is meant to change is changed in deployments.json too; the commit says why."""
    found = {one["name"]: {key: one[key] for key in KEPT} for one in DEPLOYMENTS}
    assert {"runs_at_once": RUNS_AT_ONCE, "deployments": found} == json.loads(SNAPSHOT.read_text())


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_each_is_a_flow_by_that_name_takes_its_parameters_and_tells_of_failures(deployment):
    flow = flow_of(deployment)
    assert isinstance(flow, Flow)
    assert flow.name == deployment["name"]
    assert FLOWS[flow.name] == ":".join(deployment["entrypoint"].rsplit(".", 1))
    inspect.signature(flow.fn).bind(**deployment["parameters"])
    assert notify_failure in flow.on_failure_hooks
    assert notify_failure in flow.on_crashed_hooks
    assert not flow.retries  # tasks are tried again, and only for reading and writing


def test_nothing_is_pulled_and_nothing_else_is_said_of_a_deployment():
    whole = yaml.safe_load(FILE.read_text())
    assert whole["pull"] == []
    assert all(one.keys() == {"name", *KEPT} for one in DEPLOYMENTS)
