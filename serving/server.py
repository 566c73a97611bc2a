"""MLflow's model server for one registered version, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from hymirec.errors import HymirecError, UsageError
from hymirec.home import ENV_HOME, Home
from serving.registry import Registry

START_SECONDS = 120
STOP_SECONDS = 10
LOOPBACK = "127.0.0.1"
STANDBY = Path(__file__).with_name("standby.py")


class ModelProcess:
    """A process that is the model server of one version, or waits to be told of which.

    It ends with the process that made it, also when that one is killed.
    """

    def __init__(
        self, home: Home, *, host: str = LOOPBACK, port: int = 0, program: Path | None = None
    ) -> None:
        """Start it, listening at an address but serving nothing yet. Port 0 takes a free one.

        Args:
            home: whose models it serves.
            host: to listen on.
            port: to listen on.
            program: what runs in it, by default `STANDBY`.

        Raises:
            UsageError: the port is in use.
        """
        try:
            listening = socket.create_server((host, port), backlog=1024)
        except OSError as error:
            raise UsageError(f"port {port} of {host} cannot be used: {error.strerror}") from error
        with listening:
            self.host, self.port = host, int(listening.getsockname()[1])
            self.log_path = home.root / "logs" / f"server-{self.port}.log"
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            environment = os.environ | {
                ENV_HOME: str(home.root),
                "MLFLOW_TRACKING_URI": home.mlflow_uri,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                # One request is too small to share among threads; they would only spin.
                "OMP_NUM_THREADS": "1",
            }
            with self.log_path.open("wb") as output:
                self._process = subprocess.Popen(
                    # Without -P this folder's files would be found in place of like-named modules.
                    [sys.executable, "-P", program or STANDBY, str(listening.fileno())],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[listening.fileno()],
                    start_new_session=True,
                )

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def serve(self, model: Path) -> None:
        """Tell it which model to load, by its directory; it answers when it has."""
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has ended, as whoever waits for its answer will see
            self._process.stdin.write(json.dumps({"model": str(model)}).encode() + b"\n")
            self._process.stdin.flush()

    def wait(self) -> int:
        """Wait for it to end by itself; its exit status."""
        return self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._tidy_up()

    def stop(self) -> None:
        """End it when it has answered what it was asked, and remove its log."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._tidy_up()
        self.log_path.unlink(missing_ok=True)

    def explanation(self) -> str:
        """Why it ended: our own last error in its log where there is one, else the last line."""
        return f"{last_line(self.log_path)} (log: {self.log_path})"

    def _tidy_up(self) -> None:
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()


class ModelServer:
    """The model server of one version, bound to one address; a context manager."""

    def __init__(self, home: Home, name: str, version: int, *, host: str, port: int) -> None:
        """Name what to serve; nothing starts yet. Port 0 takes a free one as it starts."""
        self.registry = Registry(home, name)
        self.version = version
        self.host = host
        self.port = port
        self._process: ModelProcess | None = None

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
            HymirecError: the version cannot be read, or the server stopped or did not answer in
                time; the message gives the last line of its log and where the log is.
        """
        process = ModelProcess(self.registry.home, host=self.host, port=self.port)
        self._process, self.port = process, process.port
        try:
            process.serve(self.registry.fetch(self.version))
            self._wait_until_ready(process)
        except BaseException:
            process.kill()
            self._process = None
            raise

    def stop(self) -> None:
        """Stop the process; does nothing when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

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

    def _wait_until_ready(self, process: ModelProcess) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not process.running:
                raise HymirecError(
                    f"the model server of version {self.version} stopped: {process.explanation()}"
                )
            with suppress(requests.RequestException):  # it is still loading
                if requests.get(f"{self.url}/ping", timeout=1).ok:
                    return
        raise HymirecError(
            f"the model server of version {self.version} did not answer within "
            f"{START_SECONDS} s (log: {process.log_path})"
        )


def last_line(log: Path) -> str:
    """Our own last error in a log where there is one, else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("hymirec.errors.")]
    return ours[-1].partition(": ")[2] if ours else (lines or ["no output"])[-1]


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
