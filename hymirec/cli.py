"""The command line: the one place that reaches up to flows and serving, inside its commands.

Feast, MLflow, Prefect and Great Expectations take seconds to import and read the environment as
they do; so a command imports what it needs when it runs, after `configure_tools`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from hymirec import __version__
from hymirec.commands import (
    batch,
    benchmark,
    clean,
    codebook,
    events,
    experiments,
    flow,
    items,
    models,
    monitor,
    services,
    serving,
    simulate,
)
from hymirec.commands import features as feature_store
from hymirec.commands.options import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    RecipeOption,
    configured,
    existing,
    interruptible,
)
from hymirec.display import (
    err,
    out,
    show_answer,
    show_metrics,
    show_table,
)
from hymirec.errors import HymirecError, InterruptedRunError, UsageError
from hymirec.home import Home

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Multi-interest recommendation from long histories: train, track, promote, serve.",
)  # fmt: skip
app.add_typer(events.app, name="events")
app.add_typer(items.app, name="items")
app.add_typer(flow.app, name="flow")
app.add_typer(experiments.app, name="experiment")
app.add_typer(codebook.app, name="codebook")
app.add_typer(feature_store.app, name="features")
app.add_typer(models.app, name="models")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"hymirec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True,
                     callback=_print_version),
    ] = False,
) -> None:  # fmt: skip
    """Options of the command line as a whole."""


DEFAULT_HOST = serving.DEFAULT_HOST

Tuning = Literal["full", "lora", "frozen"]
BadRows = Literal["fail", "drop", "keep"]


def main() -> None:
    """Run a command; every failure is one line, and bad input exits with 2."""
    _show_progress()
    try:
        app()
    except HymirecError as error:
        if _is_helper():
            # The first process has met the same; `torchrun` stops it as soon as another ends.
            time.sleep(2)
        else:
            err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)


@app.command()
def pipeline(
    data: Annotated[Path, typer.Option(help="Folder with interactions and items.")],
    recipe: RecipeOption = "small",
    backbone: Annotated[
        str,
        typer.Option(help="Pretrained model that reads item texts: a directory or a hub name."),
    ] = "",
    tuning: Annotated[Tuning, typer.Option(help="How much of the backbone trains.")] = "frozen",
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the backbone from the Hugging Face hub.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Of all trainings, in place of the recipe's.", min=0)
    ] = None,
    bad_rows: Annotated[
        BadRows, typer.Option(help="What becomes of rows that break a rule of the suites.")
    ] = "fail",
    wait_minutes: Annotated[
        float, typer.Option(help="For another run that holds the home; 0 refuses at once.", min=0)
    ] = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Validate, encode, publish, train, evaluate, register and promote."""
    if not backbone and (download or tuning != "frozen"):
        raise UsageError("--tuning and --download are about a --backbone; none is named")
    result = _run_pipeline(
        home, data, recipe, backbone, tuning, seed=seed, bad_rows=bad_rows, download=download,
        wait_minutes=wait_minutes,
    )  # fmt: skip
    show_metrics(result)
    if as_json:
        print(json.dumps(result.to_json()))


