"""`hymirec benchmark` and `hymirec compare`: models beside each other, and their logged runs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hymirec.commands.options import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    RecipeOption,
    configured,
    interruptible,
)
from hymirec.display import out, show_comparison, show_differences, show_trials
from hymirec.errors import UsageError

if TYPE_CHECKING:
    from hymirec.home import Home


def benchmark(
    data: Annotated[Path | None, typer.Option(help="Folder with interactions and items.")] = None,
    models: Annotated[
        str, typer.Option(help="Names with commas between, module:function, or all.")
    ] = "all",
    recipe: RecipeOption = "small",
    seeds: Annotated[int, typer.Option(help="Trainings of each model.", min=1)] = 3,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="HyMiRec without each of its parts, too.")
    ] = False,
    sweep: Annotated[str, typer.Option(help="interests, window or both, with a comma.")] = "",
    rate_factors: Annotated[
        str,
        typer.Option(
            help="Such as 0.3,1,3: each model keeps the multiple of its learning rate that "
            "validates best."
        ),
    ] = "",
    transitions: Annotated[
        bool,
        typer.Option(
            "--transitions",
            help="The baselines with what follows what besides, as HyMiRec has it.",
        ),
    ] = False,
    min_events: Annotated[int, typer.Option(help="Leave out users with fewer events.", min=1)] = 1,
    split: Annotated[
        Literal["last", "time"],
        typer.Option(help="last: everyone's last event; time: all after one moment."),
    ] = "last",
    window: Annotated[int, typer.Option(help="Next items that are asked about.", min=1)] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="The built-in world, the demo's recipe, one seed.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Train and compare models on one data set; interrupted, it goes on where it stopped."""
    if (data is None) != quick:
        raise UsageError("a benchmark is either on --data DIR or --quick")
    if data is not None and not data.is_dir():
        raise UsageError(f"{data} is not a folder")
    place = configured(home).create()
    if data is None:
        data, recipe, seeds = built_in_world(place), "demo", 1
    from flows.runtime.temporary_server import start_temporary_server

    start_temporary_server()
    from flows.benchmark import benchmark as flow
    from flows.benchmark import contenders
    from flows.tracking.runs import launch
    from hymirec.recipes import get_recipe
    from hymirec.splits import SplitConfig

    parts = SplitConfig(by=split, window=window)
    names, swept = _listed(models), _listed(sweep)
    factors = [_factor(factor) for factor in _listed(rate_factors)]
    contenders(get_recipe(recipe), names, ablations=ablations, sweeps=swept)
    result = interruptible(
        lambda: launch(
            flow, data=data.resolve(), home=place.root, recipe=recipe, models=names, seeds=seeds,
            ablations=ablations, sweeps=swept, min_events=min_events, split=parts,
            rate_factors=factors, transitions=transitions,
        )
    )  # fmt: skip
    show_comparison(result.table)
    show_trials(result.trials)
    if as_json:
        print(json.dumps(result.to_json()))


def compare(
    runs: Annotated[list[str], typer.Argument(help="MLflow run ids, or how they begin.")],
    page: Annotated[Path, typer.Option("--out", help="Where to write the report.")] = Path(
        "comparison.html"
    ),
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare logged runs: metrics with intervals, slices, curves, settings, lists side by side."""
    if page.is_dir():
        raise UsageError(f"{page} is a folder: the report is one HTML page")
    place = configured(home)
    from flows.compare import differences, read_runs, write_report

    found = read_runs(place, runs)
    table = differences(found)
    show_differences(table, found[0].label)
    write_report(place, found, page)
    out.print(
        f"the report is {page.resolve().as_uri()}, and with each run in MLflow", soft_wrap=True
    )
    if as_json:
        parts = {label: [asdict(one) for one in rows] for label, rows in table.items()}
        print(json.dumps({"first": found[0].label, "differences": parts, "report": str(page)}))


def built_in_world(place: Home) -> Path:
    """Write the built-in world into a home; the folder that it is in."""
    from hymirec.datasets.synthetic import WorldConfig, generate, write_world

    world = place.root / "world"
    write_world(generate(WorldConfig()), world)
    return world


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _factor(said: str) -> float:
    try:
        factor = float(said)
    except ValueError:
        factor = 0.0
    if not 0 < factor < math.inf:
        raise UsageError(f"--rate-factors: {said!r} is no number above 0")
    return factor
