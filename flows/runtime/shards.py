"""Work in shards: one after the other here, or on an existing Dask cluster by configuration.

The shards are the same either way and so are the results. What is handed on are paths and small
values; workers read and write the home themselves, which has to be on a disk they share.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import TaskRunner

from flows.runtime.settings import STORES
from hymirec.errors import DataError, UsageError, VersionError
from hymirec.sharding import counted, one_by_one

ENV_DASK = "HYMIREC_DASK"
"""Address of a Dask scheduler, such as `tcp://scheduler:8786`; nothing: this process works."""
RETRIES = 2
"""Of a shard whose machine or disk failed."""
CONNECT_SECONDS = 20

Result = TypeVar("Result")


def each_shard(
    name: str,
    work: Callable[..., Result],
    shards: Sequence[Mapping[str, Any]],
    *,
    sizes: Sequence[int] | None = None,
    what: str = "shards",
) -> Iterator[Result]:
    """Call a function once for each shard; results come in the shards' order.

    Args:
        name: of the work, in progress lines and as Prefect's task.
        work: a function of a module, which workers import.
        shards: its keyword arguments.
        sizes: what progress counts; one each by default.
        what: that is.

    Raises:
        UsageError: a cluster is named that cannot be reached or worked on.
        HymirecError: as `work`.
    """
    if not shards or not os.environ.get(ENV_DASK):
        yield from one_by_one(name, work, shards, sizes=sizes, what=what)
        return
    piece = task(
        name=f"{name} shard", cache_policy=NO_CACHE, persist_result=False,
        retries=RETRIES, retry_delay_seconds=5, retry_condition_fn=may_pass,
    )(call_there)  # fmt: skip
    common = {"work": work, "stores": _stores()}
    with dask_runner() as runner:
        futures = [runner.submit(piece, common | {"shard": dict(shard)}) for shard in shards]
        results = (future.result() for future in futures)
        yield from counted(name, results, sizes or [1] * len(shards), what)


def elsewhere(name: str) -> Callable[..., None] | None:
    """What has a cluster do work, as libraries ask for it; None where no cluster is named.

    See `hymirec.catalogue.Elsewhere`.
    """
    if not os.environ.get(ENV_DASK):
        return None

    def call(work: Callable[..., Any], shards: Sequence[Mapping[str, Any]]) -> None:
        for _ in each_shard(name, work, shards):
            pass

    return call


def call_there(work: Callable[..., Result], stores: str, shard: Mapping[str, Any]) -> Result:
    """Do a shard's work on a worker.

    Raises:
        UsageError: the worker was started with other stores than the flow has.
    """
    if _stores() != stores:
        raise UsageError(
            f"a Dask worker has other stores than the flow: {', '.join(STORES)} have to be set "
            "where it is started as they are here"
        )
    return work(**shard)


def _stores() -> str:
    """Digest of the stores' addresses, which may have passwords."""
    addresses = "\0".join(os.environ.get(name, "") for name in STORES)
    return hashlib.sha256(addresses.encode()).hexdigest()


def dask_runner() -> TaskRunner[Any]:
    """Prefect's Dask task runner on the cluster that `HYMIREC_DASK` names.

    Raises:
        UsageError: nothing answers there, or prefect-dask is not installed.
    """
    address = os.environ[ENV_DASK]
    try:
        from distributed import Client
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise UsageError(
            f"{ENV_DASK} needs the package prefect-dask: pip install 'hymirec[scale]'"
        ) from error
    try:
        with Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
            if not client.scheduler_info(n_workers=-1)["workers"]:
                raise UsageError(f"{ENV_DASK}: the scheduler at {address} has no workers")
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{ENV_DASK}: no Dask scheduler at {address}: {reason}") from error
    return DaskTaskRunner(address=address)


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """Whether a failure may be gone the next time: files, sockets, stores.

    For Prefect's `retry_condition_fn`.
    """
    try:
        state.result()
    except Exception as error:
        return is_io(error)
    return False


def is_io(error: BaseException | None) -> bool:
    """Whether an error is of input or output, or was raised because of one.

    What was asked for or handed in wrongly is not, though a missing file may be how it was noticed.
    """
    if isinstance(error, UsageError | DataError | VersionError):
        return False
    while error is not None:
        if isinstance(error, OSError | TimeoutError):
            return True
        error = error.__cause__
    return False
