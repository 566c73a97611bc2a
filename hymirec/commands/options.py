"""What commands share: options, and how the tools are set up before they are imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hymirec.home import ENV_HOME, Home

HomeOption = Annotated[
    Path, typer.Option("--home", envvar=ENV_HOME, help="Directory that holds all state.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of the output.")
]


def configured(home: Path) -> Home:
    """Name a home and point the tools at it; see `flows.settings.configure_tools`."""
    from flows.settings import configure_tools

    place = Home.at(home)
    configure_tools(place)
    return place
