"""`hymirec simulate`: experiments on simulated users through the real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from hymirec.commands.options import JsonOption, configured
from hymirec.display import out
from hymirec.errors import UsageError

if TYPE_CHECKING:
    from hymirec.home import Home

ScenarioName = Literal["better", "equal", "broken", "skewed"]


def simulate(
    scenario: Annotated[ScenarioName, typer.Option(help="What is true of the challenger.")],
    mode: Annotated[
        Literal["ab", "interleaving"], typer.Option(help="How the two are compared.")
    ] = "ab",
    seed: Annotated[int, typer.Option(help="Another seed, another course.", min=0)] = 0,
    again: Annotated[
        int,
        typer.Option(help="A/A experiments on the users of `equal`, split anew each time.", min=0),
    ] = 300,
    restart: Annotated[
        float | None,
        typer.Option(help="Day on which all processes are ended and started again.", min=0.5),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="New home to leave it all in, for the console and for looking."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let simulated users live through an experiment, and compare what is found with what is true.

    Gateway, logs, registry, readouts and decisions are the real ones; time is simulated.
    """
    if keep is not None and keep.exists() and not keep.is_dir():
        raise UsageError(f"{keep} is not a folder")
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise UsageError(f"{keep} is not empty: a simulation begins a home of its own")
    started = time.monotonic()
    with _home(keep) as home:
        found = _run(home, scenario, mode, seed, again if scenario == "equal" else 0, restart)
    found["seconds"] = round(time.monotonic() - started, 1)
    _show(found)
    if keep is not None:
        where = escape(str(keep))
        out.print(f"hymirec serve --home {where}   shows it in the console", soft_wrap=True)
    if as_json:
        print(json.dumps(found))


def _run(
    place: Home, name: ScenarioName, mode: Literal["ab", "interleaving"], seed: int, again: int,
    restart: float | None,
) -> dict[str, Any]:  # fmt: skip
    from features.logs.experiments import ExperimentStore
    from flows.experiments import read_out_experiment
    from flows.registry.lifecycle import start
    from flows.runtime.settings import CHAMPION, MODEL_NAME
    from hymirec.simulation.crowd import Crowd
    from hymirec.simulation.scenarios import NAME, SCENARIOS
    from serving.simulation.report import false_alarms, report
    from serving.simulation.run import Simulation
    from serving.simulation.stage import set_stage

    # Each step is told below, of all that is decided.
    for logger in ("flows.experiments", "serving.experiments"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("serving.answering").setLevel(logging.CRITICAL)  # injected errors
    scenario = SCENARIOS[name]
    out.print(f"[bold]{name}[/] {scenario.says}", soft_wrap=True)
    crowd = Crowd.make(scenario.num_users, seed)
    skills = [scenario.champion, scenario.challenger]
    set_stage(place, crowd, skills, MODEL_NAME, CHAMPION)

    def read_out(experiment: str, clock: Callable[[], float]) -> dict[str, Any]:
        return read_out_experiment(place, experiment, clock=clock).to_json()

    simulation = Simulation(
        place, crowd, scenario, mode, model=MODEL_NAME, alias=CHAMPION, read_out=read_out,
        seed=seed, restart_on_day=restart, on_step=_tell,
    )  # fmt: skip
    store = ExperimentStore(place, clock=simulation.calendar)
    store.create(scenario.experiment(mode))
    store.close()
    start(place, NAME, reason="the simulation begins", clock=simulation.calendar)
    stored = asyncio.run(simulation.run())
    found: dict[str, Any] = {"scenario": name, "mode": mode, "expected": scenario.verdict}
    found |= report(simulation, stored)
    if again:
        found["again"] = false_alarms(simulation, again)
    return found


@contextlib.contextmanager
def _home(keep: Path | None) -> Iterator[Home]:
    """A home of its own; removed afterwards if it is not to be kept."""
    if keep is not None:
        yield configured(keep)
        return
    with tempfile.TemporaryDirectory(prefix="hymirec-simulate-") as directory:
        yield configured(Path(directory) / "home")


def _tell(day: float, found: dict[str, Any]) -> None:
    users = sum(found["readout"]["exposed"]["counts"].values())
    line = f"day {day:4.1f}  {users:5d} users  {found['action'].replace('_', ' ')}: "
    out.print(escape(line + found["reason"]), soft_wrap=True, highlight=False)


def _show(found: dict[str, Any]) -> None:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{value:+.1%}"

    low, high = found["interval"]
    what = "lift" if found["mode"] == "ab" else "preference"
    right = "as it should be" if found["verdict"] == found["expected"] else (
        f"expected: {found['expected']}"
    )  # fmt: skip
    out.print(
        f"[bold]{found['verdict'].replace('_', ' ')}[/] ({right}): {escape(found['reason'])}",
        soft_wrap=True,
    )
    out.print(
        f"{what} {percent(found['estimate'])} ({percent(low)} to {percent(high)}); the true lift "
        f"is {percent(found['true_lift'])}", soft_wrap=True,
    )  # fmt: skip
    out.print(
        f"{found['users']} users in {found['days']:g} simulated days, {found['lists']} lists; "
        f"the challenger met {found['challenged_users']}, "
        f"{found['challenged_of_full_exposure']:.2%} of full exposure; exposures lost "
        f"{found['lost_exposures']}, users moved {found['moved_users']}", soft_wrap=True,
    )  # fmt: skip
    if again := found.get("again"):
        out.print(
            f"split anew {again['experiments']} times: {again['false_alarms']} false alarms at "
            f"{again['looks']} looks each, {again['false_alarm_rate']:.1%} (at most "
            f"{again['nominal_rate']:.0%})", soft_wrap=True,
        )  # fmt: skip
