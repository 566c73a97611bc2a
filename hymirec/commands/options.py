"""Options that commands share, and the home they speak of."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from hymirec.errors import InterruptedRunError, UsageError
from hymirec.home import DEFAULT_HOME as DEFAULT_HOME
from hymirec.home import ENV_HOME, Home
from hymirec.upgrades import bring_up_to_date

Result = TypeVar("Result")

HomeOption = Annotated[
    Path, typer.Option("--home", envvar=ENV_HOME, help="Directory that holds all state.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of the output.")
]

RECIPE_HELP = "A named set of all settings, or module:function of your own."
RecipeOption = Annotated[str, typer.Option(help=RECIPE_HELP)]


def configured(home: Path) -> Home:
    """Name the home and tell Feast, MLflow and Prefect about it, before they are imported.

    Where `hymirec up` has started Prefect's server, flows report there. A home of an earlier
    release is brought up to date; see `hymirec.upgrades` for what it raises.
    """
    from flows.runtime.settings import configure_tools
    from hymirec import supervision

    place = Home.at(home)
    bring_up_to_date(place)
    configure_tools(place)
    prefect = supervision.find(place, "prefect")
    if prefect is not None and prefect.process is not None:
        os.environ.setdefault("PREFECT_API_URL", f"{prefect.url}/api")
    return place


def existing(home: Path) -> Home:
    """As `configured`, of a home that is there.

    Raises:
        UsageError: it is not.
    """
    place = configured(home)
    if not place.root.exists():
        raise UsageError(f"{place.root} does not exist: run `hymirec pipeline` first")
    return place


def interruptible(run: Callable[[], Result]) -> Result:
    """Run something that goes on where it stopped when it is called again.

    Prefect is told on the way out, which a plain SIGTERM would cut short.

    Raises:
        InterruptedRunError: the user stopped it.
    """
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.default_int_handler)
    try:
        return run()
    except KeyboardInterrupt as error:
        raise InterruptedRunError("interrupted: the same command goes on from here") from error
