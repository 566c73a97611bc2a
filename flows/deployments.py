"""The schedules of `prefect.yaml`, entered into a running Prefect server."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr

from flows.runtime.notify import BLOCK
from flows.tracking.record import REPOSITORY
from hymirec.errors import HymirecError, UsageError
from hymirec.home import ENV_HOME, Home

log = logging.getLogger(__name__)

FILE = Path(__file__).with_name("prefect.yaml")
"""Travels with the package; the repository has a link to it, where Prefect itself would look."""
POOL = "hymirec"
RUNS_AT_ONCE = 3
"""Of the pool: a training, and beside it what takes moments."""
ENV_DATA = "HYMIREC_DATA"
"""The data folder that `prefect.yaml` puts into the flows' parameters; `hymirec up` sets it."""
ENV_RECIPE = "HYMIREC_RECIPE"
"""The recipe that `prefect.yaml` puts there; `hymirec up` sets it."""


def deploy(
    home: Home, data: Path, recipe: str, *, file: Path | None = None, webhook: str = ""
) -> None:
    """Enter all deployments of a file; those there already are changed to what it says.

    The server is that of `PREFECT_API_URL`.

    Args:
        home: of the flows.
        data: folder that they validate, publish and train on.
        recipe: name of the settings they train with.
        file: in place of `prefect.yaml`.
        webhook: address that is told of failures, refused promotions and drift; if empty, whoever
            was told before is.

    Raises:
        UsageError: there is no such file.
        HymirecError: Prefect does not take it; the message has what Prefect says.
    """
    file = (file or FILE).resolve()
    if not file.exists():
        raise UsageError(f"{file} does not exist")
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(
                WorkPoolCreate(
                    name=POOL, type="process", base_job_template=template,
                    concurrency_limit=RUNS_AT_ONCE,
                )
            )  # fmt: skip
        except ObjectAlreadyExists:
            client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=RUNS_AT_ONCE))
    if webhook:
        Webhook(url=SecretStr(webhook)).save(BLOCK, overwrite=True)
    prefect = Path(sys.executable).parent / "prefect"
    environment = os.environ | {
        ENV_HOME: str(home.root), ENV_DATA: str(data), ENV_RECIPE: recipe,
    }  # fmt: skip
    done = subprocess.run(
        [str(prefect), "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise HymirecError(f"{file.name} was not taken: {' '.join(said[-3:]) or 'no reason given'}")
    log.info("schedules: those of %s", file)
