"""What the day happens to: a home with two versions, its stores and its services, one experiment.

    clients ──► gateway ──► model servers of version 1 and 2 ──► Redis
                   └─────► PostgreSQL: event log, experiments, exposures ──► two consumers
                   └─ wire ─► PostgreSQL: Feast's registry, MLflow's registry

Registries are reached over a wire that can be cut; Prefect's database, artifacts, journals and logs
lie in the home, on a disk that can be filled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
import requests
import yaml

from benchmarks.hostile_day.disk import Disk
from benchmarks.hostile_day.servers import (
    Server,
    free_port,
    new_database,
    start_postgresql,
    start_redis,
)
from benchmarks.hostile_day.wire import Wire
from hymirec import supervision
from hymirec.datasets.synthetic import WorldConfig, generate, write_world
from hymirec.home import Home

HYMIREC = Path(sys.executable).parent / "hymirec"
REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = "tiny"
EXPERIMENT, CONTROL, TREATMENT = "hostile-day", "control", "treatment"
TRAFFIC = 0.8
"""Of the users, who are in the experiment; the others are the champion's."""
RAMP = (0.5, 1.0)
EVERY_SECONDS = {
    "validate": 240, "publish-features": 240, "monitor": 150, "experiment-readout": 120,
}  # fmt: skip
"""In place of minutes and hours; a flow's imports alone take ten seconds of a core."""
SERVICES = ("prefect", "mlflow", "worker", "gateway")
READY_SECONDS = 300
LOOK_SECONDS = 3
"""That a look at a registry may take, which is a moment when it is there."""
ASK_AGAIN_SECONDS = 45.0
"""After which another flow run is asked for: the one before may have been dropped."""


