"""`hymirec items`: the catalogue between two trainings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from hymirec.commands.options import HomeOption, JsonOption, configured
from hymirec.display import out
from hymirec.home import DEFAULT_HOME

app = typer.Typer(no_args_is_help=True, help="Items that appear or change between trainings.")


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="Items as parquet or CSV, or MovieLens's movies.")],
    home: HomeOption = DEFAULT_HOME,
    model: Annotated[str, typer.Option(help="Alias; by default all that there are.")] = "",
    drift: Annotated[
        float, typer.Option(help="Times the error on training's texts that raise the alarm.", min=0)
    ] = 1.5,
    as_json: JsonOption = False,
) -> None:
    """Make new and changed items recommendable, without training."""
    started = time.monotonic()
    place = configured(home)
    from hymirec.datasets.items import load_items

    table = load_items(file)  # before all else: what is wrong here is said at once
    from flows.catalogue.coding import coding_process

    with coding_process() as code:
        from flows.catalogue.items import publish_items

        done = publish_items(place, table, alias=model, alarm=drift, code=code)
    for one in done:
        what = f"{one.new} new, {one.changed} changed, {one.unchanged} unchanged items"
        error = (
            ""
            if one.cosine_error is None
            else (
                f"; codebook error {one.cosine_error:.4f}, "
                f"on texts of training {one.training_error:.4f}"
                + (" (drift alarm)" if one.drift else "")
            )
        )
        out.print(f"version {one.model_version}: {what}{error}", soft_wrap=True)
    if as_json:
        seconds = time.monotonic() - started
        print(json.dumps({"seconds": seconds, "published": [one.to_json() for one in done]}))
