"""`hymirec codebook`: the codebook between two trainings."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hymirec.commands.options import HomeOption, JsonOption, configured
from hymirec.display import out
from hymirec.home import DEFAULT_HOME

app = typer.Typer(no_args_is_help=True, help="The codebook that items are coded with.")


@app.command()
def update(
    home: HomeOption = DEFAULT_HOME,
    model: Annotated[str, typer.Option(help="Alias of the version to start from.")] = "champion",
    as_json: JsonOption = False,
) -> None:
    """Refit the codebook on all items and register the model with it; the champion stays."""
    place = configured(home)
    from flows.catalogue.recode import update_codebook

    done = update_codebook(place, model)
    out.print(
        f"version {done.model_version} is version {done.parent_version} with codebook "
        f"{done.codebook_id}: cosine error {done.error_before:.4f} → {done.error_after:.4f} over "
        f"{done.items} items, R@10 {done.before:.4f} → {done.after:.4f}; "
        + ("it is challenger" if done.gate else "it does not pass the gate"),
        soft_wrap=True,
    )
    if as_json:
        print(json.dumps(done.to_json()))
