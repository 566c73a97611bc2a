"""What every flow of this package runs in: its lock, its MLflow run, and Prefect's link to that."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar
from uuid import UUID

import mlflow
from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as running
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Crashed, State

from flows.runtime.locks import TRAINING, alone_in
from flows.runtime.settings import mlflow_page
from flows.runtime.shards import may_pass
from flows.tracking.record import FLOW_RUN_TAG, FLOW_TAG, LOCK_TAG, close_killed, tracked_run
from hymirec.home import Home

RETRY_SECONDS = (2, 10, 60)
"""Pauses before a step whose reading or writing failed is tried again."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def step(name: str) -> Any:
    """Make a task: no result is kept by Prefect, the steps keep their own.

    What failed in reading or writing is tried again, each time after a longer pause; a step goes on
    from what it had done. Anything else fails at once.
    """
    return task(
        name=name, cache_policy=NO_CACHE, persist_result=False, retries=len(RETRY_SECONDS),
        retry_delay_seconds=list(RETRY_SECONDS), retry_condition_fn=may_pass,
    )  # fmt: skip


@dataclass(frozen=True)
class FlowResult:
    """What a flow of a single step came to.

    Attributes:
        flow: its name.
        run_id: the MLflow run.
        seconds: from its beginning to its end.
        ran: steps that were done.
        skipped: steps whose inputs, settings and code had not changed.
        details: what else there is to tell, as JSON values.
    """

    flow: str
    run_id: str
    seconds: float
    ran: list[str]
    skipped: list[str]
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values, details beside the rest."""
        parts = {name: value for name, value in vars(self).items() if name != "details"}
        return parts | dict(self.details)


class Done(Protocol):
    """A step that is over."""

    @property
    def name(self) -> str:
        """Of the step."""

    @property
    def skipped(self) -> bool:
        """Whether there was nothing to do."""


@dataclass(frozen=True)
class FlowRun:
    """A flow's run while it goes on: its MLflow run, and the steps until now."""

    name: str
    run_id: str
    started: float
    steps: list[Done]

    def result(self, **details: Any) -> FlowResult:
        """What the flow came to."""
        return FlowResult(self.name, self.run_id, self.seconds, self.ran, self.skipped, details)

    @property
    def seconds(self) -> float:
        """Since its beginning."""
        return time.monotonic() - self.started

    @property
    def ran(self) -> list[str]:
        """Steps that were done."""
        return [one.name for one in self.steps if not one.skipped]

    @property
    def skipped(self) -> list[str]:
        """Steps whose inputs, settings and code had not changed."""
        return [one.name for one in self.steps if one.skipped]


@contextmanager
def flow_run(
    home: Home, name: str, *, lock: str = TRAINING, wait_seconds: float = 0, run_name: str = ""
) -> Iterator[FlowRun]:
    """Take the lock, open the MLflow run, and show it in Prefect.

    Args:
        home: where all state goes.
        name: of the flow.
        lock: see `flows.runtime.locks`.
        wait_seconds: for another run that has the lock, before refusing.
        run_name: of the MLflow run, if not the flow's.

    Raises:
        UsageError: another run holds the lock.
    """
    started = time.monotonic()
    with alone_in(home, lock, wait_seconds=wait_seconds):
        _close_killed(home, lock)
        tags = {FLOW_TAG: name, FLOW_RUN_TAG: str(running.get_id() or ""), LOCK_TAG: lock}
        with tracked_run(home, run_name or name, tags) as run_id:
            _link(run_id)
            yield FlowRun(name, run_id, started, [])


def launch(
    flow: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Call a flow in this process, as a command does.

    Without heartbeats, which tell a server of a flow that died elsewhere and cost a second at the
    end: of what dies here the next run with the same lock tells.
    """
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        return flow(*args, **kwargs)


def show_link(key: str, address: str, what: str) -> None:
    """Show a link with the flow run in Prefect; nothing where a flow is called without it."""
    if running.get_id():
        create_link_artifact(address, link_text=what, key=key)


def show_table(key: str, table: Mapping[str, Any]) -> None:
    """Show names and values with the flow run in Prefect, as `show_link`."""
    if running.get_id():
        rows = "\n".join(f"| {name} | {_shown(value)} |" for name, value in table.items())
        create_markdown_artifact(f"| | |\n| --- | --- |\n{rows}", key=key)


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _link(run_id: str) -> None:
    run = mlflow.get_run(run_id)
    page = f"{mlflow_page()}/#/experiments/{run.info.experiment_id}/runs/{run_id}"
    show_link("mlflow-run", page, f"MLflow run {run.info.run_name} ({run_id})")


def _close_killed(home: Home, lock: str) -> None:
    """End the runs, in MLflow and in Prefect, whose process was killed: nobody else will."""
    flow_run_ids = close_killed(home, lock)
    if not flow_run_ids:
        return
    killed: State[Any] = Crashed(message="its process was killed")
    with get_client(sync_client=True) as client:
        for flow_run_id in flow_run_ids:
            with contextlib.suppress(ObjectNotFound):  # it was on another server
                client.set_flow_run_state(UUID(flow_run_id), killed, force=True)
