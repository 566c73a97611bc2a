"""`hymirec up`, `down` and `status`: everything that stays running on one machine."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from hymirec import supervision
from hymirec.commands.options import RECIPE_HELP, HomeOption, JsonOption, configured
from hymirec.display import out, show_wide
from hymirec.errors import UsageError
from hymirec.home import DEFAULT_HOME, Home
from hymirec.supervision import Service

HOST = "127.0.0.1"
POOL = "hymirec"
SETTINGS = "settings.json"
"""Beside the services: what `up` was told, for the next time."""


@dataclass
class Told:
    """What `up` knows of this home."""

    data: str = ""
    recipe: str = "small"
    code: str = ""
    deployments: str = ""
    entered: str = ""
    prefect_port: int = 4200
    mlflow_port: int = 5000
    gateway_port: int = 5055


def up(
    names: Annotated[
        list[str] | None, typer.Argument(help="prefect, mlflow, worker, gateway; all if none.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder that is validated and published by schedule, and trained on by `pipeline`."
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help=RECIPE_HELP)] = None,
    webhook: Annotated[
        str,
        typer.Option(
            help="Address that is told of failures, refused promotions, drift and experiments."
        ),
    ] = "",
    deployments: Annotated[
        Path | None, typer.Option(help="Schedules, in place of prefect.yaml.")
    ] = None,
    prefect_port: Annotated[int | None, typer.Option(help="Of Prefect's server.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="Of MLflow's server.")] = None,
    gateway_port: Annotated[int | None, typer.Option(help="Of the gateway.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Stay, and start again what ends by itself.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Start what is not running yet: Prefect with its schedules, MLflow, a worker, the gateway.

    What is told once is remembered in the home. Doing it again starts what has ended.
    """
    wanted = _known(names)
    place = configured(home).create()
    code = None
    if recipe:
        from hymirec.recipes import get_recipe
        from hymirec.recipes.outside import is_outside

        get_recipe(recipe)
        # One of the caller's own is looked for by the worker as well, which stands elsewhere.
        code = str(Path.cwd()) if is_outside(recipe) else ""
    told = _told(
        place, data=str(data.resolve()) if data else None, recipe=recipe, code=code,
        deployments=str(deployments.resolve()) if deployments else None,
        prefect_port=prefect_port, mlflow_port=mlflow_port, gateway_port=gateway_port,
    )  # fmt: skip
    if "prefect" in wanted:
        if not told.data:
            raise UsageError("--data DIR names what the schedules work on; it is remembered")
        if not Path(told.data).is_dir():
            raise UsageError(f"{told.data} is not a folder")
        if not _schedules(told).is_file():
            raise UsageError(f"{_schedules(told)} is not a file")
    _remember(place, told)
    with supervision.one_at_a_time(place):
        for name in [one for one in SERVICES if one in wanted]:
            ran_already = _start(place, name, told)
            if name == "prefect":
                _deploy(place, told, webhook, ran_already)
    _show(place, as_json)
    if keep:
        _keep(place, [one for one in SERVICES if one in wanted], told)


