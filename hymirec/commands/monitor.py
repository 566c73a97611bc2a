"""`hymirec monitor`: one look at what is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from hymirec.commands.options import HomeOption, JsonOption, existing, interruptible
from hymirec.display import out
from hymirec.home import DEFAULT_HOME


def monitor(
    model: Annotated[str, typer.Option(help="Alias of the version to look at.")] = "champion",
    config: Annotated[
        Path | None, typer.Option(help="Thresholds; by default the home's monitor.yaml, if any.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option(help="Start the deployment of retraining where policy asks for it.")
    ] = True,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Measure drift, freshness and hits of the served version, and keep them as a time series."""
    place = existing(home)
    from flows.runtime.temporary_server import start_temporary_server

    start_temporary_server()
    from flows.monitor import RETRAIN, monitor_flow
    from flows.tracking.runs import launch

    found = interruptible(
        lambda: launch(
            monitor_flow,
            home=place.root, alias=model, config=config.resolve() if config else None,
            deployment=RETRAIN if retrain else "",
        )
    )  # fmt: skip
    table = Table(title=f"{found.version}, look {found.step}")
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("")
    too_far = {one.metric: one for one in found.crossed}
    for name, value in found.values.items():
        crossed = too_far.get(name)
        says = f"[red]{crossed.threshold}: {crossed.policy}[/]" if crossed else ""
        table.add_row(name, f"{value:.4g}", says)
    for name, reason in found.not_judged.items():
        table.add_row(name, "–", f"[dim]{escape(reason)}[/]")
    out.print(table)
    if found.retrain:
        out.print(found.retrain, soft_wrap=True)
    out.print(f"the report is {found.report.as_uri()}, and with the run in MLflow", soft_wrap=True)
    if as_json:
        print(json.dumps(found.to_json()))
