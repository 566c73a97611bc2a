"""`hymirec recommend-all`: everybody's list, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hymirec.commands.options import HomeOption, JsonOption, existing, interruptible
from hymirec.display import out
from hymirec.errors import UsageError
from hymirec.home import DEFAULT_HOME


def recommend_all(
    path: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    k: Annotated[int, typer.Option("-k", help="Number of items.", min=1, max=1000)] = 10,
    keep_seen: Annotated[
        bool, typer.Option("--keep-seen", help="Recommend items of the history, too.")
    ] = False,
    model: Annotated[str, typer.Option(help="Alias of the version that recommends.")] = "champion",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write every user's list to one parquet file; interrupted, it goes on where it stopped."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: the lists are one parquet file")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder")
    place = existing(home)
    from flows.runtime.temporary_server import start_temporary_server

    start_temporary_server()
    from flows.recommend_all import recommend_all_flow
    from flows.tracking.runs import launch

    done = interruptible(
        lambda: launch(
            recommend_all_flow,
            home=place.root, path=path.resolve(), k=k, exclude_seen=not keep_seen, alias=model,
        )
    )  # fmt: skip
    out.print(
        f"{done.users} users in {escape(str(done.path))}, {done.popular} of them without a "
        f"history; version {done.model_version}, {done.seconds:.1f} s",
        soft_wrap=True,
    )
    if as_json:
        print(json.dumps(done.to_json()))