def down(
    names: Annotated[
        list[str] | None, typer.Argument(help="prefect, mlflow, worker, gateway; all if none.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Stop what `up` started; a run that is going on is taken up by the next of its flow."""
    place = Home.at(home)
    wanted = _known(names)
    stopped = 0
    if supervision.folder(place).exists():
        with supervision.one_at_a_time(place):
            for one in reversed(supervision.found(place)):
                if one.name in wanted:
                    ran = supervision.stop(place, one)
                    out.print(f"{one.name}: {'stopped' if ran else 'had ended'}")
                    stopped += 1
    if not stopped:
        what = f"no {' or '.join(names)}" if names else "nothing"
        out.print(f"{what} runs that was started in {escape(str(place.root))}", soft_wrap=True)


def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Say what runs and answers; exit with 1 if something that was started does not."""
    place = Home.at(home)
    found = _show(place, as_json)
    if any(one["state"] != "running" for one in found):
        raise typer.Exit(1)


def _known(names: list[str] | None) -> list[str]:
    """The services named; all if none is."""
    if unknown := sorted(set(names or ()) - SERVICES.keys()):
        raise UsageError(f"no service is called {unknown[0]!r}; there are {', '.join(SERVICES)}")
    return names or list(SERVICES)


def _show(home: Home, as_json: bool) -> list[dict[str, Any]]:
    found = []
    table = Table(title=f"services of {escape(str(home.root))}")
    for name in ("service", "state", "address", "process", "since", "log"):
        table.add_column(name)
    for one in supervision.found(home):
        since = datetime.fromtimestamp(one.began, UTC).isoformat(timespec="seconds")
        row = {
            "name": one.name, "state": one.state, "url": one.url, "pid": one.pid, "since": since,
            "log": str(supervision.log_path(home, one.name)),
        }  # fmt: skip
        found.append(row)
        table.add_row(*(str(row[key]) for key in ("name", "state", "url", "pid", "since", "log")))
    if found:
        show_wide(table)
    else:
        out.print(f"nothing was started in {escape(str(home.root))}", soft_wrap=True)
    if as_json:
        print(json.dumps({"services": found}))
    return found


def _told(home: Home, **given: Any) -> Told:
    """What `up` was told now, and before where nothing is said now."""
    file = supervision.folder(home) / SETTINGS
    before = json.loads(file.read_text()) if file.exists() else {}
    return Told(**before | {key: value for key, value in given.items() if value is not None})


def _remember(home: Home, told: Told) -> None:
    """For the next time."""
    file = supervision.folder(home) / SETTINGS
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".tmp")
    new.write_text(json.dumps(vars(told)))
    new.replace(file)  # whole or not at all


def _start(home: Home, name: str, told: Told) -> bool:
    """Start a service unless it runs; whether it did."""
    running = supervision.find(home, name)
    if running and running.comes_round():
        out.print(f"{name}: runs already, process {running.pid}")
        return True
    if running:
        supervision.stop(home, running)
    service = SERVICES[name](home, told)
    if service is None:
        out.print(f"{name}: {NOT_STARTED[name]}", soft_wrap=True)
        return False
    supervision.start(home, service, _environment(home, told, name))
    return False


def _keep(home: Home, names: list[str], told: Told) -> None:
    """Watch over what runs until interrupted; it goes on without us then, until `down`."""
    stopping = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stopping.set())
    out.print("what ends is started again; Ctrl-C ends this, `hymirec down` all of them")

    def start_again(name: str) -> None:
        with supervision.one_at_a_time(home):
            _start(home, name, told)

    supervision.keep(home, names, start_again, stopping)


def _prefect(home: Home, told: Told) -> Service:
    port = told.prefect_port
    command = [program("prefect"), "server", "start", "--host", HOST, "--port", str(port)]
    return Service("prefect", command, f"http://{HOST}:{port}", "/api/health")


def _mlflow(home: Home, told: Told) -> Service | None:
    if home.mlflow_uri.startswith("http"):
        return None
    command = [
        program("mlflow"), "server", "--workers", "1", "--host", HOST,
        "--port", str(told.mlflow_port),
    ]  # fmt: skip
    return Service("mlflow", command, f"http://{HOST}:{told.mlflow_port}", "/health")


def _worker(home: Home, told: Told) -> Service:
    command = [program("prefect"), "worker", "start", "--pool", POOL, "--type", "process",
               "--name", f"{POOL}-{os.uname().nodename}"]  # fmt: skip
    return Service("worker", command)


def _gateway(home: Home, told: Told) -> Service | None:
    from flows.registry.aliases import Aliases
    from flows.runtime.settings import CHAMPION
    from serving.server import refuse_port_in_use

    try:
        if not Aliases(home).get(CHAMPION):
            return None
    except UsageError:  # nothing is registered
        return None
    refuse_port_in_use(HOST, told.gateway_port)
    command = [program("hymirec"), "serve", "--home", str(home.root), "--host", HOST,
               "--port", str(told.gateway_port)]  # fmt: skip
    return Service("gateway", command, f"http://{HOST}:{told.gateway_port}", "/ping")


SERVICES: dict[str, Callable[[Home, Told], Service | None]] = {
    "prefect": _prefect,
    "mlflow": _mlflow,
    "worker": _worker,
    "gateway": _gateway,
}
"""In the order in which they are started."""


NOT_STARTED = {
    "gateway": "there is no champion yet; `hymirec up gateway` when there is one",
    "mlflow": "HYMIREC_MLFLOW names a server that runs already",
}


def program(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).parent / name)


def _environment(home: Home, told: Told, name: str = "") -> dict[str, str]:
    """What programs are told; `configure_tools` has told this process most of it."""
    environment = os.environ | {
        "PREFECT_UI_API_URL": f"http://{HOST}:{told.prefect_port}/api",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    if told.code:
        paths = [told.code, os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    prefect = supervision.find(home, "prefect")
    if prefect is not None and prefect.process is not None:
        environment["PREFECT_API_URL"] = f"{prefect.url}/api"
    if name == "mlflow":
        # Not among the arguments, which everybody on the machine can read: it may have a password.
        environment["MLFLOW_BACKEND_STORE_URI"] = home.mlflow_uri
    if name in ("prefect", "worker"):
        environment |= {
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
            # What our own code says stands in the logs of its flow run.
            "PREFECT_LOGGING_EXTRA_LOGGERS": "hymirec,features,flows",
        }
    return environment


def _deploy(home: Home, told: Told, webhook: str, ran_already: bool) -> None:
    """Enter the schedules, the pool that works on them, and who is told.

    Not what the server has already: somebody may have paused a schedule there since.
    """
    file = _schedules(told)
    said = [str(home.root), told.data, told.recipe, file.read_text()]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    if ran_already and not webhook and told.entered == digest:
        out.print("schedules: entered already")
        return
    os.environ.update(_environment(home, told))
    from flows.deployments import deploy

    deploy(home, Path(told.data), told.recipe, file=file, webhook=webhook)
    _remember(home, _told(home, entered=digest))


def _schedules(told: Told) -> Path:
    """The file of them."""
    import flows

    return Path(told.deployments or Path(flows.__file__).with_name("prefect.yaml"))
