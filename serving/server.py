"""MLflow's model server for one registered version, as a process of its own."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import mlflow
import requests
from mlflow.exceptions import MlflowException

from hymirec.errors import HymirecError, UsageError
from hymirec.home import ENV_HOME, Home

log = logging.getLogger(__name__)

START_SECONDS = 120
STOP_SECONDS = 10


def resolve_alias(home: Home, name: str, alias: str) -> int:
    """The version an alias points at now.

    Raises:
        UsageError: there is no such model or alias in this home.
    """
    nothing = f"no version of {name} is {alias!r} in {home.root}"
    if not (home.mlflow / "mlflow.db").exists():  # a client would create it
        raise UsageError(f"{nothing}: run `hymirec pipeline` first")
    client = mlflow.MlflowClient(tracking_uri=home.mlflow_uri, registry_uri=home.mlflow_uri)
    try:
        return int(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        versions = client.search_model_versions(f"name = '{name}'")
        newest = max(versions, key=lambda version: int(version.version), default=None)
        why = (
            f"version {newest.version} was {newest.tags.get('gate', 'never judged')}"
            if newest
            else ("run `hymirec pipeline` first")
        )
        raise UsageError(f"{nothing}: {why}") from error


class ModelServer:
    """`mlflow models serve` of one version, bound to one address; a context manager."""

    def __init__(self, home: Home, name: str, version: int, *, host: str, port: int) -> None:
        """Name what to serve; nothing starts yet. Port 0 takes a free one."""
        self.home = home
        self.name = name
        self.version = version
        self.host = host
        self.port = port or free_port(host)
        self.log_path = home.root / "logs" / f"server-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process."""
        if self._process is None:
            raise HymirecError("the model server was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the process and return when it answers.

        Raises:
            UsageError: the port is in use.
            HymirecError: the server stopped or did not answer in time; the message gives the last
                line of its log and where the log is.
        """
        refuse_port_in_use(self.host, self.port)
        command = [
            *_mlflow_command(), "models", "serve",
            "--model-uri", f"models:/{self.name}/{self.version}",
            "--env-manager", "local", "--host", self.host, "--port", str(self.port),
        ]  # fmt: skip
        environment = os.environ | {
            ENV_HOME: str(self.home.root),
            "MLFLOW_TRACKING_URI": self.home.mlflow_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # One request is too small to share among threads; they would only spin.
            "OMP_NUM_THREADS": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Wait for the process to end by itself; its exit status."""
        if self._process is None:
            raise HymirecError("the model server was not started")
        return self._process.wait()

    def stop(self) -> None:
        """Stop the process and all it started; does nothing when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                # The server is the leader of its own group: nobody else's process is in it.
                os.killpg(process.pid, sign)
                process.wait(STOP_SECONDS)
            except ProcessLookupError:
                process.wait()
            except subprocess.TimeoutExpired:
                continue
            return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise HymirecError(
                    f"the model server of version {self.version} stopped: {self._last_line()} "
                    f"(log: {self.log_path})"
                )
            with suppress(requests.RequestException):  # it does not listen yet
                if requests.get(f"{self.url}/ping", timeout=2).ok:
                    return
            time.sleep(0.2)
        raise HymirecError(
            f"the model server of version {self.version} did not answer within "
            f"{START_SECONDS} s (log: {self.log_path})"
        )

    def _last_line(self) -> str:
        """Our own last error in the log where there is one, else the last line."""
        text = self.log_path.read_text(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        ours = [line for line in lines if line.startswith("hymirec.errors.")]
        return ours[-1].partition(": ")[2] if ours else (lines or ["no output"])[-1]


def _mlflow_command() -> list[str]:
    found = shutil.which("mlflow", path=str(Path(sys.executable).parent))
    return [found] if found else [sys.executable, "-m", "mlflow"]


def free_port(host: str) -> int:
    """A port nobody listens on at present."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def refuse_port_in_use(host: str, port: int) -> None:
    """Say so in one line, before anything slow begins."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(f"port {port} of {host} cannot be used: {error.strerror}") from error