@app.command()
def fit(
    data: Annotated[Path, typer.Option(help="Folder with interactions and items.")],
    directory: Annotated[Path, typer.Option("--out", help="Folder for checkpoints and model.")],
    recipe: RecipeOption = "small",
    learning_rate: Annotated[
        float | None, typer.Option(help="Of all trainings, in place of the recipe's.", min=1e-9)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train, evaluate and save a model with nothing but the library; several processes may share.

    Interrupted, it goes on where it stopped. `torchrun --nproc-per-node 2 -m hymirec fit …` trains
    in two processes.
    """
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder")
    # As `flows.runtime.settings`: others may use the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from hymirec import fit as train_all
    from hymirec import get_recipe, load
    from hymirec.checkpoints import write_whole
    from hymirec.processes import is_main

    settings = get_recipe(recipe).at_rate(learning_rate)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from error
    try:
        fitted = train_all(load(data), settings, directory=directory / "training")
        if not is_main():
            return
        result = fitted.evaluate()
    except KeyboardInterrupt as error:
        raise InterruptedRunError("interrupted: the same command goes on from here") from error
    # The model appears whole or not at all; one that was there before stays until then.
    partial, model = directory / "model.partial", directory / "model"
    shutil.rmtree(partial, ignore_errors=True)
    fitted.package.save(partial)
    shutil.rmtree(model, ignore_errors=True)
    partial.rename(model)
    write_whole(directory / "metrics.json", result)
    show_table("test items ranked among all unseen", result)
    out.print(f"the model is in {escape(str(model))}", soft_wrap=True)
    if as_json:
        print(json.dumps(result | {"model": str(model)}))


app.command()(benchmark.benchmark)
app.command()(benchmark.compare)


@app.command()
def demo(home: HomeOption = DEFAULT_HOME) -> None:
    """Run everything on the built-in world and show what comes out."""
    place = configured(home).create()
    world = benchmark.built_in_world(place)
    result = _run_pipeline(home, world, "demo")

    from flows.runtime.settings import CHAMPION, MODEL_NAME
    from serving.client import ask
    from serving.registry import Registry
    from serving.server import ModelServer

    version = Registry(place, MODEL_NAME).resolve(CHAMPION)
    logging.getLogger(__name__).info("serve: starting MLflow's model server of version %d", version)
    with ModelServer(place, MODEL_NAME, version, host=DEFAULT_HOST, port=0) as server:
        answers = [ask(server.url, user, 10) for user in _some_users(world)]
    # The user whose list draws on the most interests shows best what they are.
    show_answer(max(answers, key=_interests_in))
    show_metrics(result)
    _print_pages(place, result.data_report)


@app.command()
def world(
    directory: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Another seed, another world.", min=0)] = 0,
    users: Annotated[int, typer.Option(help="Number of users.", min=2)] = 600,
    items: Annotated[int, typer.Option(help="Number of items.", min=200)] = 2000,
) -> None:
    """Write the built-in world as files, with the planted interests beside it."""
    from hymirec.datasets.synthetic import WorldConfig, generate, write_world

    made = generate(WorldConfig(seed=seed, num_users=users, num_items=items))
    try:
        write_world(made, directory)
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from error
    out.print(f"{len(made.dataset.interactions)} interactions in {escape(str(directory))}")


@app.command()
def ui(
    page: Annotated[str, typer.Argument(help="mlflow, prefect or feast")],
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(help="Port; 0: the tool's own.", min=0, max=65535)] = 0,
) -> None:
    """Open the web page of a tool on what this home holds, until interrupted."""
    place = existing(home)
    import features

    host = ["--host", DEFAULT_HOST]
    repository = Path(features.__file__).parent
    commands = {
        "mlflow": ["mlflow", "ui", "--workers", "1", *host, "--port", port or 5000],
        "prefect": ["prefect", "server", "start", *host, "--port", port or 4200],
        "feast": ["feast", "--chdir", repository, "ui", *host, "--port", port or 8888],
    }  # fmt: skip
    if page not in commands:
        raise UsageError(f"no page is called {page!r}; there are {', '.join(commands)}")
    command = [str(part) for part in commands[page]]
    # Not among the arguments, which everybody on the machine can read: it may have a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = place.mlflow_uri
    # Prefect's page asks port 4200 unless told where it is itself.
    os.environ["PREFECT_UI_API_URL"] = f"http://{DEFAULT_HOST}:{port or 4200}/api"
    program = Path(sys.executable).parent / command[0]
    os.execv(program, command)


app.command()(models.promote)
app.command()(models.rollback)
app.command("recommend-all")(batch.recommend_all)
app.command()(clean.clean)
app.command()(monitor.monitor)
app.command()(serving.serve)
app.command()(serving.recommend)
app.command()(simulate.simulate)
for service_command in (services.up, services.down, services.status):
    app.command()(service_command)


def _is_helper() -> bool:
    """Whether `torchrun` started this process as one of several, and not as the first."""
    return os.environ.get("RANK", "0") != "0"


def _show_progress() -> None:
    """Print our own progress to standard error, and nothing of the libraries' short of trouble."""
    if not sys.warnoptions:
        # SQLAlchemy and others switch their own warnings back on as they are imported.
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    for package in ("hymirec", "features", "flows", "serving"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.WARNING if _is_helper() else logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


def _run_pipeline(
    home: Path, data: Path, recipe: str, backbone: str = "", tuning: Tuning = "frozen",
    *, seed: int | None = None, bad_rows: BadRows = "fail", download: bool = False,
    wait_minutes: float = 0,
) -> Any:  # fmt: skip
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder")
    place = configured(home)
    from flows.runtime.temporary_server import start_temporary_server
    from hymirec.recipes import get_recipe

    get_recipe(recipe)
    backbone = _located(backbone, download=download)
    place.create()
    # Seconds until the first step speaks: MLflow, Feast and Prefect are large.
    logging.getLogger(__name__).info("pipeline: home %s, starting ...", place.root)
    start_temporary_server()
    from flows.pipeline import pipeline as flow
    from flows.tracking.runs import launch

    return interruptible(
        lambda: launch(
            flow, data=data.resolve(), home=place.root, recipe=recipe, backbone=backbone,
            tuning=tuning, seed=seed, bad_rows=bad_rows, wait_minutes=wait_minutes,
        )
    )  # fmt: skip


def _located(backbone: str, *, download: bool) -> str:
    """A backbone that is there, by a name under which a run started elsewhere finds it too."""
    from hymirec.models import pretrained

    if download:
        pretrained.download(backbone)
    if backbone:
        pretrained.locate(backbone)
    path = Path(backbone).expanduser()
    return str(path.resolve()) if backbone and path.is_dir() else backbone


def _print_pages(home: Home, data_report: Path) -> None:
    where = "" if home.root == Home.at(DEFAULT_HOME).root else f" --home {escape(str(home.root))}"
    out.print("Pages on what was just made:")
    for page, what in {
        "mlflow": "runs, metrics and model versions",
        "prefect": "flow runs",
        "feast": "features",
    }.items():
        out.print(f"  {sys.argv[0]} ui {page}{where}   ({what})", soft_wrap=True)
    out.print(f"  {data_report.as_uri()}   (data report: open in a browser)", soft_wrap=True)


def _some_users(directory: Path) -> list[str]:
    from hymirec.datasets import load
    from hymirec.schema import USER_ID

    return load(directory).interactions[USER_ID].drop_duplicates().tolist()[:30]


def _interests_in(answer: dict[str, Any]) -> int:
    """How many items the interest that found fewest has in a list; 0 where one found all."""
    found = [item["interest"] for item in answer["recommendations"]]
    counts = Counter(found).values()
    return min(counts) if len(counts) > 1 else 0