class Stage:
    """All that runs on the day; a context manager that ends it."""

    def __init__(self, scratch: Path, *, with_flows: bool) -> None:
        """Name a folder to have everything in; nothing starts yet.

        Args:
            scratch: an empty folder that other users may enter.
            with_flows: whether Prefect, its worker and MLflow's server run as well.
        """
        self.scratch = scratch
        self.services = SERVICES if with_flows else ("gateway",)
        self.world = generate(WorldConfig.tiny())
        self.ports: dict[str, int] = {}
        self._exits = contextlib.ExitStack()
        self._keepers: dict[str, Keeper] = {}
        self._asked_for_flow = 0.0
        self.damaged_version = ""
        """That was registered to be found out, once it was."""

    def __enter__(self) -> Stage:
        try:
            self._set_up()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _set_up(self) -> None:
        self.disk = self._exits.enter_context(Disk(self.scratch / "disk"))
        self.home = Home.at(self.disk.root / "home").create()
        self.redis = self._server(start_redis, "redis")
        self.postgresql = self._server(start_postgresql, "postgresql")
        self.wire = Wire(self.postgresql.port)
        self._exits.callback(self.wire.close)
        events, feast, mlflow = (
            new_database(self.postgresql, name) for name in ("events", "feast", "mlflow")
        )
        self.event_log, self.registry = events, self._over_wire(feast)
        self._exits.enter_context(
            environment(
                HYMIREC_ONLINE_STORE=self.redis.address,
                HYMIREC_EVENT_LOG=events,
                HYMIREC_REGISTRY=self.registry,
                HYMIREC_MLFLOW=self._over_wire(mlflow).replace("://", "+psycopg://"),
                OMP_NUM_THREADS="1",
            )
        )
        say("two versions are trained")
        self.data = self.scratch / "world"
        write_world(self.world, self.data)
        for seed in (0, 1):
            hymirec("pipeline", "--data", self.data, "--recipe", RECIPE, "--seed", seed,
                    "--home", self.home.root)  # fmt: skip
        from flows.runtime.settings import configure_tools

        configure_tools(self.home)
        say("services start")
        # Not before: whoever asks for any port may be given one that was free.
        self.ports = {name: free_port() for name in ("prefect", "mlflow", "gateway")}
        self.client = self._mlflow()
        self.client.set_registered_model_alias("hymirec", "challenger", "2")
        self._declare_experiment()
        self._exits.callback(self.end)
        self._keep(
            "services", "up", *self.services, "--keep", "--data", self.data, "--recipe", RECIPE,
            "--deployments", self._deployments(), *self._port_options(),
        )  # fmt: skip
        self._keep("consumer", "events", "follow")
        self.until("everything runs", self.whole, READY_SECONDS)
        hymirec("experiment", "start", EXPERIMENT, "--home", self.home.root)

    def hymirec(self, *arguments: object, check: bool = True) -> str:
        """Run a command on the home; what it says."""
        return hymirec(*arguments, "--home", self.home.root, check=check)

    # What can be looked at and laid hands on.

    @property
    def url(self) -> str:
        """Of the gateway."""
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def version(self) -> dict[str, Any]:
        """What the gateway says of its versions; empty while it does not answer."""
        with contextlib.suppress(requests.RequestException, ValueError):
            answer = requests.get(f"{self.url}/version", timeout=5)
            return answer.json() if answer.ok else {}
        return {}

    def restarts(self) -> int:
        """Model servers that were started again, of all versions."""
        return sum(one["restarts"] for one in self.version().get("versions", []))

    def whole(self) -> bool:
        """Whether every process runs and every served version has all of its servers."""
        found = {one.name: one.state for one in supervision.found(self.home)}
        if any(found.get(name) != "running" for name in self.services):
            return False
        versions = self.version().get("versions", [])
        return (
            {"1", "2"} <= {one["model_version"] for one in versions}
            and all(one["servers"] == one["wanted"] for one in versions if not one["problem"])
            and self._keepers["consumer"].running
        )

    def service(self, name: str) -> psutil.Process:
        """The process of a service."""
        running = supervision.find(self.home, name)
        assert running is not None
        assert running.process is not None, f"{name} does not run"
        return running.process

    @property
    def consumer(self) -> psutil.Process:
        """The process that follows the event log beside the gateway."""
        return self._keepers["consumer"].process

    def model_servers(self, version: int) -> list[psutil.Process]:
        """Processes that answer for a version, the longest running first."""
        children = self.service("gateway").children()
        found = [one for one in children if _answers_as(one) == str(version)]
        return sorted(found, key=lambda one: one.create_time())

    def waiting_events(self) -> int:
        """Events that are in the log and not in the histories."""
        with psycopg.connect(self.event_log, connect_timeout=3) as connection:
            (end,) = connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
            row = connection.execute(
                "SELECT position FROM offsets WHERE consumer = 'histories'"
            ).fetchone()
        return end - (row[0] if row else 0)

    def registry_answers(self) -> bool:
        """Whether Feast's registry can be asked, in the way that everybody asks it."""
        try:
            with psycopg.connect(self.registry, connect_timeout=LOOK_SECONDS) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def flow_completed(self, since: float) -> bool:
        """Whether a flow that began since a moment has come to its end; asks for one if not."""
        began = {"after_": datetime.fromtimestamp(since, UTC).isoformat()}
        wanted = {"flow_runs": {"start_time": began, "state": {"type": {"any_": ["COMPLETED"]}}}}
        with contextlib.suppress(requests.RequestException, LookupError, ValueError):
            found = self._prefect("post", "flow_runs/filter", json=wanted)
            if found:
                return True
            if time.monotonic() - self._asked_for_flow > ASK_AGAIN_SECONDS:
                self._asked_for_flow = time.monotonic()
                name = "experiment-readout"
                deployment = self._prefect("get", f"deployments/name/{name}/{name}")["id"]
                self._prefect("post", f"deployments/{deployment}/create_flow_run", json={})
        return False

    def until(self, what: str, reached: Any, seconds: float) -> float:
        """Wait for something; seconds that it took.

        Raises:
            RuntimeError: it did not come.
        """
        started = time.monotonic()
        while not reached():
            if time.monotonic() - started > seconds:
                raise RuntimeError(f"after {seconds:.0f} s no sign of this: {what}")
            time.sleep(0.2)
        return time.monotonic() - started

    # How it is set up.

    def end(self) -> None:
        """Stop services and consumers in the ordinary way; the stores go on."""
        while self._keepers:
            self._keepers.popitem()[1].stop()
            self.hymirec("down", check=False)
            # The disk goes with the stage; what services said is worth more than that.
            for path in supervision.folder(self.home).glob("*.log"):
                shutil.copy(path, self.scratch)

    def _server(self, start: Any, name: str) -> Server:
        folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix=name)))
        server: Server = start(folder)
        self._exits.callback(server.kill)
        return server

    def _over_wire(self, address: str) -> str:
        return address.replace(f":{self.postgresql.port}/", f":{self.wire.port}/")

    def _mlflow(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(self.home.mlflow_uri, self.home.mlflow_uri)

    def _prefect(self, method: str, path: str, **options: Any) -> Any:
        url = f"http://127.0.0.1:{self.ports['prefect']}/api/{path}"
        answer = requests.request(method, url, timeout=10, **options)
        answer.raise_for_status()
        return answer.json()

    def _declare_experiment(self) -> None:
        declared = {
            "name": EXPERIMENT, "owner": "chaos",
            "hypothesis": "Nobody is moved between variants, whatever happens.",
            "variants": [{"name": CONTROL, "model": 1}, {"name": TREATMENT, "model": 2}],
            "traffic": {"end": TRAFFIC},
            # Read out on schedule, but nothing is decided: that is not what this day is for.
            "ramp": [{"share": share, "min_users": 100_000} for share in RAMP],
            "horizon": {"days": 28},
        }  # fmt: skip
        file = self.scratch / "experiment.yaml"
        file.write_text(yaml.safe_dump(declared))
        self.hymirec("experiment", "create", file)

    def _deployments(self) -> Path:
        declared = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
        for one in declared["deployments"]:
            seconds = EVERY_SECONDS.get(one["name"])
            one["schedules"] = [{"interval": seconds}] if seconds else []
            if one["name"] == "monitor":  # a crowd that clicks at random is a drift
                one["parameters"]["deployment"] = ""
        path = self.scratch / "prefect.yaml"
        path.write_text(yaml.safe_dump(declared))
        return path

    def _port_options(self) -> list[object]:
        return [part for name, port in self.ports.items() for part in (f"--{name}-port", port)]

    def _keep(self, name: str, *arguments: object) -> None:
        log = self.scratch / f"{name}.log"
        self._keepers[name] = Keeper([HYMIREC, *arguments, "--home", self.home.root], log)


class Keeper:
    """A command that is started again whenever it ends."""

    def __init__(self, command: list[Any], log: Path) -> None:
        """Start it; what it says goes to a file."""
        self._command, self._log = [str(part) for part in command], log
        self._stop = threading.Event()
        self._start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    @property
    def process(self) -> psutil.Process:
        """The process at present."""
        return psutil.Process(self._popen.pid)

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()
        self._popen.terminate()
        try:
            self._popen.wait(15)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _start(self) -> None:
        with self._log.open("ab") as output:
            self._popen = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            if not self.running:
                self._start()


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables of the environment, and put them back."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def hymirec(*arguments: object, check: bool = True) -> str:
    """Run a command; what it says.

    Raises:
        RuntimeError: it failed, unless that is to be looked at.
    """
    done = subprocess.run(
        [str(HYMIREC), *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    said = f"{done.stdout}{done.stderr}"
    if check and done.returncode:
        raise RuntimeError(f"hymirec {arguments[0]} ended with {done.returncode}: {said[-2000:]}")
    return said


def say(what: str) -> None:
    """Tell how far it has come."""
    print(time.strftime("%H:%M:%S"), what, file=sys.stderr, flush=True)


def _answers_as(process: psutil.Process) -> str:
    """The version that a model server answers as; empty of one that waits, or is none."""
    body = {"inputs": [{"user_id": ""}]}
    with contextlib.suppress(psutil.Error, requests.RequestException, LookupError, ValueError):
        port = next(
            one.laddr.port for one in process.net_connections("tcp4")
            if one.status == psutil.CONN_LISTEN
        )  # fmt: skip
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=3)
        return str(answer.json()["predictions"][0]["model_version"])
    return ""
